import ArchiveCore
import DurableIO
import Testing

@testable import SourcePostgres

@Suite("WAL as pg_waldump reads it", .serialized)
struct WALTests {
    /// What pg_waldump says of one record.
    struct Line: Hashable {
        var lsn: UInt64
        var xid: UInt64
        var kind: String
    }

    @Test("every record is counted, every commit and abort found", .timeLimit(.minutes(10)), arguments: Server.bindirs, [1])
    func agrees(_ bindir: String, _ megabytes: Int) async throws { try await compare(bindir, megabytes) }

    @Test("segments of 64 MB too", .timeLimit(.minutes(10)))
    func large() async throws { try await compare(try #require(Server.bindirs.first), 64) }

    private func compare(_ bindir: String, _ megabytes: Int) async throws {
        let server = try await Server(bindir, segmentMegabytes: megabytes)
        try await server.sql("SELECT pg_create_physical_replication_slot('keep', true)")
        for name in ["one", "two", "three"] { try await server.work(name) }
        try await server.stop()
        let size = try #require(SegmentSize(bytes: UInt64(megabytes) << 20))
        let names = try Files.names(in: server.data + "/pg_wal").compactMap { SegmentName($0, size: size) }.sorted { $0.index < $1.index }
        let first = try #require(names.first)
        // The last file may be a recycled one: pg_waldump stops at the same place as we do.
        var decoder = WALDecoder(start: first.start.rawValue, timeline: 1, segmentSize: size.bytes, systemID: nil)
        for name in names {
            let bytes = try Files.read("\(server.data)/pg_wal/\(name)")
            do { try bytes.withUnsafeBytes { try decoder.feed($0) } } catch { break }
        }
        let output = try await server.run("pg_waldump", ["-p", server.data + "/pg_wal", "-s", "\(first.start)", "-e", "\(LSN(rawValue: try #require(decoder.lastRecordEnd)))"])
        let lines = output.split(separator: "\n")
        func field(_ line: Substring, _ name: String) -> Substring? {
            line.firstRange(of: name).map { line[$0.upperBound...].drop { $0 == " " }.prefix { $0 != "," && $0 != " " } }
        }
        #expect(lines.count > 3000)
        #expect(Int(decoder.recordCount) == lines.count)
        let expected = lines.compactMap { line -> Line? in
            guard line.contains("rmgr: Transaction"), let text = field(line, "lsn: "), let lsn = LSN(String(text)), let desc = field(line, "desc: ") else { return nil }
            let kind: String
            switch desc {
            case "COMMIT", "COMMIT_PREPARED": kind = "commit"
            case "ABORT", "ABORT_PREPARED": kind = "abort"
            default: return nil
            }
            let own = field(line, "tx: ").flatMap { UInt64($0) } ?? 0
            let prepared = desc.hasSuffix("PREPARED") ? line.firstRange(of: "PREPARED ").flatMap { UInt64(line[$0.upperBound...].prefix { $0.isNumber }) } : nil
            return Line(lsn: lsn.rawValue, xid: prepared ?? own, kind: kind)
        }
        let found = decoder.events.filter { $0.kind == .commit || $0.kind == .abort }
            .map { Line(lsn: $0.start, xid: $0.number, kind: $0.kind == .commit ? "commit" : "abort") }
        #expect(found == expected)
        #expect(found.contains { $0.kind == "abort" })
        #expect(decoder.events.filter { $0.kind == .restorePoint }.map(\.subject) == ["point-one", "point-two", "point-three"])
        #expect(decoder.events.contains { $0.flags.contains(.drops) })
        // pg_waldump prints microseconds, as we keep them.
        let times = lines.filter { $0.contains("rmgr: Transaction") && $0.contains("desc: COMMIT 2") }.count
        #expect(times > 5)
    }

    @Test("a flipped bit or a missing page is noticed wherever it is", .timeLimit(.minutes(10)))
    func damage() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        try await server.sql("SELECT pg_create_physical_replication_slot('keep', true)")
        try await server.work("one", rows: 6000)
        try await server.stop()
        let size = try #require(SegmentSize(bytes: 1 << 20))
        let names = try Files.names(in: server.data + "/pg_wal").compactMap { SegmentName($0, size: size) }.sorted { $0.index < $1.index }
        func check(_ bytes: [UInt8], _ name: SegmentName, timeline: UInt32 = 1, system: UInt64? = nil) -> Bool {
            var decoder = WALDecoder(start: name.start.rawValue, timeline: timeline, segmentSize: size.bytes, systemID: system)
            do {
                try bytes.withUnsafeBytes { try decoder.feed($0) }
                return true
            } catch { return false }
        }
        // A whole one, that begins with no record of which the start is missing.
        let name = try #require(
            try names.first { name in check(try Files.read("\(server.data)/pg_wal/\(name)"), name) }, "no segment is whole")
        let bytes = try Files.read("\(server.data)/pg_wal/\(name)")
        var random = SystemRandomNumberGenerator()
        var missed = 0
        for _ in 0..<200 {
            var damaged = bytes
            let at = Int.random(in: 8192..<500_000, using: &random)
            damaged[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            // Padding between records means nothing.
            if check(damaged, name) { missed += 1 }
        }
        #expect(missed < 10)
        #expect(!check(bytes, name, system: 1))
        var zeroed = bytes
        for i in 16_384..<24_576 { zeroed[i] = 0 }
        #expect(!check(zeroed, name))
        #expect(!check(Array(bytes[8192...]), name))
    }
}
