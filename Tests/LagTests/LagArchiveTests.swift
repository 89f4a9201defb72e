import ArchiveCore
import ArchiveTesting
import Pack
import Sidecar
import Runtime
import Store
import Testing

@testable import Catalog
@testable import Lag

/// Midnight of some day, and seconds after.
private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_057_600_000_000_000).adding(seconds: seconds) }

/// Lets some writes through, then none any more.
private actor DyingStore: ObjectStore {
    private let inner: MemoryStore
    private var left: Int
    nonisolated let description = "dying"

    init(_ inner: MemoryStore, after writes: Int) {
        self.inner = inner
        left = writes
    }

    private func live() throws {
        guard left > 0 else { throw ArchiveError(.storeUnavailable, "The store is gone.") }
        left -= 1
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        try live()
        try await inner.put(bytes, at: key)
    }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await inner.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws {
        try live()
        await inner.remove(key)
    }
}

@Suite("The history of lag in the archive")
struct LagArchiveTests {
    private let store = MemoryStore()
    /// Two days and a piece, with a hole.
    private let end = 2 * 86_400 + 1800.0

    private func catalog(_ store: (any ObjectStore)? = nil) async throws -> Catalog {
        if await self.store.list(prefix: "", after: nil, limit: 1).isEmpty { return try await Catalog.create(in: self.store, at: at(0), version: "test") }
        return try await Catalog.open(store ?? self.store)
    }

    private func history(every seconds: Double = 1800, seed: UInt64 = 1) -> [LagRow] {
        var random = SeededRandom(seed: seed)
        var rows: [LagRow] = []
        var time = 0.0
        while time < end {
            let next = min(time + seconds, end)
            var row = LagRow(start: at(time), end: at(next), objective: 5)
            for _ in 0..<Int.random(in: 0...3, using: &random) { row.commits.add(Double.random(in: 0...9, using: &random)) }
            row.exposure.add(Double.random(in: 0...9, using: &random), weight: UInt64((next - time) * 1000))
            if Bool.random(using: &random) { row.misses = [Miss(start: at(time + 10), end: at(time + 20), worst: 9, cause: .store)] }
            row.archivedUpTo = at(next)
            if !(30_000..<40_000).contains(time) { rows.append(row) }
            time = next
        }
        return rows
    }

    /// What must not change, however rows are put together.
    private struct Sum: Equatable {
        var commits = LagHistogram()
        var exposure = LagHistogram()
        var covered = Spans([])
        var missed = Spans([])

        init(_ rows: [LagRow]) {
            for row in rows {
                commits += row.commits
                exposure += row.exposure
            }
            // The archive keeps milliseconds.
            commits = Self.rounded(commits)
            exposure = Self.rounded(exposure)
            covered = Spans(rows.map { $0.start..<$0.end })
            missed = Spans(rows.flatMap(\.misses).map { $0.start..<$0.end })
        }

        private static func rounded(_ h: LagHistogram) -> LagHistogram { LagHistogram(buckets: h.weights.map { ($0.key, $0.value) }, maximum: h.maximum.rounded(.up), sum: 0) ?? h }
    }

    private func sum(_ catalog: Catalog, of source: String = "main") async throws -> Sum { Sum(try await catalog.lagRows(of: source, from: at(-1), to: at(end + 1))) }

    private func names(_ level: LagLevel, in store: (any ObjectStore)? = nil) async throws -> [String] {
        try await (store ?? self.store).listAll(prefix: "rpo/main/\(level.rawValue)/").map(\.key.path)
    }

