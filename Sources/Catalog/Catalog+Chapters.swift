import ArchiveCore
import Pack
import Store

extension Catalog {
    private func prefix(_ i: IncarnationRecord, _ branch: UInt32) -> String { "chapters/\(i.source)/\(i.id)/\(hex(UInt64(branch), 8))/" }

    /// Stores a chapter. One that is there under the same name covers the same pieces and stays.
    public func record(_ chapter: Chapter, of i: IncarnationRecord) async throws {
        var object: [UInt8] = []
        try Zstd.compress((isEncrypted ? chapter.withoutNames : chapter).encoded(), level: 3, into: &object)
        do { try await store.put(object, at: ObjectKey(known: "chapters/\(i.source)/\(i.id)/\(chapter.name.path)")) } catch let error as ArchiveError
            where error.code == .objectExists
        {
            // Written by an earlier run of the agent, in other bytes.
        }
    }

    /// One page of a branch's chapters in log order, from the one that holds or follows the piece `first`, or behind `last`.
    public func chapters(
        of i: IncarnationRecord, branch: UInt32, from first: String? = nil, behind last: ChapterName? = nil, limit: Int = 1024
    ) async throws -> [ChapterName] {
        let prefix = prefix(i, branch)
        // A chapter's key begins with its last piece: everything that ends before `first` sorts before it.
        let after = last.map { "chapters/\(i.source)/\(i.id)/\($0.path)" } ?? first.map { prefix + $0 }
        return try await chapters(of: i, branch: branch, after: after, limit: limit)
    }

    private func chapters(of i: IncarnationRecord, branch: UInt32, after: String?, limit: Int) async throws -> [ChapterName] {
        let prefix = prefix(i, branch)
        return try await store.keys(prefix: prefix, after: after, limit: limit).compactMap {
            ChapterName(path: String($0.path.dropFirst(prefix.utf8.count - 9)))
        }
    }

    public func chapter(_ name: ChapterName, of i: IncarnationRecord) async throws -> Chapter {
        let key = ObjectKey(known: "chapters/\(i.source)/\(i.id)/\(name.path)")
        return try await store.read(key) { object in
            do {
                let chapter = try Chapter(decoding: try Zstd.decompress(object[...], limit: 1 << 32), branch: name.branch)
                guard chapter.pieces.first?.name.name == name.first, chapter.pieces.last?.name.name == name.last else {
                    throw WireError(offset: 0, reason: "it does not cover what its name says")
                }
                return chapter
            } catch let error as WireError {
                throw ArchiveError(
                    .objectDamaged, "The chapter '\(key)' is damaged: \(error).",
                    remedy: "`tidemark verify --reindex` writes it anew from the indexes of its pieces.")
            }
        }
    }

    /// The last chapter of a branch; `nil` when there is none.
    ///
    /// Lists a few pages, however many there are: names are numbers in hexadecimal, so that the end can be searched for.
    ///
    /// - Parameter limit: chapters in a page.
    public func lastChapter(of i: IncarnationRecord, branch: UInt32, limit: Int = 1024) async throws -> ChapterName? {
        var page = try await chapters(of: i, branch: branch, limit: limit)
        guard var last = page.last, let first = page.first, page.count == limit else { return page.last }
        // The end lies behind `low`, and before `high` once that is known.
        if var low = UInt128(last.last, radix: 16), let beginning = UInt128(first.last, radix: 16), low > beginning {
            let width = last.last.utf8.count
            let step = low - beginning
            var reach = step
            var high: UInt128?
            while high.map({ $0 - low > step }) ?? true {
                let probe = high.map { low + ($0 - low) / 2 } ?? low.addingReportingOverflow(reach).partialValue
                let digits = String(probe, radix: 16, uppercase: true)
                guard probe > low, digits.utf8.count <= width else {
                    // Nothing can be named behind the highest number of that width.
                    high = width < 32 ? (1 as UInt128) << UInt128(4 * width) : .max
                    continue
                }
                page = try await chapters(
                    of: i, branch: branch, after: prefix(i, branch) + String(repeating: "0", count: width - digits.utf8.count) + digits, limit: limit)
                guard let end = page.last else {
                    high = probe
                    continue
                }
                last = end
                if page.count < limit { return end }
                guard let reached = UInt128(end.last, radix: 16), reached > low, high.map({ reached < $0 }) ?? true else { break }
                low = reached
                reach *= 2
            }
        }
        while true {
            page = try await chapters(of: i, branch: branch, behind: last, limit: limit)
            guard let end = page.last else { return last }
            last = end
            if page.count < limit { return end }
        }
    }

