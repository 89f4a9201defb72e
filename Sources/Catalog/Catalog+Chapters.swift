import ArchiveCore
import Pack
import Store

extension Catalog {
    private func prefix(_ i: IncarnationRecord, _ branch: UInt32) -> String { "chapters/\(i.source)/\(i.id)/\(hex(UInt64(branch), 8))/" }

    /// Stores a chapter. One that is there under the same name covers the same pieces and stays.
    public func record(_ chapter: Chapter, of i: IncarnationRecord) async throws {
        var object: [UInt8] = []
        try Zstd.compress(chapter.encoded(), level: 3, into: &object)
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
        return try await store.list(prefix: prefix, after: after, limit: limit).compactMap {
            ChapterName(path: String($0.key.path.dropFirst(prefix.utf8.count - 9)))
        }
    }

    public func chapter(_ name: ChapterName, of i: IncarnationRecord) async throws -> Chapter {
        let key = ObjectKey(known: "chapters/\(i.source)/\(i.id)/\(name.path)")
        let object = try await store.get(key)
        do {
            let chapter = try Chapter(decoding: try Zstd.decompress(object[...], limit: 1 << 32), branch: name.branch)
            guard chapter.pieces.first?.name.name == name.first, chapter.pieces.last?.name.name == name.last else {
                throw WireError(offset: 0, reason: "it does not cover what its name says")
            }
            return chapter
        } catch let error as WireError {
            throw ArchiveError(
                .objectDamaged, "The chapter '\(key)' is damaged: \(error).",
                remedy: "Remove that one object: the indexes of the pieces say the same, and the agent writes it anew when it starts.")
        }
    }

    /// The last chapter of a branch; `nil` when there is none.
    public func lastChapter(of i: IncarnationRecord, branch: UInt32) async throws -> ChapterName? {
        var last: ChapterName?
        while true {
            let page = try await chapters(of: i, branch: branch, behind: last)
            guard let end = page.last else { return last }
            last = end
        }
    }

    /// Those of `names` whose content or index is not in the archive.
    ///
    /// - Parameter names: closed pieces and tails, in log order.
    public func missing(_ names: [PieceName], of i: IncarnationRecord) async throws -> Set<PieceName> {
        var missing: Set<PieceName> = []
        var rest = names[...]
        while let first = rest.first {
            let prefix = "log/\(i.source)/\(i.id)/\(hex(UInt64(first.branch), 8))/"
            var last = "log/\(i.source)/\(i.id)/\(first)"
            // Keys not yet looked for: those of the last page, and of the one before where a piece's two objects lie in both.
            var present: Set<String> = []
            var isListed = false
            while let name = rest.first, name.branch == first.branch {
                let data = "log/\(i.source)/\(i.id)/\(name).\(name.suffix)"
                let index = data + ".idx"
                if !isListed, last.utf8.lexicographicallyPrecedes(index.utf8) {
                    present = present.filter { !$0.utf8.lexicographicallyPrecedes(data.utf8) }
                    let page = try await store.list(prefix: prefix, after: last, limit: 4096)
                    for object in page { present.insert(object.key.path) }
                    isListed = page.count < 4096
                    last = page.last?.key.path ?? last
                    continue
                }
                if !present.contains(data) || !present.contains(index) { missing.insert(name) }
                rest.removeFirst()
            }
        }
        return missing
    }
}

/// Collects closed pieces into chapters, in log order. Pure: whoever adds a piece stores the chapters that it closes.
public struct ChapterKeeper: Sendable {
    private var pieces: [PieceSummary] = []
    private var spans = 0
    private var totals: LogTotals
    private let maximumPieces: Int

    /// - Parameters:
    ///   - totals: of the incarnation up to the first piece that will be added.
    ///   - maximumPieces: after which a chapter is closed.
    public init(totals: LogTotals = LogTotals(), maximumPieces: Int = Chapter.maximumPieces) {
        self.totals = totals
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

    private mutating func close() -> [Chapter] {
        defer {
            pieces = []
            spans = 0
        }
        return pieces.last.map { [Chapter(branch: $0.name.branch, pieces: pieces, totals: totals)] } ?? []
    }
}

extension Catalog {
    /// Branches of which anything is archived, ascending.
    public func archivedBranches(of i: IncarnationRecord) async throws -> [UInt32] {
        try await store.folders(below: "log/\(i.source)/\(i.id)/").compactMap { UInt32(hexDigits: Array($0.utf8)) }
    }

    /// Takes up the chapters where they end, and stores those that a killed agent left out.
    ///
    /// - Parameter maximumPieces: see `ChapterKeeper.init`.
    public func resumeChapters(of i: IncarnationRecord, maximumPieces: Int = Chapter.maximumPieces) async throws -> ChapterKeeper {
        var totals = LogTotals()
        var pieces: [PieceSummary] = []
        for branch in try await archivedBranches(of: i) {
            let last = try await lastChapter(of: i, branch: branch)
            // What an older branch has left over counts before this branch's own chapters.
            for piece in pieces where last != nil { totals += piece.totals }
            if let last { totals = try await chapter(last, of: i).totals }
            pieces = last == nil ? pieces : []
            pieces += try await summaries(of: i, branch: branch, after: last?.last).filter { $0.name.part == nil }
        }
        var keeper = ChapterKeeper(totals: totals, maximumPieces: maximumPieces)
        for piece in pieces { for chapter in keeper.add(piece) { try await record(chapter, of: i) } }
        return keeper
    }

    /// Pieces of one branch behind the closed piece `last`, from their indexes.
    ///
    /// - Parameter first: the first piece that is wanted, where it is later.
    public func summaries(of i: IncarnationRecord, branch: UInt32, after last: String?, from first: String? = nil) async throws -> [PieceSummary] {
        var result: [PieceSummary] = []
        let begin = [last, first].compactMap { $0 }.max() ?? "0000"
        try await forEachPiece(of: i, from: PieceName(branch: branch, name: begin), only: branch) { name, index in
            if name.name == last { return true }
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
    public func indexes(ofPiecesNamed name: PieceName, of i: IncarnationRecord) async throws -> [PieceIndex] {
        // Tails may be replaced by their closed piece in between.
        do { return try await indexesNow(name, of: i) } catch let error as ArchiveError where error.code == .objectMissing {
            return try await indexesNow(name, of: i)
        }
    }

    private func indexesNow(_ name: PieceName, of i: IncarnationRecord) async throws -> [PieceIndex] {
        let prefix = "log/\(i.source)/\(i.id)/"
        let names = try await store.listAll(prefix: "\(prefix)\(name)").filter { $0.key.path.hasSuffix(".idx") }.compactMap {
            PieceName(path: String($0.key.path.dropFirst(prefix.utf8.count).dropLast(4)))
        }
        if let closed = names.first(where: { $0.part == nil }) { return [try await index(of: closed, of: i)] }
        var indexes: [PieceIndex] = []
        for tail in names { indexes.append(try await index(of: tail, of: i)) }
        return indexes
    }
}