    @Test("is put together into hours and days that tell the same; only the hours and minutes of today stay")
    func compaction() async throws {
        let catalog = try await catalog()
        let rows = history()
        for row in rows { try await catalog.record(row, of: "main") }
        #expect(try await names(.minute).contains("rpo/main/minute/\(LagObject(level: .minute, start: at(0), end: at(1800)).path.dropFirst(7))"))
        let before = try await sum(catalog)
        #expect(before == Sum(rows))
        try await catalog.compactLag(of: "main", at: at(end))
        #expect(try await sum(catalog) == before)
        #expect(try await [names(.minute).count, names(.hour).count, names(.day).count] == [1, 0, 2])
        // Nothing is left to do.
        let objects = try await store.listAll(prefix: "").map(\.key)
        try await catalog.compactLag(of: "main", at: at(end))
        #expect(try await store.listAll(prefix: "").map(\.key) == objects)
        #expect(try await catalog.newestLagRow(of: "main", before: at(end))?.end == at(end))
        #expect(try await catalog.newestLagRow(of: "main", before: at(end - 1))?.end == at(2 * 86_400))
        #expect(try await catalog.newestLagRow(of: "main", before: at(-1)) == nil)
        #expect(try await catalog.removeLag(of: "main", before: at(86_401)) == 1)
        #expect(try await catalog.lagRows(of: "main", from: at(-1), to: at(end)).first?.start == at(86_400))
    }

    @Test("ten minutes are a row in a day, and breaks stay breaks")
    func coarser() async throws {
        let catalog = try await catalog()
        for minute in 0..<60 where minute != 25 {
            var row = LagRow(start: at(Double(minute) * 60), end: at(Double(minute + 1) * 60), objective: 5)
            row.commits.add(0.5)
            try await catalog.record(row, of: "main")
        }
        try await catalog.compactLag(of: "main", at: at(2 * 86_400))
        let rows = try await catalog.lagRows(of: "main", from: at(0), to: at(3600))
        #expect(rows.map(\.start) == [0, 600, 1200, 1560, 1800, 2400, 3000].map { at($0) })
        #expect(rows.map(\.commits.total) == [10, 10, 5, 4, 10, 10, 10])
    }

    @Test("an agent that dies at any step loses nothing, and nothing is counted twice", arguments: 0..<20)
    func crashes(part: Int) async throws {
        let rows = history(every: 7200)
        for step in stride(from: part, to: 200, by: 20) {
            let store = MemoryStore()
            let whole = try await Catalog.create(in: store, at: at(0), version: "test")
            for row in rows { try await whole.record(row, of: "main") }
            var died = false
            do { try await Catalog.open(DyingStore(store, after: step)).compactLag(of: "main", at: at(end)) } catch let error as ArchiveError {
                #expect(error.code == .storeUnavailable)
                died = true
            }
            #expect(try await sum(whole) == Sum(rows), "after \(step) writes")
            try await whole.compactLag(of: "main", at: at(end))
            #expect(try await sum(whole) == Sum(rows), "after \(step) writes, put together again")
            #expect(try await [names(.minute, in: store).count, names(.day, in: store).count] == [1, 2])
            if !died { break }
        }
    }