    /// The chapter right before one; `nil` when there is none, or it is missing.
    public func chapter(before chapter: Chapter, of i: IncarnationRecord) async throws -> Chapter? {
        guard !chapter.previous.isEmpty else { return nil }
        let prefix = prefix(i, chapter.branch)
        guard let key = try await store.list(prefix: "\(prefix)\(chapter.previous)-", after: nil, limit: 1).first?.key,
            let name = ChapterName(path: String(key.path.dropFirst(prefix.utf8.count - 9)))
        else { return nil }
        return try await self.chapter(name, of: i)
    }

    /// Those of `names` whose content or index is not in the archive.
    ///
    /// - Parameter names: closed pieces and tails, in log order.
    public func missing(_ names: [PieceName], of i: IncarnationRecord) async throws -> Set<PieceName> {
        var missing: Set<PieceName> = []
        var listed: ArraySlice<ObjectKey> = []
        var branch: UInt32?
        var prefix = ""
        var isAtEnd = false
        var asked = ""
        /// Whether an object is there: goes on in the listing up to its key. Keys are ASCII, so text order is byte order.
        func isThere(_ key: String) async throws -> Bool {
            if key < asked {
                listed = []
                isAtEnd = false
            }
            asked = key
            while true {
                while let next = listed.first?.path, next < key { listed.removeFirst() }
                if let next = listed.first?.path { return next == key }
                if isAtEnd { return false }
                // What begins with the key, itself first, comes behind the key less its last character.
                listed = try await store.keys(prefix: prefix, after: String(key.dropLast()), limit: Self.namesInPage)[...]
                isAtEnd = listed.count < Self.namesInPage
            }
        }
        for (number, name) in names.enumerated() {
            if number % 1024 == 0 { try Task.checkCancellation() }
            if name.branch != branch {
                branch = name.branch
                prefix = "log/\(i.source)/\(i.id)/\(hex(UInt64(name.branch), 8))/"
                listed = []
                isAtEnd = false
            }
            let data = (name.part == nil ? prefix + name.name.dropLast(3) + "/" + name.name + "." + name.suffix : "log/\(i.source)/\(i.id)/\(name).\(name.suffix)") + sealedSuffix
            // Both are asked for: the second lies right behind the first.
            let isStored = try await isThere(data)
            if try await !isThere(data + ".idx") || !isStored { missing.insert(name) }
        }
        return missing
    }

    /// Names that are listed at a time to see whether pieces are there.
    private static let namesInPage = 16384
}

/// Collects closed pieces into chapters, in log order. Pure: whoever adds a piece stores the chapters that it closes.
public struct ChapterKeeper: Sendable {
    private var pieces: [PieceSummary] = []
    private var spans = 0
    private var totals: LogTotals
    /// The last chapter's branch and last piece.
    private var previous: (branch: UInt32, piece: String)?
    private let maximumPieces: Int

    /// - Parameters:
    ///   - totals: of the incarnation up to the first piece that will be added.
    ///   - previous: the chapter before it; `nil`: there is none.
    ///   - maximumPieces: after which a chapter is closed.
    public init(totals: LogTotals = LogTotals(), previous: ChapterName? = nil, maximumPieces: Int = Chapter.maximumPieces) {
        self.totals = totals
        self.previous = previous.map { ($0.branch, $0.last) }
        self.maximumPieces = maximumPieces
    }

