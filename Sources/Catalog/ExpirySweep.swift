import ArchiveCore
import Store

/// Goes through what an expiry removes, in an order in which the archive is readable at every moment: first the records of bases, so that
/// nobody begins with them, then the rest of them, then log, oldest first and each index before its content, then the chapters of that log; of
/// a history that goes as a whole its own record last. Interrupted, it is made again from the beginning.
public struct ExpirySweep: Sendable {
    public struct Amount: Sendable, Hashable {
        public var objects = 0
        public var bytes: UInt64 = 0
        public init() {}

        mutating func add(_ objects: some Sequence<ObjectInfo>) {
            for object in objects {
                self.objects += 1
                bytes += object.size
            }
        }
    }

    private let catalog: Catalog
    private let source: String
    private let isDry: Bool
    private let now: Moment
    private let page: Int
    private let progress: @Sendable (String, UInt64) -> Void
    /// Of everything, and of each base and each history's log.
    public private(set) var total = Amount()
    public private(set) var bases: [BaseReference: Amount] = [:]
    public private(set) var logs: [String: Amount] = [:]
    /// Where log stays since the store has it locked: the history and when the first of it can go.
    public private(set) var locked: [String: Moment] = [:]

    /// - Parameters:
    ///   - isDry: whether objects are only counted.
    ///   - page: names that are listed, and objects that are removed, at a time.
    public init(_ catalog: Catalog, source: String, isDry: Bool, now: Moment, page: Int = 2000, progress: @escaping @Sendable (String, UInt64) -> Void = { _, _ in }) {
        precondition(page > 2)
        self.catalog = catalog
        self.source = source
        self.isDry = isDry
        self.now = now
        self.page = page
        self.progress = progress
    }

    public mutating func run(_ expiry: ExpiryRecord) async throws {
        if !isDry {
            var records: [ObjectInfo] = []
            for base in expiry.bases {
                let key = ObjectKey(known: "bases/\(source)/\(base.incarnation)/\(base.base)/base.json")
                let found = try await catalog.store.list(prefix: key.path, after: nil, limit: 1)
                records += found
                bases[base, default: Amount()].add(found)
            }
            try await catalog.store.remove(records.map(\.key))
            total.add(records)
        }
        for base in expiry.bases where !expiry.incarnations.contains(base.incarnation) { try await remove(base) }
        for log in expiry.log { try await remove(log) }
        for incarnation in expiry.incarnations { try await remove(incarnation) }
    }

    private mutating func count(_ objects: [ObjectInfo], _ what: String) {
        total.add(objects)
        progress(what, UInt64(total.objects))
    }

    // MARK: Bases

    private mutating func remove(_ base: BaseReference) async throws {
        let prefix = "bases/\(source)/\(base.incarnation)/\(base.base)/"
        let before = total
        try await removeAll(below: prefix, "base \(base.base)")
        bases[base, default: Amount()].objects += total.objects - before.objects
        bases[base, default: Amount()].bytes += total.bytes - before.bytes
    }

    private mutating func removeAll(below prefix: String, _ what: String) async throws {
        var after: String?
        while true {
            try Task.checkCancellation()
            let objects = try await catalog.store.list(prefix: prefix, after: after, limit: page)
            if !isDry { try await catalog.store.remove(objects.map(\.key)) }
            count(objects, what)
            guard objects.count == page else { return }
            after = objects.last?.key.path
        }
    }

    // MARK: Log

    private mutating func remove(_ log: ExpiryRecord.Log) async throws {
        let prefix = "log/\(source)/\(log.incarnation)/"
        var after: String?
        var isAtEnd = false
        while !isAtEnd {
            try Task.checkCancellation()
            let listed = try await catalog.store.list(prefix: prefix + hex(UInt64(log.branch), 8) + "/", after: after, limit: page)
            isAtEnd = listed.count < page
            var doomed: [(object: ObjectInfo, isIndex: Bool)] = []
            for object in listed {
                guard let (name, isIndex) = catalog.piece(at: String(object.key.path.dropFirst(prefix.utf8.count))) else { continue }
                guard log.holds(name.name, branch: name.branch) else {
                    isAtEnd = true
                    break
                }
                doomed.append((object, isIndex))
            }
            after = listed.last?.key.path
            // Its index is the first of the next page, and goes before it.
            if !isAtEnd, let last = doomed.last, !last.isIndex, doomed.count > 1, last.object.key.path == after {
                doomed.removeLast()
                after = doomed.last?.object.key.path
            }
            if let until = try await cutAtLock(&doomed) {
                locked[log.incarnation] = max(until, locked[log.incarnation] ?? until)
                isAtEnd = true
            }
            if !isDry {
                try await catalog.store.remove(doomed.filter(\.isIndex).map(\.object.key))
                try await catalog.store.remove(doomed.filter { !$0.isIndex }.map(\.object.key))
            }
            count(doomed.map(\.object), "log of \(source)")
            logs[log.incarnation, default: Amount()].add(doomed.map(\.object))
        }
        guard locked[log.incarnation] == nil else { return }
        try await removeChapters(log)
        try await removeGaps(log)
    }

