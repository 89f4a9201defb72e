import ArchiveCore
import Catalog
import Planner
import Runtime

/// Goes through the archived log of one incarnation along a path of branches, a chapter at a time: what it has read depends on how far
/// it was asked to go, not on how much there is.
public struct LogCursor: Sendable {
    private let catalog: Catalog
    private let incarnation: IncarnationRecord
    private let path: BranchPath
    private var branches: ArraySlice<UInt32>
    /// The first piece that is wanted, on the first branch.
    private var first: String?
    private var page: ArraySlice<ChapterName> = []
    private var last: ChapterName?
    private var isPaged = false
    /// Chapters that were read ahead, in the page's order.
    private var ahead: [ChapterName: Result<Chapter, ArchiveError>] = [:]
    private var pending: ArraySlice<PieceSummary> = []
    /// Of the incarnation up to the last piece given out, where chapters told it.
    public private(set) var totals: LogTotals?
    /// Whether the pieces that come next are behind the last chapter of their branch.
    public private(set) var isBehindChapters = false

    /// - Parameter first: the name of the first piece, on the path's first branch; `nil`: from the beginning.
    public init(catalog: Catalog, incarnation: IncarnationRecord, path: BranchPath, from first: String?) {
        self.catalog = catalog
        self.incarnation = incarnation
        self.path = path
        self.first = first
        branches = path.branches[...]
        totals = first == nil ? LogTotals() : nil
    }

    /// The next piece in log order; `nil` at the end of the archive.
    public mutating func next() async throws -> PieceSummary? {
        while true {
            if let piece = pending.popFirst() {
                totals? += piece.totals
                if let first, piece.name.name < first { continue }
                first = nil
                let end = path.end(of: piece.name.branch) ?? 0
                // Behind the end of its branch only other branches go on.
                if let start = piece.firstSpan?.start, start >= end {
                    leaveBranch()
                    continue
                }
                return piece
            }
            guard let branch = branches.first else { return nil }
            if isBehindChapters {
                leaveBranch()
            } else if let name = page.first {
                if ahead[name] == nil { try await readAhead() }
                page = page.dropFirst()
                let before = last
                last = name
                pending = try await pieces(of: name, behind: before)[...]
            } else if !isPaged {
                let names = try await catalog.chapters(of: incarnation, branch: branch, from: first, behind: last)
                isPaged = names.count < 1024
                page = names[...]
            } else {
                isBehindChapters = true
                // Names before the first wanted one sort before it.
                let begin = last?.last
                pending = try await catalog.summaries(of: incarnation, branch: branch, after: begin, from: first)[...]
            }
        }
    }

    /// Reads the next chapters of the page side by side.
    private mutating func readAhead() async throws {
        let (catalog, incarnation) = (catalog, incarnation)
        try await inOrder(page.prefix(catalog.store.parallelism), width: catalog.store.parallelism) { name -> Result<Chapter, ArchiveError> in
            do { return .success(try await catalog.chapter(name, of: incarnation)) } catch let error as ArchiveError
                where error.code == .objectDamaged || error.code == .objectMissing
            {
                return .failure(error)
            }
        } visit: { name, chapter in
            ahead[name] = chapter
            return true
        }
    }

    /// The pieces of a chapter, and those before it that no chapter has; from their indexes where it cannot be read.
    private mutating func pieces(of name: ChapterName, behind before: ChapterName?) async throws -> [PieceSummary] {
        guard let read = ahead.removeValue(forKey: name), case .success(let chapter) = read else {
            totals = nil
            return try await catalog.summaries(of: incarnation, branch: name.branch, after: before?.last, from: first).filter { $0.name.name <= name.last }
        }
        let isFirst = totals == nil
        if isFirst {
            var own = LogTotals()
            for piece in chapter.pieces { own += piece.totals }
            totals = chapter.totals - own
        }
        // The first chapter that is read holds the first piece that is wanted, or nothing comes before it.
        let joinsOn = before.map { chapter.previous == $0.last } ?? (chapter.previous.isEmpty || first.map { name.first <= $0 || chapter.previous < $0 } ?? false)
        guard !joinsOn else { return chapter.pieces }
        var missing = try await catalog.summaries(of: incarnation, branch: name.branch, after: before?.last, from: first, before: name.first)
        missing.removeAll { $0.name.part != nil }
        // Their numbers are in the chapter's totals already.
        if isFirst { for piece in missing { totals = totals.map { $0 - piece.totals } } }
        return missing + chapter.pieces
    }

    private mutating func leaveBranch() {
        branches.removeFirst()
        pending = []
        page = []
        last = nil
        isPaged = false
        isBehindChapters = false
        first = nil
    }
}
