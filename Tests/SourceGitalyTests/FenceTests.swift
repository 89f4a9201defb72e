import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization
import Testing

@testable import SourceGitaly

/// A storage's log and what really happened in it: for every entry a number before its rename and one after it, and one for each
/// marker, all from one counter.
final class TrueOrder: Sendable {
    struct Entry: Hashable { var storage: Int; var partition: String; var lsn: UInt64 }
    private struct Ticks {
        var last: UInt64 = 0
        var began: [Entry: UInt64] = [:]
        var ended: [Entry: UInt64] = [:]
    }
    private let ticks = Mutex(Ticks())
    private let next = Mutex<[Entry: UInt64]>([:])
    let storages: [TemporaryDirectory]

    init(storages count: Int = 1) throws {
        storages = try (0..<count).map { _ in try TemporaryDirectory() }
        for storage in storages {
            try Files.makeDirectory(storage.path + "/+gitaly/staging")
            try Files.makeDirectory(storage.path + "/+gitaly/partitions")
        }
    }

    func tick() -> UInt64 {
        ticks.withLock {
            $0.last += 1
            return $0.last
        }
    }

    var count: Int { ticks.withLock { $0.ended.count } }
    func began(_ entry: Entry) -> UInt64? { ticks.withLock { $0.began[entry] } }
    func ended(_ entry: Entry) -> UInt64? { ticks.withLock { $0.ended[entry] } }

    func wal(_ partition: String, _ storage: Int = 0) -> String {
        let n = UInt64(partition)! % 3
        return "\(storages[storage].path)/+gitaly/partitions/a\(n)/b\(n)/\(partition)/wal"
    }

    /// Appends one entry as Gitaly does: complete, by one rename.
    func append(_ partition: String, _ storage: Int = 0) throws {
        let wal = wal(partition, storage)
        if !Files.exists(wal) { try Files.makeDirectory(wal) }
        let staged = "\(storages[storage].path)/+gitaly/staging/\(UInt64.random(in: 0...UInt64.max))"
        #expect(mkdir(staged, 0o700) == 0)
        try Descriptor(staged + "/MANIFEST", O_WRONLY | O_CREAT).write([])
        try next.withLock { next in
            let key = Entry(storage: storage, partition: partition, lsn: 0)
            let entry = Entry(storage: storage, partition: partition, lsn: (next[key] ?? 0) + 1)
            ticks.withLock {
                $0.last += 1
                $0.began[entry] = $0.last
            }
            guard rename(staged, "\(wal)/\(PartitionLSN(rawValue: entry.lsn))") == 0 else { throw ArchiveError.system("append", wal) }
            ticks.withLock {
                $0.last += 1
                $0.ended[entry] = $0.last
            }
            next[key] = entry.lsn
        }
    }

    /// Uploads a partition's entries but the last and removes them from the log, as the native archiver and Gitaly's pruning do.
    func upload(_ partition: String, _ storage: Int, to spool: String) throws {
        try next.withLock { _ in
            let wal = wal(partition, storage)
            guard Files.exists(wal) else { return }
            let folder = "\(spool)/default/\(partition)"
            try Files.makeDirectory(folder)
            for lsn in try WALDirectories.entries(in: wal, partition: partition).dropLast() {
                let name = "\(PartitionLSN(rawValue: lsn))"
                var tar: [UInt8] = []
                TarBlocks.append("\(name)/", isDirectory: true, mode: 0o700, modified: 0, content: [], to: &tar)
                TarBlocks.append("\(name)/MANIFEST", isDirectory: false, mode: 0o600, modified: 0, content: [], to: &tar)
                try Files.writeDurably(tar + EntryFrame.end, to: "\(folder)/\(name).tar")
                let aside = "\(storages[storage].path)/+gitaly/staging/\(UInt64.random(in: 0...UInt64.max))"
                guard rename("\(wal)/\(name)", aside) == 0 else { throw ArchiveError.system("prune", wal) }
                try Files.removeTree(aside)
            }
        }
    }

    /// Checks, for every fence, what `FenceRecord` promises, against what really happened. Markers' positions are ticks.
    func prove(_ pieces: [LogPiece], _ storage: Int, _ note: String) {
        func entries(_ piece: LogPiece) -> [Entry] {
            piece.events.map { Entry(storage: storage, partition: piece.spans[$0.span].stream, lsn: $0.start) }
        }
        for (i, piece) in pieces.enumerated() {
            for fence in piece.fences {
                let late = Dictionary(fence.late.map { ($0.stream, $0.start) }, uniquingKeysWith: min)
                for entry in pieces[...i].flatMap(entries) where entry.lsn < late[entry.partition] ?? .max {
                    #expect(began(entry)! < fence.position, "\(note): \(entry) is said to be older than the fence at \(fence.position)")
                }
                for entry in pieces[(i + 1)...].flatMap(entries) {
                    #expect(ended(entry)! > fence.position, "\(note): \(entry) is said to be newer than the fence at \(fence.position)")
                }
            }
        }
    }
}