    /// - Returns: the chapters that are complete now.
    public mutating func add(_ piece: PieceSummary) -> [Chapter] {
        guard piece.name.part == nil else { return [] }
        // A branch that was left gets no more pieces.
        var closed = pieces.last.map { $0.name.branch != piece.name.branch } ?? false ? close() : []
        pieces.append(piece)
        piece.forEachSpan { _ in spans += 1 }
        totals += piece.totals
        if pieces.count >= maximumPieces || spans >= Chapter.maximumSpans { closed += close() }
        return closed
    }

    /// The chapter of what was collected, however little it is.
    mutating func close() -> [Chapter] {
        guard let last = pieces.last?.name else { return [] }
        let before = previous.flatMap { $0.branch == last.branch ? $0.piece : nil }
        defer {
            pieces = []
            spans = 0
            previous = (last.branch, last.name)
        }
        return [Chapter(branch: last.branch, pieces: pieces, totals: totals, previous: before ?? "")]
    }
}

extension Catalog {
    /// Branches of which anything is archived, ascending.
    public func archivedBranches(of i: IncarnationRecord) async throws -> [UInt32] {
        try await store.folders(below: "log/\(i.source)/\(i.id)/").compactMap { UInt32(hexDigits: Array($0.utf8)) }
    }

    /// Branches that have chapters, ascending; of one that an interrupted expiry removed nothing else may be left.
    public func branchesWithChapters(of i: IncarnationRecord) async throws -> [UInt32] {
        try await store.folders(below: chapterFolder(of: i)).compactMap { UInt32(hexDigits: Array($0.utf8)) }
    }

    /// Takes up the chapters where they end, and stores those that a killed agent left out.
    ///
    /// - Parameter maximumPieces: see `ChapterKeeper.init`.
    public func resumeChapters(of i: IncarnationRecord, maximumPieces: Int = Chapter.maximumPieces) async throws -> ChapterKeeper {
        var totals = LogTotals()
        var previous: ChapterName?
        var pieces: [PieceSummary] = []
        for branch in try await archivedBranches(of: i) {
            let last = try await lastReadableChapter(of: i, branch: branch)
            if let last {
                totals = last.totals
                previous = last.name
                pieces = []
            }
            pieces += try await summaries(of: i, branch: branch, after: last?.name.last).filter { $0.name.part == nil }
        }
        var keeper = ChapterKeeper(totals: totals, previous: previous, maximumPieces: maximumPieces)
        for piece in pieces { for chapter in keeper.add(piece) { try await record(chapter, of: i) } }
        return keeper
    }

    /// The last chapter of a branch. One that is damaged is removed: the indexes say the same, and it is written anew.
    private func lastReadableChapter(of i: IncarnationRecord, branch: UInt32) async throws -> Chapter? {
        while let name = try await lastChapter(of: i, branch: branch) {
            do { return try await chapter(name, of: i) } catch let error as ArchiveError where error.code == .objectDamaged {
                try await store.remove(ObjectKey(known: "chapters/\(i.source)/\(i.id)/\(name.path)"))
            }
        }
        return nil
    }

    /// Pieces of one branch behind the closed piece `last`, from their indexes.
    ///
    /// - Parameters:
    ///   - first: the first piece that is wanted, where it is later.
    ///   - end: the first piece that is no longer wanted.
    public func summaries(
        of i: IncarnationRecord, branch: UInt32, after last: String?, from first: String? = nil, before end: String? = nil
    ) async throws -> [PieceSummary] {
        var result: [PieceSummary] = []
        let begin = [last, first].compactMap { $0 }.max() ?? "0000"
        try await forEachPiece(of: i, from: PieceName(branch: branch, name: begin), only: branch) { name, index in
            if name.name == last { return true }
            if let end, name.name >= end { return false }
            let summary = PieceSummary(name, index)
            if name.part == nil { while let tail = result.last?.name, tail.part != nil, tail.name == name.name { result.removeLast() } }
            result.append(summary)
            return true
        }
        return result
    }
}

