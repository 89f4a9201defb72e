import ArchiveCore
import Digests
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Source
import Testing

@testable import SourcePostgres

/// Drives a source as the agent does and keeps what an archive would.
actor Collector {
    private(set) var pieces: [LogPiece] = []
    private(set) var gaps: [GapRecord] = []
    private(set) var branches: [BranchRecord] = []
    private(set) var watermark: Moment?
    private(set) var failure: (any Error)?
    private var acknowledges: Bool

    init(acknowledges: Bool = true) { self.acknowledges = acknowledges }

    /// The archive is quick from now on.
    func beginToAcknowledge(_ source: PostgresLogSource) async {
        acknowledges = true
        if let last = pieces.last { await source.acknowledge(through: last.sequence) }
    }

    func run(_ source: PostgresLogSource, from resume: ResumeState) async {
        do {
            try await source.start(from: resume)
            while let output = try await source.next() {
                switch output {
                case .piece(let piece):
                    pieces.append(piece)
                    if acknowledges { await source.acknowledge(through: piece.sequence) }
                case .gap(let gap): gaps.append(gap)
                case .branch(let branch): branches.append(branch)
                case .watermark(let time): watermark = time
                case .historyChanged: break
                }
            }
        } catch { failure = error }
        await source.close()
    }

    var closed: [LogPiece] { pieces.filter { $0.name.part == nil } }
    var end: UInt64 { pieces.map { $0.spans[0].end }.max() ?? 0 }

    func resume(_ incarnation: IncarnationRecord) -> ResumeState {
        var state = ResumeState(incarnation: incarnation, branches: branches)
        for piece in closed { state.lastPiece[piece.name.branch] = piece.name }
        let last = closed.last
        for piece in pieces where piece.name.part != nil && piece.name.name > last?.name.name ?? "" {
            state.tails.append(.init(name: piece.name, sha256: SHA256.of(piece.frames[0])))
        }
        return state
    }
}

@Suite("Streaming from a real server", .serialized)
struct StreamTests {
    private func incarnation(_ source: PostgresLogSource) async throws -> IncarnationRecord {
        let identity = try await source.identify()
        return IncarnationRecord(
            source: "main", id: "x-0001", kind: "postgres", identity: identity.identity, number: 1, created: now(), facts: identity.facts, reason: nil)
    }

    private func source(_ server: Server, _ state: TemporaryDirectory, slot: String = "tidemark") -> PostgresLogSource {
        PostgresLogSource(conninfo: server.conninfo, slot: slot, stateDirectory: state.path, tail: 0.1)
    }

    private func position(_ server: Server) async throws -> UInt64 {
        try #require(LSN(String(try await server.sql("SELECT pg_current_wal_flush_lsn()").prefix { $0 != "\n" }))).rawValue
    }