/// A writer whose markers take what a test does meanwhile.
final class ScriptedAnchor: FenceWriter {
    let anchor = "main"
    let calls = Mutex<[ContinuousClock.Instant]>([])
    private let script: @Sendable (_ call: Int) throws -> UInt64

    /// - Parameter script: returns the marker's position; runs on a blocking thread.
    init(_ script: @escaping @Sendable (_ call: Int) throws -> UInt64) { self.script = script }

    func write(id: String, digest: String) async throws -> FenceMark {
        let call = calls.withLock {
            $0.append(.now)
            return $0.count
        }
        let position = try await blocking { try self.script(call) }
        return FenceMark(anchorIdentity: "7", branch: 1, position: position, anchorTime: now())
    }

    func close() async {}
}

private struct Unreachable: Error {}

@Suite("Fences of a storage", .serialized)
struct FenceTests {
    private func fresh() -> ResumeState { ResumeState(incarnation: TailTests.incarnation) }

    private func source(
        _ order: TrueOrder, _ anchor: ScriptedAnchor, storage: Int = 0, spool: String? = nil, interval: Double = 0.1, prune: Bool = false, perPack: Int = 4096
    ) -> GitalyLogSource {
        var fencing = Fencing(writer: anchor, interval: interval)
        fencing.backoff = (first: 0.1, last: 0.2)
        return GitalyLogSource(
            storage: order.storages[storage].path, spool: spool, tail: 0.02, prune: prune, fencing: fencing, output: Log("test"), entriesPerPack: perPack)
    }

    @Test("what comes while the marker is written is late, and gets a fence of its own though nothing more comes", .timeLimit(.minutes(10)))
    func late() async throws {
        let order = try TrueOrder()
        for _ in 0..<2 { try order.append("7") }
        let anchor = ScriptedAnchor { call in
            guard call == 1 else { return order.tick() }
            try order.append("7")
            for _ in 0..<2 { try order.append("11") }
            let position = order.tick()
            try order.append("7")
            return position
        }
        let source = source(order, anchor)
        try await source.start(from: fresh())
        var drain = Drain()
        var idle = 0
        while let output = try await source.next() {
            if case .piece(let piece) = output { drain.pieces.append(piece) }
            if case .watermark = output, drain.pieces.count == 2 { idle += 1 }
            if idle == 1 { await source.stop() }
        }
        #expect(drain.pieces.map(\.events.count) == [6, 0])
        let fences = drain.pieces.map(\.fences)
        #expect(fences.map(\.count) == [1, 1])
        #expect(fences[0].first?.late == [.init(stream: "7", start: 3), .init(stream: "11", start: 1)])
        #expect(fences[1].first?.late == [])
        #expect(drain.pieces[1].spans.isEmpty && drain.pieces[1].frames == [EntryFrame.end])
        // Nothing happened since: the end of the source needs no third one.
        #expect(anchor.calls.withLock(\.count) == 2)
        order.prove(drain.pieces, 0, "late")
    }

    @Test("full packs: the fence waits for the last one, and nothing newer goes before it", .timeLimit(.minutes(10)))
    func fullPacks() async throws {
        let order = try TrueOrder()
        for n in 0..<25 { try order.append("\(n % 3 + 2)") }
        let anchor = ScriptedAnchor { call in
            let position = order.tick()
            if call == 1 { for _ in 0..<3 { try order.append("2") } }
            return position
        }
        let source = source(order, anchor, interval: 60, perPack: 4)
        try await source.start(from: fresh())
        var pieces: [LogPiece] = []
        while let output = try await source.next() {
            guard case .piece(let piece) = output else { continue }
            pieces.append(piece)
            // More arrives while the batch is on its way.
            if pieces.count == 2 { for n in 0..<4 { try order.append("\(n % 2 + 3)") } }
            if pieces.contains(where: { !$0.fences.isEmpty }) { await source.stop() }
        }
        #expect(pieces.map(\.events.count) == [4, 4, 4, 4, 4, 4, 4, 4])
        #expect(pieces.map(\.fences.count) == [0, 0, 0, 0, 0, 0, 1, 1])
        #expect(pieces[6].fences.first?.late.map(\.stream) == ["2"])
        order.prove(pieces, 0, "full packs")
    }