extension Catalog {
    /// The index of the closed piece of that name, or those of its tails; none when nothing of it is archived.
    public func indexes(ofPiecesNamed name: PieceName, of i: IncarnationRecord, names: NamesInIndex = .ifPossible) async throws -> [PieceIndex] {
        // Tails may be replaced by their closed piece in between.
        do { return try await indexesNow(name, of: i, names) } catch let error as ArchiveError where error.code == .objectMissing {
            return try await indexesNow(name, of: i, names)
        }
    }

    private func indexesNow(_ name: PieceName, of i: IncarnationRecord, _ names: NamesInIndex) async throws -> [PieceIndex] {
        let prefix = "log/\(i.source)/\(i.id)/"
        let found = try await store.listAll(prefix: "\(prefix)\(name)").compactMap { piece(at: String($0.key.path.dropFirst(prefix.utf8.count))) }
        let indexed = found.filter(\.isIndex).map(\.name)
        if let closed = indexed.first(where: { $0.part == nil }) { return [try await index(of: closed, of: i, names: names)] }
        var indexes: [PieceIndex] = []
        for tail in indexed { indexes.append(try await index(of: tail, of: i, names: names)) }
        return indexes
    }
}

extension Catalog {
    /// Looks whether a branch's chapters follow each other, and can be read.
    ///
    /// - Parameter repair: writes what is missing anew, from the indexes of the pieces.
    /// - Returns: for each chapter that is missing or damaged the first piece that it has to cover, and the damaged one's key.
    public func auditChapters(of i: IncarnationRecord, branch: UInt32, repair: Bool) async throws -> [(first: String, damaged: ObjectKey?)] {
        var found: [(first: String, damaged: ObjectKey?)] = []
        var last: ChapterName?
        var good: Chapter?
        var damaged: ObjectKey?
        while true {
            let page = try await chapters(of: i, branch: branch, behind: last)
            for name in page {
                try Task.checkCancellation()
                last = name
                let key = ObjectKey(known: "chapters/\(i.source)/\(i.id)/\(name.path)")
                let next: Chapter
                do { next = try await chapter(name, of: i) } catch let error as ArchiveError where error.code == .objectDamaged {
                    damaged = key
                    if repair { try await store.remove(key) }
                    continue
                }
                // The chapters before the first one may be expired, as are the pieces that they covered.
                let begins = good == nil && damaged == nil && !next.previous.isEmpty
                let isFirst = begins ? try await isExpired(PieceName(branch: branch, name: next.previous), of: i) : false
                if next.previous != good?.name.last ?? "" && !isFirst || damaged != nil {
                    found.append((name.first, damaged))
                    if repair { try await fill(i, branch, between: good, and: next) }
                }
                damaged = nil
                good = next
            }
            guard page.count == 1024 else { break }
        }
        // A damaged one at the end: what follows the last good one is read from the indexes, and the agent writes it when it starts.
        if let damaged { found.append((last?.first ?? "", damaged)) }
        return found
    }

    private func fill(_ i: IncarnationRecord, _ branch: UInt32, between good: Chapter?, and next: Chapter) async throws {
        var own = LogTotals()
        for piece in next.pieces { own += piece.totals }
        let pieces = try await summaries(of: i, branch: branch, after: good?.name.last, before: next.name.first).filter { $0.name.part == nil }
        var missing = LogTotals()
        for piece in pieces { missing += piece.totals }
        var keeper = ChapterKeeper(totals: next.totals - own - missing, previous: good?.name)
        for piece in pieces { for chapter in keeper.add(piece) { try await record(chapter, of: i) } }
        for chapter in keeper.close() { try await record(chapter, of: i) }
    }
}