    @Test("segments and tails are the server's own bytes, and a second run goes on without a gap", .timeLimit(.minutes(10)), arguments: Server.bindirs)
    func equal(_ bindir: String) async throws {
        let server = try await Server(bindir)
        let state = try TemporaryDirectory()
        let first = source(server, state)
        let incarnation = try await incarnation(first)
        let one = Collector()
        let task = Task { await one.run(first, from: ResumeState(incarnation: incarnation)) }
        try await server.work("one")
        try await server.sql("INSERT INTO one SELECT n, repeat('x', 500) FROM generate_series(10000, 14000) n")
        let end = try await position(server)
        try await eventually("the stream to reach \(end)") { await one.end >= end }
        let written = now()
        try await eventually("the watermark of an idle server") { await one.watermark.map { $0 > written } ?? false }
        await first.stop()
        await task.value
        #expect(await one.failure == nil)

        // The agent's own directory is lost: only the archive is left.
        let fresh = try TemporaryDirectory()
        let second = source(server, fresh)
        let two = Collector()
        let resumed = await one.resume(incarnation)
        let again = Task { await two.run(second, from: resumed) }
        try await server.work("two")
        let later = try await position(server)
        try await eventually("the second stream to reach \(later)") {
            if let failure = await two.failure { throw failure }
            return await two.end >= later
        }
        await second.stop()
        await again.value
        #expect(await two.failure == nil)
        #expect(await two.gaps.isEmpty)

        let closed = await one.closed + two.closed
        #expect(closed.count >= 4)
        var next = closed[0].spans[0].start
        for piece in closed {
            #expect(piece.spans[0].start == next)
            next = piece.spans[0].end
            let path = "\(server.data)/pg_wal/\(piece.name.name)"
            if Files.exists(path) { #expect(try Files.read(path) == piece.frames[0]) }
        }
        // Every tail is a part of the segment that replaced it.
        for tail in await one.pieces + two.pieces where tail.name.part != nil {
            guard let segment = closed.first(where: { $0.name.name == tail.name.name }), let part = tail.name.part else { continue }
            let start = Int(part.lowerBound - segment.spans[0].start)
            #expect(Array(segment.frames[0][start..<start + part.count]) == tail.frames[0])
        }
        #expect(try Files.names(in: fresh.path + "/spool").filter { $0.hasSuffix(".partial") }.count <= 1)
    }

    @Test("with ack: archive the server is told at once what is archived, and never more", .timeLimit(.minutes(10)))
    func archived() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let state = try TemporaryDirectory()
        // No commit is made to wait for an interval that does not end.
        let source = PostgresLogSource(conninfo: server.conninfo, slot: "tidemark", stateDirectory: state.path, tail: 3600, ack: .archive)
        let incarnation = try await incarnation(source)
        let one = Collector(acknowledges: false)
        let task = Task { await one.run(source, from: ResumeState(incarnation: incarnation)) }
        try await server.work("one")
        let end = try await position(server)
        try await eventually("a piece") { await !one.pieces.isEmpty }
        let first = try #require(await one.pieces.first).spans[0]
        func reported() async throws -> UInt64? {
            LSN(String(try await server.sql("SELECT flush_lsn FROM pg_stat_replication WHERE state = 'streaming'").prefix { $0 != "\n" }))?.rawValue
        }
        try await eventually("a status") { try await reported() != nil }
        #expect(try #require(try await reported()) <= first.start)
        await one.beginToAcknowledge(source)
        try await eventually("the report of \(end)") { try await reported().map { $0 >= end } ?? false }
        await source.stop()
        await task.value
        #expect(await one.failure == nil)
        #expect(try Files.names(in: state.path + "/spool").isEmpty)
    }