    @Test("entries of a new partition that its first listing lacked are taken, and not called newer", .timeLimit(.minutes(10)))
    func unlistedFirst() async throws {
        let order = try TrueOrder()
        for _ in 0..<3 { try order.append("5") }
        var state = EntryBatch.State(feed: WALFeed(storage: order.storages[0].path))
        _ = try state.feed.changes(at: now())
        var batch = EntryBatch(begun: now(), isLast: false)
        #expect(try batch.admit([Listing(partition: "5", lsns: [3], highest: 3, removable: nil)], [], state: &state, pruning: [:]) == nil)
        var builder = PackBuilder()
        var gaps: [GapRecord] = []
        _ = try batch.take(into: &builder, state: &state, gaps: &gaps, at: now())
        #expect(builder.piece(number: 1).events.map(\.start) == [1, 2, 3])
        #expect(gaps.isEmpty && batch.isEmpty)
    }

    @Test("an entry that was listed and could not be read takes its fence with it", .timeLimit(.minutes(10)))
    func lost() async throws {
        let order = try TrueOrder()
        for _ in 0..<2 { try order.append("5") }
        var state = EntryBatch.State(feed: WALFeed(storage: order.storages[0].path))
        let listing = try state.feed.changes(at: now())
        let time = now()
        let fence = FenceRecord(id: "a", anchor: "main", anchorIdentity: "7", branch: 1, position: 9, anchorTime: time, asked: time, answered: time)
        var batch = EntryBatch(begun: time, isLast: false, fence: fence)
        #expect(try batch.admit(listing, [], state: &state, pruning: [:]) == nil)
        // Away for a moment, as an entry of a damaged file system might be.
        let place = "\(order.wal("5"))/\(PartitionLSN(rawValue: 2))"
        #expect(rename(place, order.storages[0].path + "/aside") == 0)
        var builder = PackBuilder()
        var gaps: [GapRecord] = []
        #expect(try batch.take(into: &builder, state: &state, gaps: &gaps, at: now()) == nil)
        #expect(batch.isEmpty && batch.hasLost)
        #expect(builder.piece(number: 1).events.map(\.start) == [1])
        #expect(rename(order.storages[0].path + "/aside", place) == 0)
        #expect(try state.feed.changes(at: now()).map(\.lsns) == [[1, 2]])
    }

    @Test("without PostgreSQL entries go out unfenced, attempts grow apart, and one fence covers all once it is back", .timeLimit(.minutes(10)))
    func degraded() async throws {
        let order = try TrueOrder()
        let anchor = ScriptedAnchor { call in
            if call <= 3 { throw Unreachable() }
            return order.tick()
        }
        let source = source(order, anchor)
        try order.append("2")
        try await source.start(from: fresh())
        var pieces: [LogPiece] = []
        while let output = try await source.next() {
            guard case .piece(let piece) = output else { continue }
            pieces.append(piece)
            if !piece.fences.isEmpty { await source.stop() } else if pieces.count < 10 { try order.append("2") }
        }
        // One look for each entry, whatever the writer does.
        #expect(pieces.filter { $0.fences.isEmpty }.allSatisfy { $0.events.count == 1 })
        #expect(pieces.reduce(0) { $0 + $1.events.count } == order.count)
        #expect(pieces.last?.fences.first?.late == [])
        let calls = anchor.calls.withLock { $0 }
        #expect(calls.count == 4)
        // Pauses of 0.1, 0.2 and 0.2 s at least.
        #expect(zip(calls, calls.dropFirst()).map { $1 - $0 >= .seconds(0.09) } == [true, true, true])
        #expect(calls[3] - calls[1] >= .seconds(0.39))
        order.prove(pieces, 0, "degraded")
    }

    @Test("a source that starts anew fences what the archive has; a new one with nothing to say writes nothing", .timeLimit(.minutes(10)))
    func restart() async throws {
        let order = try TrueOrder()
        let anchor = ScriptedAnchor { _ in order.tick() }
        var empty = Drain()
        let first = source(order, anchor)
        await first.stop()
        try await empty.run(first, resume: fresh())
        #expect(empty.pieces.isEmpty && anchor.calls.withLock(\.count) == 0)
        try order.append("2")
        var one = Drain()
        let second = source(order, anchor)
        await second.stop()
        try await one.run(second, resume: fresh())
        #expect(one.pieces.map(\.fences.count) == [1])
        // Killed before the fence was archived, for all the next run knows.
        var two = Drain()
        let third = source(order, anchor)
        await third.stop()
        try await two.run(third, resume: one.resume(TailTests.incarnation))
        #expect(two.pieces.map(\.events.count) == [0] && two.pieces.map(\.fences.count) == [1])
        #expect(two.pieces[0].name.name == hex(2, 16))
        order.prove(one.pieces + two.pieces, 0, "restart")
    }

