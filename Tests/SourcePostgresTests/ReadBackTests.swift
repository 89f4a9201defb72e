import ArchiveCore
import ArchiveTesting
import DurableIO
import Runtime
import Source
import Testing

@testable import SourcePostgres

/// How an agent that cannot decrypt its archive gets at the segment before the one that it goes on with.
@Suite("Reading back without the archive", .serialized)
struct ReadBackTests {
    private func switched(_ server: Server) async throws -> String {
        let name = try await server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").split(separator: "\n")[0]
        try await server.sql("CREATE TABLE t_\(name)(n int)", "SELECT pg_switch_wal()", "CREATE TABLE u_\(name)(n int)")
        return String(name)
    }

    @Test("a closed segment comes from the server, byte for byte, and from the spool once the server lost it", .timeLimit(.minutes(10)))
    func segment() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let state = try TemporaryDirectory()
        let size = try #require(SegmentSize(bytes: 1 << 20))
        let name = try await switched(server)
        let bytes = try Files.read("\(server.data)/pg_wal/\(name)")
        let back = ReadBack(conninfo: server.conninfo, stateDirectory: state.path, size: size)
        let piece = PieceName(branch: 1, name: name)
        #expect(try await back.content(piece) == [bytes])

        // The spool has let go of it, and lies nearer than the server.
        let spool = try Spool(stateDirectory: state.path, segmentSize: size.bytes)
        let content = [UInt8](repeating: 7, count: 1 << 20)
        try Files.writeDurably(content, to: spool.path(name))
        try spool.discard(name)
        #expect(try spool.readDiscarded(name) == content)
        #expect(try await back.content(piece) == [content])

        let never = PieceName(branch: 1, name: "000000010000000000000000")
        let error = await #expect(throws: ArchiveError.self) { try await back.content(never) }
        #expect(error?.code == .objectMissing)
        await #expect(throws: ArchiveError.self) { try await back.content(PieceName(branch: 1, name: name, part: 0..<1)) }
    }

    @Test("the spool uses the oldest of its files again, so that the newest can still be read")
    func spares() throws {
        let state = try TemporaryDirectory()
        let spool = try Spool(stateDirectory: state.path, segmentSize: 1 << 20)
        let names = (1...4).map { "00000001000000000000000\($0)" }
        for name in names[..<2] { _ = try spool.open(name) }
        for name in names[..<2] { try spool.discard(name) }
        _ = try spool.open(names[2])
        #expect(try spool.readDiscarded(names[0]) == nil && spool.readDiscarded(names[1]) != nil)
        _ = try spool.open(names[3])
        try spool.discard(names[2])
        #expect(try spool.readDiscarded(names[2]) != nil)
    }

    @Test("an agent without the archive's content knows a record that goes on from the last archived segment", .timeLimit(.minutes(10)))
    func straddling() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let state = try TemporaryDirectory()
        let source = { PostgresLogSource(conninfo: server.conninfo, slot: "tidemark", stateDirectory: state.path, tail: 0.1) }
        let first = source()
        let identity = try await first.identify()
        let incarnation = IncarnationRecord(
            source: "main", id: "x-0001", kind: "postgres", identity: identity.identity, number: 1, created: now(), facts: identity.facts, reason: nil)
        let one = Collector()
        let task = Task { await one.run(first, from: ResumeState(incarnation: incarnation)) }
        try await server.sql("CREATE TABLE wide(t text)")
        try await eventually("the stream to begin") { await !one.pieces.isEmpty }
        // A commit record of more than a segment: a message of 2 MiB would be another kind of record, so many subtransactions make it.
        try await server.sql(
            "SET client_min_messages = error; DO $$ BEGIN FOR i IN 1..300000 LOOP BEGIN INSERT INTO wide VALUES ('x'); EXCEPTION WHEN others THEN NULL; END; END LOOP; END $$",
            "SELECT pg_switch_wal()", "CREATE TABLE afterwards(n int)")
        let end = try #require(LSN(String(try await server.sql("SELECT pg_current_wal_flush_lsn()").prefix { $0 != "\n" }))).rawValue
        try await eventually("the stream to reach \(LSN(rawValue: end))") { await one.end >= end }
        await first.stop()
        await task.value
        #expect(await one.failure == nil)

        // The commit begins in one segment and ends in a later one.
        let closed = await one.closed
        let commit = try #require(closed.flatMap(\.events).first { $0.end - $0.start > 1 << 20 })
        let at = try #require(closed.firstIndex { $0.spans[0].end > commit.start })
        var resumed = ResumeState(incarnation: incarnation)
        resumed.lastPiece[1] = closed[at].name
        let two = Collector()
        let second = source()
        let again = Task { await two.run(second, from: resumed) }
        try await eventually("the second stream to reach \(LSN(rawValue: end))") {
            if let failure = await two.failure { throw failure }
            return await two.end >= end
        }
        await second.stop()
        await again.value
        #expect(await two.gaps.isEmpty)
        #expect(await two.closed.flatMap(\.events).contains(commit), "the commit that began in the archived segment is not known")
    }
}