    @Test("a lost slot is a gap, and streaming goes on behind it", .timeLimit(.minutes(10)))
    func gap() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let first = source(server, try TemporaryDirectory())
        let incarnation = try await incarnation(first)
        let one = Collector()
        let task = Task { await one.run(first, from: ResumeState(incarnation: incarnation)) }
        try await server.work("one")
        let end = try await position(server)
        try await eventually("the stream to reach \(end)") { await one.end >= end }
        await first.stop()
        await task.value
        try await eventually("the slot to be free") { try await server.sql("SELECT count(*) FROM pg_replication_slots WHERE active").hasPrefix("0") }
        try await server.sql("SELECT pg_drop_replication_slot('tidemark')")
        for i in 0..<8 {
            try await server.sql("CREATE TABLE lost\(i) AS SELECT n, repeat('y', 500) FROM generate_series(1, 3000) n", "SELECT pg_switch_wal()", "CHECKPOINT")
        }
        let second = source(server, try TemporaryDirectory())
        let two = Collector()
        let resumed = await one.resume(incarnation)
        let again = Task { await two.run(second, from: resumed) }
        try await server.work("two")
        let later = try await position(server)
        try await eventually("the second stream to reach \(later)") {
            if let failure = await two.failure { throw failure }
            return await two.end >= later
        }
        await second.stop()
        await again.value
        let gaps = await two.gaps
        #expect(gaps.count == 1)
        #expect(gaps.first.map { $0.start < $0.end } == true)
        #expect(await two.closed.first?.spans[0].start == gaps.first?.end)
    }

    @Test("another cluster, and a server that is behind the archive, are refused", .timeLimit(.minutes(10)))
    func refused() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let first = source(server, try TemporaryDirectory())
        var incarnation = try await incarnation(first)
        let size = try #require(SegmentSize(bytes: 1 << 20))
        var ahead = ResumeState(incarnation: incarnation)
        ahead.lastPiece[1] = PieceName(branch: 1, name: "000000010000000000000FFF")
        #expect(SegmentName("000000010000000000000FFF", size: size) != nil)
        let one = Collector()
        await one.run(first, from: ahead)
        #expect((await one.failure as? ArchiveError)?.code == .twoHistories)
        incarnation.identity = "1"
        let two = Collector()
        await two.run(source(server, try TemporaryDirectory()), from: ResumeState(incarnation: incarnation))
        #expect((await two.failure as? ArchiveError)?.code == .twoHistories)
    }

    @Test("a spool file whose making was cut short is made again; one that is short and holds something is not passed over")
    func shortSpool() throws {
        let state = try TemporaryDirectory()
        let size: UInt64 = 1 << 20
        let spool = try Spool(stateDirectory: state.path, segmentSize: size)
        let names = ["000000010000000000000001", "000000010000000000000002", "000000010000000000000003"]
        for name in names { _ = try spool.open(name) }
        func truncate(_ name: String, to length: Int, _ bytes: [UInt8] = []) throws {
            try Files.removeTree(spool.path(name))
            try Descriptor(spool.path(name), O_WRONLY | O_CREAT).write(bytes + [UInt8](repeating: 0, count: length - bytes.count))
        }
        try truncate(names[1], to: 300_000)
        try truncate(names[2], to: 300_000, [1])
        let again = try Spool(stateDirectory: state.path, segmentSize: size)
        #expect(try again.segments() == [names[0], names[2]])
        #expect(try again.read(names[0]).count == Int(size))
        #expect(throws: ArchiveError.self) { try again.read(names[2]) }
        _ = try again.open(names[1])
        #expect(try again.read(names[1]).count == Int(size))
    }

    @Test("a promoted standby's timeline is followed where it left the old one", .timeLimit(.minutes(10)), arguments: Server.bindirs)
    func timelines(_ bindir: String) async throws {
        let primary = try await Server(bindir)
        let first = source(primary, try TemporaryDirectory())
        let incarnation = try await incarnation(first)
        try await primary.work("one")
        let standby = try await Server(bindir, from: primary)
        let one = Collector()
        let task = Task { await one.run(first, from: ResumeState(incarnation: incarnation)) }
        try await primary.sql("INSERT INTO one SELECT n, 'x' FROM generate_series(20000, 20100) n")
        let end = try await position(primary)
        try await eventually("the stream to reach \(end)") { await one.end >= end }
        try await eventually("the standby to catch up") {
            try await standby.sql("SELECT pg_last_wal_replay_lsn() >= '\(LSN(rawValue: end))'").hasPrefix("t")
        }
        await first.stop()
        await task.value
        try await primary.stop()
        try await standby.run("pg_ctl", ["promote", "-D", standby.data, "-w"])
        let second = source(standby, try TemporaryDirectory())
        let two = Collector()
        let resumed = await one.resume(incarnation)
        let again = Task { await two.run(second, from: resumed) }
        try await standby.work("two")
        let later = try await position(standby)
        try await eventually("the second stream to reach \(later)") {
            if let failure = await two.failure { throw failure }
            return await two.end >= later
        }
        await second.stop()
        await again.value
        #expect(await two.failure == nil)
        #expect(await two.gaps.isEmpty)
        let branch = try #require(await two.branches.first)
        #expect(branch.branch == 2 && branch.fileName == "00000002.history" && branch.ancestors.first?.branch == 1)
        let newest = await two.closed.filter { $0.name.branch == 2 }
        #expect(!newest.isEmpty)
        #expect(try newest.first.map { $0.spans[0].start <= (try #require(branch.ancestors.first)).end } == true)
        for piece in newest {
            let path = "\(standby.data)/pg_wal/\(piece.name.name)"
            if Files.exists(path) { #expect(try Files.read(path) == piece.frames[0]) }
        }
    }
}