    @Test("agents that put it together at once, and whoever reads meanwhile, see all of it", arguments: 0..<4)
    func together(seed: UInt64) async throws {
        let catalog = try await catalog()
        let rows = history(every: 3600, seed: seed)
        for row in rows { try await catalog.record(row, of: "main") }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<3 { group.addTask { try await catalog.compactLag(of: "main", at: at(end)) } }
            for _ in 0..<3 {
                group.addTask {
                    for _ in 0..<3 {
                        let seen = try await sum(catalog)
                        #expect(seen == Sum(rows))
                    }
                }
            }
            try await group.waitForAll()
        }
        try await catalog.compactLag(of: "main", at: at(end))
        #expect(try await sum(catalog) == Sum(rows))
        #expect(try await names(.minute).count == 1)
    }

    @Test("an hour that another agent stored without some minutes does not take these away")
    func incomplete() async throws {
        let catalog = try await catalog()
        let rows = (0..<4).map { n in LagRow(start: at(Double(n) * 900), end: at(Double(n + 1) * 900), objective: 5) }
        for row in rows { try await catalog.record(row, of: "main") }
        var object: [UInt8] = []
        try Zstd.compress(LagRow.encoded([rows[0], rows[3]]), level: 3, into: &object)
        try await store.put(object, at: ObjectKey(known: "rpo/main/" + LagObject(level: .hour, start: at(0), end: at(3600)).path))
        for _ in 0..<2 {
            try await catalog.compactLag(of: "main", at: at(7200))
            #expect(try await catalog.lagRows(of: "main", from: at(0), to: at(3600)).map(\.start) == rows.map(\.start))
        }
        try await catalog.compactLag(of: "main", at: at(2 * 86_400))
        #expect(try await catalog.lagRows(of: "main", from: at(0), to: at(3600)).map(\.end) == rows.map(\.end))
    }

    @Test("the same row twice is fine; damage, and a record of another time than its name, is told with its object")
    func damage() async throws {
        let catalog = try await catalog()
        let row = LagRow(start: at(0), end: at(60), objective: 5)
        try await catalog.record(row, of: "main")
        try await catalog.record(row, of: "main")
        var other: [UInt8] = []
        try Zstd.compress(LagRow.encoded([row]), level: 3, into: &other)
        for bytes in [[], [1, 2, 3], Array(other.dropLast(3)), other] {
            let key = ObjectKey(known: "rpo/main/" + LagObject(level: .minute, start: at(60), end: at(120)).path)
            try await store.put(bytes, at: key)
            let error = await #expect(throws: ArchiveError.self) { try await catalog.lagRows(of: "main", from: at(0), to: at(600)) }
            #expect(error?.code == .archiveDamaged && error?.message.contains(key.path) == true && error?.remedy?.isEmpty == false)
            await store.remove(key)
        }
        // Names that are none are somebody else's.
        for name in ["x", "minute/x.zst", "minute/20261125T081700.000Z-.zst", "minute/20261125T081700.000Z-20261125T081600.000Z.zst", "week/20261125T081700.000Z-20261125T081800.000Z.zst"] {
            try await store.put([1], at: ObjectKey(known: "rpo/main/\(name)"))
        }
        #expect(try await catalog.lagRows(of: "main", from: at(0), to: at(600)) == [row])
    }

    @Test("reaches a copy, which is level again after the primary has put it together")
    func copies() async throws {
        let catalog = try await catalog()
        let rows = history(every: 7200)
        let incarnation = IncarnationRecord(source: "main", id: "7-0001", kind: "toy", identity: "7", number: 1, created: at(0), facts: [:], reason: nil)
        try await catalog.record(incarnation)
        let place = MemoryStore()
        let keeper = CopyKeeper(primary: catalog, copy: place, interval: 0.01, output: Log("test"))
        for part in [rows.prefix(5), rows.dropFirst(5)] {
            for row in part { try await catalog.record(row, of: "main") }
            #expect(try await keeper.catchUp())
            #expect(try await sum(Catalog.open(place)) == sum(catalog))
            // The copy's own keeper may have put together what lies long ago, as seen from today.
            try await catalog.compactLag(of: "main", at: at(end))
        }
        #expect(try await keeper.catchUp())
        #expect(try await sum(Catalog.open(place)) == Sum(rows))
    }

    @Test("what was verified is known up to the latest time, and older records go")
    func verified() async throws {
        let catalog = try await catalog()
        let i = IncarnationRecord(source: "main", id: "7-0001", kind: "toy", identity: "7", number: 1, created: at(0), facts: [:], reason: nil)
        #expect(try await catalog.verifiedUpTo(of: i) == nil)
        try await catalog.recordVerified(upTo: at(10), contents: true, at: at(11), of: i)
        try await catalog.recordVerified(upTo: at(20), contents: false, at: at(21), of: i)
        try await catalog.recordVerified(upTo: at(20), contents: false, at: at(22), of: i)
        #expect(try await catalog.verifiedUpTo(of: i) == at(20))
        #expect(try await catalog.verifiedUpTo(of: i, contents: true) == at(10))
        try await catalog.recordVerified(upTo: at(30), contents: true, at: at(31), of: i)
        #expect(try await catalog.verifiedUpTo(of: i, contents: true) == at(30))
        #expect(try await store.listAll(prefix: "verified/").count == 1)
    }
}