    /// Leaves what the store does not let go yet. Locks end in the order in which objects were written, which is that of the log.
    ///
    /// - Returns: when the first that is left can go; `nil`: nothing is left.
    private func cutAtLock(_ doomed: inout [(object: ObjectInfo, isIndex: Bool)]) async throws -> Moment? {
        func lock(_ n: Int) async throws -> Moment? { try await catalog.store.lockedUntil(doomed[n].object.key).flatMap { $0 > now ? $0 : nil } }
        guard let last = doomed.indices.last, var until = try await lock(last) else { return nil }
        var free = 0
        var taken = last
        while free < taken {
            let middle = (free + taken) / 2
            if let time = try await lock(middle) {
                until = time
                taken = middle
            } else {
                free = middle + 1
            }
        }
        doomed.removeSubrange(taken...)
        // Never content without its index, which would be reported as damage.
        if let last = doomed.last, !last.isIndex { doomed.removeLast() }
        return until
    }

    /// Those that speak of nothing that is left, but for the last of a branch that goes on: it has the totals with which the next begins.
    private mutating func removeChapters(_ log: ExpiryRecord.Log) async throws {
        let history = IncarnationRecord.named(log.incarnation, of: source)
        let last = log.before == nil ? nil : try await catalog.lastChapter(of: history, branch: log.branch)
        var behind: ChapterName?
        while true {
            try Task.checkCancellation()
            let names = try await catalog.chapters(of: history, branch: log.branch, behind: behind)
            let doomed = names.filter { name in name != last && log.before.map { name.last < $0 } ?? true }
            if !isDry { try await catalog.store.remove(doomed.map { ObjectKey(known: catalog.chapterFolder(of: history) + $0.path) }) }
            total.objects += doomed.count
            guard names.count == 1024, doomed.count == names.count else { return }
            behind = names.last
        }
    }

    /// Holes that lie before everything that is left need not be told any more.
    private mutating func removeGaps(_ log: ExpiryRecord.Log) async throws {
        let history = IncarnationRecord.named(log.incarnation, of: source)
        let gaps = try await catalog.gaps(of: history).filter { $0.branch == log.branch }
        guard !gaps.isEmpty else { return }
        var starts: [String: UInt64] = [:]
        if let before = log.before {
            for index in try await catalog.indexes(ofPiecesNamed: PieceName(branch: log.branch, name: before), of: history) {
                for span in index.spans { starts[span.stream] = min(span.start, starts[span.stream] ?? .max) }
            }
        }
        let doomed = gaps.filter { log.before == nil || starts[$0.stream].map { [end = $0.end] in end <= $0 } ?? false }
        if !isDry { try await catalog.store.remove(doomed.map { catalog.key(of: $0, in: history) }) }
        total.objects += doomed.count
    }

    // MARK: Histories

    private mutating func remove(_ incarnation: String) async throws {
        let before = total
        try await removeAll(below: "bases/\(source)/\(incarnation)/", "history \(incarnation)")
        let history = IncarnationRecord.named(incarnation, of: source)
        for branch in try await catalog.archivedBranches(of: history) { try await remove(ExpiryRecord.Log(incarnation: incarnation, branch: branch, before: nil)) }
        guard locked[incarnation] == nil else { return }
        // What was counted already is not counted again.
        for folder in (isDry ? [] : ["chapters", "log", "gaps"]) + ["positions", "watermarks", "verified", "branches"] {
            try await removeAll(below: "\(folder)/\(source)/\(incarnation)/", "history \(incarnation)")
        }
        if !isDry { try await catalog.store.remove(ObjectKey(known: "sources/\(source)/\(incarnation).json")) }
        total.objects += 1
        var amount = Amount()
        amount.objects = total.objects - before.objects
        amount.bytes = total.bytes - before.bytes
        logs[incarnation] = amount
    }
}

extension Catalog {
    /// Whether a piece lies before everything of its branch that is archived: it was expired.
    public func isExpired(_ name: PieceName, of i: IncarnationRecord) async throws -> Bool {
        try await firstPiece(of: i, branch: name.branch).map { name.name < $0.name } ?? true
    }

    /// The first piece of a branch of which anything is stored.
    public func firstPiece(of i: IncarnationRecord, branch: UInt32) async throws -> PieceName? {
        let prefix = logFolder(of: i)
        return try await store.keys(prefix: prefix + hex(UInt64(branch), 8) + "/", after: nil, limit: 16).lazy
            .compactMap { piece(at: String($0.path.dropFirst(prefix.utf8.count)))?.name }.first
    }
}

extension IncarnationRecord {
    /// A history of which only the names are known: enough to name its objects.
    public static func named(_ id: String, of source: String) -> IncarnationRecord {
        IncarnationRecord(source: source, id: id, kind: "", identity: "", number: 0, created: Moment(rawValue: 0), facts: [:], reason: nil)
    }
}
