import ArchiveCore
import Catalog
import Lag
import Runtime
import Source
import Store
import Synchronization
import Testing

@testable import Sidecar

/// A log that gives what a test hands it, and waits in between.
private final class ScriptedLog: LogSource {
    private let state = Mutex<(outputs: [LogOutput], acknowledged: UInt64, stopping: Bool, failures: Int)>(([], 0, false, 0))
    private let interruption = Mutex<ArchiveError?>(nil)
    let resumed = Mutex<ResumeState?>(nil)

    func give(_ outputs: LogOutput...) { state.withLock { $0.outputs += outputs } }
    /// Attempts to connect that fail.
    func fail(_ count: Int) { state.withLock { $0.failures = count } }
    var acknowledged: UInt64 { state.withLock { $0.acknowledged } }

    func identify() async throws -> SourceIdentity {
        let fails = state.withLock { state in
            state.failures -= 1
            return state.failures >= 0
        }
        if fails { throw ArchiveError(.sourceUnreachable, "The source is away.", remedy: "Start it.") }
        return SourceIdentity(identity: "77", facts: [:])
    }
    func start(from resume: ResumeState) async throws {
        interruption.withLock { $0 = nil }
        resumed.withLock { $0 = resume }
    }
    func next() async throws -> LogOutput? {
        while true {
            try Task.checkCancellation()
            let (output, stopping) = state.withLock { state in (state.outputs.isEmpty ? nil : state.outputs.removeFirst(), state.stopping) }
            if let output { return output }
            if stopping { return nil }
            if let failure = interruption.withLock({ $0 }) { throw failure }
            try await Task.sleep(for: .milliseconds(1))
        }
    }
    func acknowledge(through sequence: UInt64) async { state.withLock { $0.acknowledged = sequence } }
    func stop() async { state.withLock { $0.stopping = true } }
    func interrupt(_ failure: ArchiveError) async { interruption.withLock { $0 = failure } }
    func close() async {}
}

/// Can always be read, and takes and removes objects only while it is open.
private final class ReadableStore: ObjectStore {
    private let memory = MemoryStore()
    let isOpen = Mutex(true)
    let description = "readable"

    private func refuse() throws { if !isOpen.withLock({ $0 }) { throw ArchiveError(.storeUnavailable, "The store is read-only.", remedy: "Open it.") } }
    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        try refuse()
        try await memory.put(bytes, at: key)
    }
    func remove(_ key: ObjectKey) async throws {
        try refuse()
        await memory.remove(key)
    }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await memory.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await memory.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await memory.folders(below: prefix) }
}

private let segment = "000000010000000000000001"

/// A piece of WAL from `start` to `end` with commits that end at offsets, at times.
private func piece(_ sequence: UInt64, _ start: UInt64, _ end: UInt64, part: Bool = true, supersedes: [PieceName] = [], _ commits: [(UInt64, Moment)], branch: UInt32 = 1) -> LogPiece {
    LogPiece(
        name: PieceName(branch: branch, name: segment, part: part ? start..<end : nil), frames: [[UInt8](repeating: UInt8(sequence), count: Int(end - start))],
        spans: [LogSpan(stream: "wal", branch: branch, start: start, end: end, lastRecord: start)],
        events: commits.map { LogEvent(span: 0, start: $0.0 - 8, end: $0.0, time: $0.1, kind: .commit) }
            + [LogEvent(span: 0, start: end - 8, end: end, time: Moment(rawValue: 0), kind: .fence, subject: "f")],
        supersedes: supersedes, sequence: sequence)
}

@Suite("The meter beside the shipping", .timeLimit(.minutes(10)))
struct ShippingTests {
    private struct Agent {
        let log = ScriptedLog()
        let catalog: Catalog
        let meter: SourceMeter
        let board: StatusBoard
        let shipping: Shipping
        let events: Events

        final class Events: Sendable {
            let all = Mutex<[AgentEvent]>([])
        }

        init(_ store: any ObjectStore, isNew: Bool = true) async throws {
            catalog = isNew ? try await Catalog.create(in: store, at: now(), version: "test") : try await Catalog.open(store)
            board = StatusBoard(
                .init(
                    version: "test", started: now(), archive: "memory", archiveID: "x", objective: 5,
                    sources: [SourceStatus(name: "main", kind: "postgres", since: now())], configurationLoaded: now()))
            let events = Events()
            self.events = events
            meter = SourceMeter(source: "main", board: board, objective: 5) { event in events.all.withLock { $0.append(event) } }
            shipping = Shipping(source: "main", kind: "postgres", log: log, catalog: catalog, output: Log("test"), meter: meter)
        }