    @Test("for every fence: what it calls older is older, what it calls newer is newer", .timeLimit(.minutes(10)), arguments: Array<UInt64>(1...12))
    func property(_ seed: UInt64) async throws {
        let order = try TrueOrder(storages: 2)
        let isOver = Mutex(false)
        let perPack = [1, 3, 7, 4096][Int(seed % 4)]
        // A third of the lives take what the native archiver wrote, and the log itself for the rest.
        let spools = seed % 3 == 0 ? try (0..<2).map { _ in try TemporaryDirectory() } : []
        // Two clients for each storage; partitions appear all the time.
        for client in 0..<4 {
            startThread {
                var random = SeededRandom(seed: seed * 8 + UInt64(client))
                while !isOver.withLock({ $0 }) {
                    let partition = random.next() % 8 == 0 ? random.next() % 60 : random.next() % 6
                    do {
                        try order.append("\(partition + 2)", client % 2)
                        if !spools.isEmpty, random.next() % 3 == 0 {
                            try order.upload("\(random.next() % 60 + 2)", client % 2, to: spools[client % 2].path)
                        }
                    } catch { Issue.record("\(error)") }
                    // From none to long enough for directories to be trusted.
                    usleep([0, 0, 300, 2000, 30_000][Int(random.next() % 5)])
                    if random.next() % 50 == 0 { usleep(250_000) }
                }
            }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for storage in 0..<2 {
                group.addTask { try await self.live(order, storage, seed: seed, perPack: perPack, spool: spools.isEmpty ? nil : spools[storage].path) }
            }
            try await group.waitForAll()
            isOver.withLock { $0 = true }
        }
    }

    /// Six lives of an agent, each ended by a stop or a crash that loses what was not acknowledged.
    private func live(_ order: TrueOrder, _ storage: Int, seed: UInt64, perPack: Int, spool: String?) async throws {
        var random = SeededRandom(seed: seed &* 31 + UInt64(storage))
        let shared = Mutex(SeededRandom(seed: seed &* 77 + UInt64(storage)))
        let anchor = ScriptedAnchor { _ in
            func die(_ n: UInt64) -> UInt64 { shared.withLock { $0.next() % n } }
            for _ in 0..<die(4) { try order.append("\(die(70) + 2)", storage) }
            usleep(UInt32(die(4000)))
            if die(6) == 0 { throw Unreachable() }
            let position = order.tick()
            for _ in 0..<die(4) { try order.append("\(die(70) + 2)", storage) }
            usleep(UInt32(die(4000)))
            return position
        }
        var archive = Drain()
        for _ in 0..<6 {
            let source = source(order, anchor, storage: storage, spool: spool, interval: 0.1, prune: seed % 2 == 0, perPack: perPack)
            try await source.start(from: archive.resume(TailTests.incarnation))
            let deadline = ContinuousClock.now + .milliseconds(300 + Int(random.next() % 400))
            let crash = random.next() % 2 == 0
            var inFlight: [LogPiece] = []
            while let output = try await source.next() {
                switch output {
                case .piece(let piece):
                    inFlight.append(piece)
                    // Uploads lag behind.
                    while inFlight.count > 2 {
                        let done = inFlight.removeFirst()
                        archive.pieces.append(done)
                        await source.acknowledge(through: done.sequence)
                    }
                case .gap(let gap): Issue.record("seed \(seed): a hole: \(gap)")
                case .historyChanged(let reason): Issue.record("seed \(seed): \(reason)")
                case .watermark, .branch: break
                }
                if ContinuousClock.now >= deadline {
                    if crash { break }
                    await source.stop()
                }
            }
            if !crash { archive.pieces += inFlight }
            await source.close()
        }
        let fences = archive.pieces.flatMap(\.fences)
        #expect(!fences.isEmpty, "seed \(seed)")
        #expect(zip(fences, fences.dropFirst()).allSatisfy { $0.position < $1.position })
        _ = try archive.decoded()
        order.prove(archive.pieces, storage, "seed \(seed), storage \(storage)")
    }
}
