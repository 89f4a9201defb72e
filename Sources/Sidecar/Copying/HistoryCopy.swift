import ArchiveCore
import Catalog
import Store

/// Keeps the log of one history in a copy level with the primary's, in an order in which the copy is a whole archive at every moment:
/// records of branches and gaps before the log that needs them, content before its index, indexes in log order, and chapters, checkpoints and
/// the watermark only when everything that they speak of is there. Only what counts as archived in the primary is copied.
actor HistoryCopy {
    /// A piece that could not be copied, since the primary has it damaged or incomplete.
    private struct Hole {
        var name: PieceName
        /// Whether a base that the copy has begins behind it.
        var isPassed = false
    }
    /// How a round ended.
    enum Outcome: Sendable {
        /// The copy has everything that the primary had when the round began.
        case level
        /// The same, but for what the primary has damaged.
        case lessDamaged
        /// The primary replaced what was being read: the next round goes on.
        case overtaken
    }
    /// What the primary says of its log, taken before the log is listed.
    private struct Heads {
        var watermark: ObjectKey?
        var checkpoints: [ObjectKey] = []
        var chapters: [ObjectKey] = []
    }

    nonisolated let incarnation: IncarnationRecord
    private let target: CopyTarget
    private let page: Int

    /// The last closed piece that was looked at; the copy has everything up to it but for `holes`.
    private var position: PieceName?
    private var hasPosition = false
    /// Keys that the copy has behind `position`; `nil`: not known.
    private var known: Set<String>?
    private var holes: [Hole] = []
    private var lastChapter: String?
    private var copiedWatermark: ObjectKey?
    private var copiedCheckpoint: ObjectKey?
    /// Whether closed pieces were copied since chapters and checkpoints were last looked for.
    private var mayHaveHeads = true
    private var isRecorded = false

    /// Pieces that could not be copied, after which a source is given up until the next start.
    private static let maximumHoles = 1000
    /// Times that the log is listed anew in a round since tails were replaced meanwhile.
    private static let attempts = 10

    /// - Parameter page: names that are listed at a time.
    init(_ incarnation: IncarnationRecord, target: CopyTarget, page: Int = 1024) {
        self.incarnation = incarnation
        self.target = target
        self.page = page
    }

    private var folder: String { target.primary.logFolder(of: incarnation) }

    /// Looks once at the primary and copies what is new.
    ///
    /// - Parameter thoroughly: also looks for what changes seldom, and again at what could not be copied.
    @discardableResult
    func round(thoroughly: Bool) async throws -> Outcome {
        do { return try await goRound(thoroughly) } catch {
            // What the copy has is not known any more, and what was to be copied last is looked for again.
            known = nil
            mayHaveHeads = true
            throw error
        }
    }

    private func goRound(_ thoroughly: Bool) async throws -> Outcome {
        if !isRecorded {
            guard try await target.copyRecord(target.primary.recordKey(of: incarnation)) else { return .lessDamaged }
            isRecorded = true
        }
        if !hasPosition {
            position = try await target.copy.checkpointedPiece(of: incarnation)
            hasPosition = true
        }
        if thoroughly { mayHaveHeads = true }
        let heads = try await heads()
        var lacking: Set<PieceName> = []
        for attempt in 0..<Self.attempts {
            lacking = try await pass(lacking, withRecords: thoroughly || attempt > 0)
            if lacking.isEmpty { break }
        }
        guard lacking.isEmpty else {
            mayHaveHeads = true
            for tail in lacking { try await reportLost(tail) }
            return .overtaken
        }
        if thoroughly, !holes.isEmpty { try await retryHoles() }
        let before = holes.count
        try await copyHeads(heads)
        if holes.count > before {
            // A chapter speaks of pieces that were passed over.
            try await retryHoles()
            try await copyHeads(heads)
        }
        return holes.isEmpty ? .level : .lessDamaged
    }

    // MARK: The log

    /// Copies everything behind `position`.
    ///
    /// - Parameter before: tails that an earlier pass met and that were gone when they were read.
    /// - Returns: those and others like them whose closed piece was not met: it is there when the log is listed again.
    private func pass(_ before: Set<PieceName>, withRecords: Bool) async throws -> Set<PieceName> {
        var lacking = before
        var after = position.map { folder + $0.description }
        var tails: [PieceName] = []
        // The last content of a page, whose index may be the first of the next.
        var open: PieceName?
        var behind: Set<String> = []
        while true {
            let objects = try await target.primary.store.list(prefix: folder, after: after, limit: page)
            let end = objects.count < page ? nil : objects.last?.key.path
            var there: Set<String>
            if let known { there = known } else { there = try await copied(after: after, through: end) }
            let names = countedPieces(objects.map(\.key.path), &open)
            let sizes = Dictionary(objects.map { ($0.key.path, Int(clamping: $0.size)) }, uniquingKeysWith: { a, _ in a })
            let new = names.contains { !isThere($0, there) }
            // Listed after the log, so that whatever it needs is among them.
            if new || withRecords { try await copyRecords() }
            for tail in Set(there.compactMap { piece($0)?.name }.filter { $0.part != nil }) where !tails.contains(tail) { tails.append(tail) }
            try await copy(names, sizes, &there, &tails, &lacking)
            // What lies behind the last closed piece is all that the next pass looks at.
            let last = position.map { folder + $0.description } ?? ""
            behind = behind.union(there).filter { last.utf8.lexicographicallyPrecedes($0.utf8) }
            guard let end else {
                known = behind
                return lacking
            }
            after = end
        }
    }

    /// Pieces of a page that count as archived: those with an index, and those that must have had one, since later pieces have theirs.
    private func countedPieces(_ page: [String], _ open: inout PieceName?) -> [PieceName] {
        var names: [PieceName] = []
        var indexed: Set<PieceName> = []
        if let open { names.append(open) }
        for path in page {
            guard let (name, isIndex) = piece(path) else { continue }
            if names.last != name { names.append(name) }
            if isIndex { indexed.insert(name) }
        }
        open = names.last.flatMap { indexed.contains($0) ? nil : $0 }
        guard let last = names.lastIndex(where: { indexed.contains($0) }) else { return [] }
        let closed = Set(indexed.filter { $0.part == nil }.map { "\($0)" })
        // What a killed agent left of a tail needs nothing once its piece is closed.
        return names[...last].filter { indexed.contains($0) || $0.part == nil || !closed.contains("\(PieceName(branch: $0.branch, name: $0.name))") }
    }

    /// Keys that the copy has in a stretch of the log.
    private func copied(after: String?, through end: String?) async throws -> Set<String> {
        var found: Set<String> = []
        var after = after
        while true {
            let keys = try await target.copy.store.keys(prefix: folder, after: after, limit: page)
            for key in keys where end.map({ !$0.utf8.lexicographicallyPrecedes(key.path.utf8) }) ?? true { found.insert(key.path) }
            guard keys.count == page, let last = keys.last?.path, end.map({ last.utf8.lexicographicallyPrecedes($0.utf8) }) ?? true else { return found }
            after = last
        }
    }

    /// The piece that an object of the log belongs to; `nil` for anything else.
    private func piece(_ path: String) -> (name: PieceName, isIndex: Bool)? {
        path.hasPrefix(folder) ? target.primary.piece(at: String(path.dropFirst(folder.utf8.count))) : nil
    }
    private func dataKey(_ name: PieceName) -> ObjectKey { target.primary.dataKey(name, of: incarnation) }
    private func indexKey(_ name: PieceName) -> ObjectKey { ObjectKey(known: dataKey(name).path + ".idx") }
    private func isThere(_ name: PieceName, _ there: Set<String>) -> Bool { there.contains(dataKey(name).path) && there.contains(indexKey(name).path) }

    private func copyRecords() async throws {
        for folder in target.primary.recordFolders(of: incarnation) {
            let there = Set(try await target.copy.store.listAll(prefix: folder).map(\.key))
            for object in try await target.primary.store.listAll(prefix: folder) where !there.contains(object.key) { try await target.copyRecord(object.key) }
        }
    }

    private enum Fetched: Sendable {
        /// The copy has the content; the index is still to be put.
        case index([UInt8])
        case isThere
        /// A tail that was replaced, and a piece that was expired, in the primary.
        case isGone, isExpired
        case damaged(ArchiveError)
    }

    /// Contents go side by side; indexes follow in log order.
    private func copy(
        _ names: [PieceName], _ sizes: [String: Int], _ there: inout Set<String>, _ tails: inout [PieceName], _ lacking: inout Set<PieceName>
    ) async throws {
        let width = max(1, target.copy.store.parallelism)
        let have = there
        try await withThrowingTaskGroup(of: (Int, Fetched).self) { group in
            var next = 0
            var done = 0
            var arrived: [Int: Fetched] = [:]
            while done < names.count {
                // What has arrived and waits for its turn counts too: it is held in memory.
                while next < names.count, next < done + 4 * width {
                    let (n, name) = (next, names[next])
                    next += 1
                    if isThere(name, have) {
                        arrived[n] = .isThere
                    } else {
                        let size = sizes[dataKey(name).path] ?? CopyTarget.memory / 4
                        group.addTask { (n, try await self.fetch(name, size)) }
                    }
                }
                while let fetched = arrived.removeValue(forKey: done) {
                    try await settle(names[done], fetched, &there, &tails, &lacking)
                    done += 1
                }
                if done < names.count, arrived[done] == nil, done < next, let (n, fetched) = try await group.next() { arrived[n] = fetched }
            }
        }
    }

    private nonisolated func fetch(_ name: PieceName, _ size: Int) async throws -> Fetched {
        try await target.limit.run(size) {
            let stored: (content: [UInt8], index: [UInt8])
            do { stored = try await target.primary.stored(name, of: incarnation) } catch let error as ArchiveError where error.code == .objectMissing {
                // A tail is removed when its piece is closed, a closed piece when nothing needs the log any more.
                if try await target.primary.isExpired(name, of: incarnation) { return .isExpired }
                return name.part != nil ? .isGone : .damaged(error)
            } catch let error as ArchiveError where CopyTarget.isDamage(error) {
                return .damaged(error)
            }
            try await target.put(stored.content, at: target.primary.dataKey(name, of: incarnation))
            return .index(stored.index)
        }
    }

    private func settle(
        _ name: PieceName, _ fetched: Fetched, _ there: inout Set<String>, _ tails: inout [PieceName], _ lacking: inout Set<PieceName>
    ) async throws {
        switch fetched {
        case .isThere, .isExpired: break
        case .index(let index):
            try await target.put(index, at: indexKey(name))
            there.formUnion([dataKey(name).path, indexKey(name).path])
            if name.part != nil, !tails.contains(name) { tails.append(name) }
            if name.part == nil { mayHaveHeads = true }
        case .isGone: lacking.insert(name)
        case .damaged(let error): try await addHole(name, error)
        }
        guard name.part == nil else { return }
        if case .damaged = fetched {} else {
            if holes.contains(where: { $0.name.branch == name.branch && $0.name.name == name.name }) {
                holes.removeAll { $0.name.branch == name.branch && $0.name.name == name.name }
                lastChapter = nil
            }
            // As in the primary: what a closed piece holds needs no tails.
            for tail in tails where tail.branch == name.branch && tail.name == name.name {
                try await target.remove(indexKey(tail))
                try await target.remove(dataKey(tail))
                there.subtract([dataKey(tail).path, indexKey(tail).path])
            }
        }
        tails.removeAll { $0.branch < name.branch || $0.branch == name.branch && $0.name <= name.name }
        lacking = lacking.filter { $0.branch > name.branch || $0.branch == name.branch && $0.name > name.name }
        position = name
    }

    // MARK: What the primary has damaged

    /// A tail that is gone while its index is there was not replaced.
    private func reportLost(_ tail: PieceName) async throws {
        do { _ = try await target.primary.index(of: tail, of: incarnation) } catch let error as ArchiveError where error.code == .objectMissing { return }
        target.report(
            dataKey(tail).path, ArchiveError(.objectMissing, "'\(dataKey(tail))' is missing in \(target.primary.store.description), and its index is there."),
            "The copy at \(target.copy.store.description) waits for the segment to be closed.")
    }

    private func addHole(_ name: PieceName, _ error: ArchiveError) async throws {
        target.report(dataKey(name).path, error, "The copy at \(target.copy.store.description) goes on without it, and tries again.")
        guard !holes.contains(where: { $0.name == name }) else { return }
        guard holes.count < Self.maximumHoles else {
            throw ArchiveError(
                .archiveDamaged, "More than \(Self.maximumHoles) pieces of the log of '\(incarnation.source)' cannot be copied from \(target.primary.store.description).",
                remedy: "Run `tidemark verify --contents` on it.", cause: error)
        }
        holes.append(Hole(name: name))
    }

    /// Tries again what could not be copied, and looks whether a base of the copy has left it behind.
    private func retryHoles() async throws {
        for hole in holes {
            switch try await fetch(hole.name, CopyTarget.memory / 4) {
            case .index(let index):
                try await target.put(index, at: indexKey(hole.name))
                known = nil
                mayHaveHeads = true
                holes.removeAll { $0.name == hole.name }
                lastChapter = nil
                target.info("'\(dataKey(hole.name))' can be read again and was copied")
            case .isExpired: holes.removeAll { $0.name == hole.name }
            // A tail that is gone was closed: the next round meets the closed piece.
            case .isGone, .damaged, .isThere: break
            }
        }
        guard !holes.isEmpty else { return }
        let bases = try await target.copy.bases(of: incarnation)
        for i in holes.indices {
            let name = holes[i].name
            holes[i].isPassed = bases.contains { base in
                guard let first = base.firstPiece else { return false }
                return base.branch > name.branch || base.branch == name.branch && first > name.name
            }
        }
    }

    // MARK: Chapters, checkpoints, the watermark

    private func heads() async throws -> Heads {
        var heads = Heads()
        heads.watermark = try await target.primary.store.keys(prefix: target.primary.watermarkFolder(of: incarnation), after: copiedWatermark?.path, limit: 1024).last
        guard mayHaveHeads else { return heads }
        heads.checkpoints = try await target.primary.store.listAll(prefix: target.primary.checkpointFolder(of: incarnation)).map(\.key)
        heads.chapters = try await target.primary.store.listAll(prefix: target.primary.chapterFolder(of: incarnation), after: lastChapter).map(\.key)
        mayHaveHeads = false
        return heads
    }

    private func copyHeads(_ heads: Heads) async throws {
        try await copyChapters(heads.chapters)
        if holes.isEmpty, let newest = heads.checkpoints.last, newest != copiedCheckpoint, try await target.copyRecord(newest) {
            copiedCheckpoint = newest
            let kept = Set(heads.checkpoints)
            for old in try await target.copy.store.listAll(prefix: target.copy.checkpointFolder(of: incarnation)).map(\.key) where !kept.contains(old) && old < newest {
                try await target.remove(old)
            }
        }
        if holes.allSatisfy(\.isPassed), let newest = heads.watermark, newest != copiedWatermark, try await target.copyRecord(newest) {
            let older = try await target.copy.store.keys(prefix: target.copy.watermarkFolder(of: incarnation), after: nil, limit: 1024)
            for old in older where old < newest { try await target.remove(old) }
            copiedWatermark = newest
        }
    }

    /// A chapter speaks of the pieces between its first and its last: one with a hole among them would promise what is not there.
    private func copyChapters(_ keys: [ObjectKey]) async throws {
        guard !keys.isEmpty else { return }
        let folder = target.primary.chapterFolder(of: incarnation)
        let there = Set(try await target.copy.store.listAll(prefix: folder, after: lastChapter).map(\.key))
        var isComplete = true
        for key in keys {
            if !there.contains(key), let name = ChapterName(path: String(key.path.dropFirst(folder.utf8.count))), try await !copyChapter(name, key) { isComplete = false }
            // The first that is left out is looked at again.
            if isComplete { lastChapter = key.path }
        }
    }

    /// - Returns: whether the copy has it now.
    private func copyChapter(_ name: ChapterName, _ key: ObjectKey) async throws -> Bool {
        do {
            let (bytes, chapter) = try await target.primary.stored(name, of: incarnation)
            var missing = try await target.copy.missing(chapter.pieces.map(\.name), of: incarnation)
            // The first of its pieces may be expired in the primary.
            for piece in missing where try await target.primary.isExpired(piece, of: incarnation) { missing.remove(piece) }
            for piece in missing.sorted(by: { $0.name < $1.name }) { try await addHole(piece, ArchiveError.objectMissing(dataKey(piece), in: target.primary.store.description)) }
            guard missing.isEmpty else { return false }
            try await target.put(bytes, at: key)
            return true
        } catch let error as ArchiveError where error.code == .objectMissing || CopyTarget.isDamage(error) {
            target.report(key.path, error, "It was not copied; the indexes say the same.")
            return false
        }
    }
}