        var status: SourceStatus { board.snapshot.sources[0] }

        /// Runs the shipping until everything given is archived.
        func ship(_ outputs: LogOutput..., while running: () async throws -> Void = {}) async throws {
            let task = Task { try await shipping.run() }
            for output in outputs { log.give(output) }
            try await running()
            await shipping.stop()
            try await task.value
        }

        /// Lets `condition` come true.
        func reach(_ condition: () async throws -> Bool) async throws { while try await !condition() { try await Task.sleep(for: .milliseconds(1)) } }
    }

    @Test("counts each commit once, whatever piece carries it again, and none that is older than the archive")
    func once() async throws {
        let agent = try await Agent(MemoryStore())
        // Later than the archive's beginning, however long that takes.
        let time = now().adding(seconds: 3600)
        let old = time.adding(seconds: -7200)
        let tails = [piece(1, 100, 200, [(120, old), (150, time)]), piece(2, 200, 300, [(250, time)])]
        let closed = piece(3, 100, 400, part: false, supersedes: tails.map(\.name), [(120, old), (150, time), (250, time), (350, time)])
        // The next branch left the first one at 380, and repeats what lies before.
        let fork = BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: 380)], file: [], fileName: "")
        let repeated = piece(4, 100, 500, [(150, time), (250, time), (350, time), (450, time)], branch: 2)
        try await agent.ship(.piece(tails[0]), .piece(tails[1]), .piece(closed), .branch(fork), .piece(repeated), .watermark(time))
        #expect(agent.log.acknowledged == 4)
        #expect(agent.status.commits == 4 && agent.status.pieces == 4)
        #expect(agent.status.lag.total == 4 && agent.status.lag.maximum < 3600)
        #expect(agent.status.state == .archiving && agent.status.watermark == time && agent.status.incarnation == "77-0001")
        #expect(agent.meter.takeRows(all: true).reduce(0) { $0 + $1.commits.total } == 4)
    }

    @Test("an agent goes on where the one before it had recorded up to, and what was committed meanwhile was exposed for that long")
    func restart() async throws {
        let store = MemoryStore()
        let first = try await Agent(store)
        try await first.ship {
            try await first.reach { first.status.state == .archiving }
            let begun = now()
            first.log.give(.piece(piece(1, 100, 200, [(150, begun)])), .watermark(begun.adding(seconds: 0.001)))
            try await first.reach { first.log.acknowledged == 1 }
        }
        let before = first.meter.takeRows(all: true)
        for row in before { try await first.catalog.record(row, of: "main") }
        let end = try #require(before.last?.end)
        // What the second agent finds was committed while nobody was there.
        let missed = end.adding(nanoseconds: 2_000_000)
        while now() < missed.adding(seconds: 0.05) { await Task.yield() }
        let second = try await Agent(store, isNew: false)
        try await second.ship(.piece(piece(1, 200, 300, [(250, missed)])))
        let after = second.meter.takeRows(all: true)
        let start = try #require(after.first?.start)
        #expect(start >= end && start - end <= 0.002)
        let exposed = try #require(after.map(\.exposure.maximum).max())
        #expect(exposed >= 0.05)
        #expect(after.reduce(0) { $0 + $1.commits.total } == 1)
    }

    @Test("a source that cannot be reached is told of after three attempts, and its backlog is as old as the last proof")
    func unreachable() async throws {
        let agent = try await Agent(MemoryStore())
        agent.log.fail(3)
        for _ in 0..<3 { await #expect(throws: ArchiveError.self) { try await agent.shipping.run() } }
        #expect(agent.status.state == .retrying && agent.status.failures == 3)
        #expect(agent.status.lastError?.contains("The source is away.") == true)
        agent.meter.sample(LogProgress(), verified: nil, objective: 5, at: now().adding(seconds: 100))
        let backlog = try #require(agent.status.backlog[.archived])
        #expect(agent.status.backlog[.received].map { $0.bytes == nil } == true)
        #expect(backlog.seconds >= 99 && agent.status.isObjectiveMissed)
        try await agent.ship(.piece(piece(1, 100, 200, [(150, now())]))) { try await agent.reach { agent.log.acknowledged == 1 } }
        agent.meter.sample(LogProgress(), verified: nil, objective: 5, at: now().adding(seconds: 200))
        #expect(agent.status.backlog[.archived]?.seconds == 0)
        #expect(agent.events.all.withLock { $0.map(\.kind) } == [.failure, .rpoMissed, .recovered, .rpoRecovered])
    }

    @Test("a hole is told, and behind it everything is at stake, over restarts too, until a base lies behind it")
    func hole() async throws {
        let store = MemoryStore()
        let first = try await Agent(store)
        let begun = now()
        let gap = GapRecord(stream: "wal", branch: 1, start: 200, end: 300, noticed: now(), cause: "the slot was lost")
        try await first.ship(.piece(piece(1, 100, 200, [(150, begun)])), .watermark(begun.adding(seconds: 0.001)), .gap(gap))
        #expect(first.status.gaps == 1)
        #expect(first.events.all.withLock { $0.map(\.kind) } == [.gap])
        let second = try await Agent(store, isNew: false)
        try await second.ship {
            try await second.reach { second.meter.openGaps != nil }
            second.meter.sample(LogProgress(), verified: nil, objective: 5, at: begun.adding(seconds: 1000))
        }
        let waiting = try #require(second.status.backlog[.archived]?.seconds)
        #expect(abs(waiting - 1000) < 1)
        let (incarnation, gaps) = try #require(second.meter.openGaps)
        #expect(try await second.catalog.openGaps(of: incarnation, among: gaps).count == 1)
        // A base whose end the watermark has not reached does not count; one that it has does.
        let started = now()
        _ = try await second.catalog.record(
            BaseRecord(
                id: "20300101T000000Z-0000", source: "main", incarnation: incarnation.id, kind: "postgres", started: started, completed: started.adding(seconds: 10),
                firstPiece: nil, branch: 1, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:]),
            index: TreeIndex(entries: [], spans: []), of: incarnation)
        #expect(try await second.catalog.openGaps(of: incarnation).count == 1)
        let old = try await second.catalog.watermark(of: incarnation)
        try await second.catalog.advanceWatermark(to: started.adding(seconds: 11), replacing: old, totals: LogTotals(), of: incarnation)
        #expect(try await second.catalog.openGaps(of: incarnation).isEmpty)
        second.meter.mended(gaps, at: now())
        #expect(second.meter.openGaps == nil)
    }

    @Test("a source that was let go of is not asked again before the archive takes an object, however well it can be read")
    func lettingGo() async throws {
        let store = ReadableStore()
        let agent = try await Agent(store)
        let task = Task { try await agent.shipping.run() }
        try await agent.reach { agent.log.resumed.withLock { $0 } != nil }
        store.isOpen.withLock { $0 = false }
        await agent.shipping.startOver(because: ArchiveError(.sourceUnreachable, "Given up.", remedy: "Wait."))
        #expect(await #expect(throws: ArchiveError.self) { try await task.value }?.code == .sourceUnreachable)
        agent.log.resumed.withLock { $0 = nil }
        for _ in 0..<2 { #expect(await #expect(throws: ArchiveError.self) { try await agent.shipping.run() }?.code == .storeUnavailable) }
        #expect(agent.log.resumed.withLock { $0 } == nil)
        store.isOpen.withLock { $0 = true }
        try await agent.ship(.piece(piece(1, 100, 200, [(150, now())]))) { try await agent.reach { agent.log.acknowledged == 1 } }
        #expect(agent.log.resumed.withLock { $0 } != nil)
        #expect(try await store.listAll(prefix: "probe/").isEmpty)
    }

    @Test("a piece that cannot be stored is told at once, though the log has nothing more to give")
    func refused() async throws {
        let store = ReadableStore()
        let agent = try await Agent(store)
        let task = Task { try await agent.shipping.run() }
        try await agent.reach { agent.status.state == .archiving }
        store.isOpen.withLock { $0 = false }
        agent.log.give(.piece(piece(1, 100, 200, [(150, now())])))
        #expect(await #expect(throws: ArchiveError.self) { try await task.value }?.code == .storeUnavailable)
        store.isOpen.withLock { $0 = true }
        try await agent.ship(.piece(piece(1, 100, 200, [(150, now())]))) { try await agent.reach { agent.log.acknowledged == 1 } }
    }
}
