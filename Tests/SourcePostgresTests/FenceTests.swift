import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Testing

@testable import SourcePostgres

@Suite("Fences in PostgreSQL's WAL", .serialized)
struct FenceTests {
    /// A role that may log in and nothing else, and what an administrator's hardening takes away from everybody.
    private func leastRole(_ server: Server) async throws -> String {
        for statement in PostgresFenceWriter.leastPrivilege.split(separator: ";") { try await server.sql(String(statement)) }
        try await server.sql("REVOKE ALL ON DATABASE postgres FROM PUBLIC", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        return "host=\(server.directory.path) port=\(server.port) user=tidemark_fence"
    }

    @Test("a role with LOGIN and CONNECT writes them, and the position is the end that our decoder sees", .timeLimit(.minutes(10)), arguments: Server.bindirs)
    func marks(_ bindir: String) async throws {
        let server = try await Server(bindir)
        let writer = PostgresFenceWriter(anchor: "main", conninfo: try await leastRole(server))
        let start = try #require(LSN(try await server.sql("SELECT pg_walfile_name(pg_switch_wal()), pg_current_wal_insert_lsn()").split(separator: "|").last.map(trimmed) ?? ""))
        var marks: [FenceMark] = []
        for n in 0..<300 {
            let before = now()
            let mark = try await writer.write(id: "f-\(n)", digest: String(repeating: "a", count: 1 + n * 37 % 199))
            // One machine, one clock; the server's counts whole microseconds.
            #expect(mark.anchorTime >= before.adding(seconds: -1e-5) && mark.anchorTime <= now())
            #expect(marks.last.map { $0.position < mark.position } ?? true)
            marks.append(mark)
        }
        #expect(Set(marks.map(\.branch)) == [1])
        #expect(Set(marks.map(\.anchorIdentity)) == [try await server.sql("SELECT system_identifier FROM pg_control_system()").trimmed])
        #expect(try await server.sql("SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'tidemark_fence'").trimmed == "tidemark fence")
        await writer.close()

        // Every marker's record, decoded by the same code that streams: where it begins and ends.
        try await server.sql("SELECT pg_switch_wal()")
        let size: UInt64 = 1 << 20
        var decoder = WALDecoder(start: start.rawValue / size * size, timeline: 1, segmentSize: size, systemID: UInt64(marks[0].anchorIdentity))
        var ends: Set<UInt64> = []
        let last = try #require(marks.last).position
        while decoder.position < last {
            let name = "00000001\(hex(decoder.position / size / 4096, 8))\(hex(decoder.position / size % 4096, 8))"
            let bytes = try Files.read("\(server.data)/pg_wal/\(name)")
            // Byte by byte, since the decoder tells only of the last record that it completed.
            try bytes.withUnsafeBytes { raw in
                for i in 0..<raw.count {
                    try decoder.feed(UnsafeRawBufferPointer(rebasing: raw[i..<i + 1]))
                    if let end = decoder.lastRecordEnd { ends.insert(end) }
                }
            }
        }
        #expect(marks.allSatisfy { ends.contains($0.position) })
    }

    @Test("a standby is refused, and the promoted one serves on its new timeline", .timeLimit(.minutes(10)))
    func standby() async throws {
        let bindir = try #require(Server.bindirs.first)
        let primary = try await Server(bindir)
        let standby = try await Server(bindir, from: primary)
        let writer = PostgresFenceWriter(anchor: "main", conninfo: standby.conninfo)
        let error = await #expect(throws: ArchiveError.self) { try await writer.write(id: "a", digest: "b") }
        #expect(error?.code == .sourceRefused)
        #expect(error?.message.contains("standby") == true)
        try await standby.sql("SELECT pg_promote(true, 60)")
        #expect(try await writer.write(id: "a", digest: "b").branch == 2)
        await writer.close()
    }

    @Test("a restarted server is met again at once; a stopped one is a quick failure without the password", .timeLimit(.minutes(10)))
    func restarts() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let writer = PostgresFenceWriter(anchor: "main", conninfo: server.conninfo + " password=hunter2")
        let first = try await writer.write(id: "a", digest: "b")
        try await server.stop()
        try await server.start()
        #expect(try await writer.write(id: "c", digest: "d").position > first.position)
        try await server.stop()
        let begun = monotonic()
        let error = await #expect(throws: ArchiveError.self) { try await writer.write(id: "e", digest: "f") }
        #expect(monotonic() - begun < PostgresFenceWriter.limit + 1)
        #expect(error?.code == .sourceUnreachable)
        #expect(error.map { !"\($0)".contains("hunter2") } == true)
        await writer.close()
    }

    @Test("a server that accepts and never answers costs two seconds, and the next call says so at once or tries anew", .timeLimit(.minutes(10)))
    func silent() async throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listener) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let port = try withUnsafeMutablePointer(to: &address) { pointer in
            try pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                try #require(bind(listener, $0, size) == 0 && listen(listener, 8) == 0 && getsockname(listener, $0, &size) == 0)
            }
            return UInt16(bigEndian: pointer.pointee.sin_port)
        }
        let writer = PostgresFenceWriter(anchor: "main", conninfo: "host=127.0.0.1 port=\(port) user=x dbname=x")
        for _ in 0..<2 {
            let begun = monotonic()
            let error = await #expect(throws: ArchiveError.self) { try await writer.write(id: "a", digest: "b") }
            #expect(error?.code == .sourceUnreachable)
            #expect(monotonic() - begun < PostgresFenceWriter.limit + 1)
        }
        await writer.close()
    }

    @Test("rights taken away from everybody are answered with the SQL that gives them", .timeLimit(.minutes(10)))
    func refused() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let conninfo = try await leastRole(server)
        try await server.sql("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC")
        let writer = PostgresFenceWriter(anchor: "main", conninfo: conninfo)
        let error = await #expect(throws: ArchiveError.self) { try await writer.write(id: "a", digest: "b") }
        #expect(error?.code == .sourceRefused)
        #expect(error?.remedy?.contains(PostgresFenceWriter.leastPrivilege) == true)
        try await server.sql("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO tidemark_fence")
        _ = try await writer.write(id: "a", digest: "b")
        await writer.close()
    }
}

private func trimmed(_ text: Substring) -> String { String(text).trimmed }

extension String {
    fileprivate var trimmed: String { String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed()) }
}
