import ArchiveCore
import Testing

@testable import SourceGitaly

@Suite("Log entries")
struct LogEntryTests {
    private static let vector: [UInt8] = {
        let text =
            "0a13406861736865642f64342f37332f782e676974123d0a3b0a0f726566732f68656164732f6d61696e1228313131313131313131313131"
            + "31313131313131313131313131313131313131313131313131313131522a1a280a20406861736865642f64342f37332f782e6769742f7265"
            + "66732f68656164732f6610c083808008522712250a23406861736865642f64342f37332f782e6769742f726566732f68656164732f6d6169"
            + "6e522a0a280a01311a23406861736865642f64342f37332f782e6769742f726566732f68656164732f6d61696e52110a0f0a0840706f6f6c"
            + "732f6110011a0162520a22080a066b762f722f78520a2a080a066b762f722f79"
        let digits = Array(text.utf8)
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)! }
    }()

    @Test("the specification's test vector")
    func vector() throws {
        #expect(Self.vector.count == 256)
        let entry = try LogEntry(decoding: Self.vector)
        let repository = "@hashed/d4/73/x.git"
        #expect(String(decoding: entry.relativePath, as: UTF8.self) == repository)
        #expect(entry.references.map(\.newID) == [String(repeating: "1", count: 40)])
        #expect(
            entry.operations == [
                .makeDirectory(Array("\(repository)/refs/heads/f".utf8), mode: 0o700), .remove(Array("\(repository)/refs/heads/main".utf8)),
                .link(source: [0x31], inStorage: false, destination: Array("\(repository)/refs/heads/main".utf8)),
                .link(source: Array("@pools/a".utf8), inStorage: true, destination: [0x62]), .setKey(Array("kv/r/x".utf8), value: []),
                .deleteKey(Array("kv/r/y".utf8)),
            ])
    }

    @Test("every truncation is refused or is a shorter entry, and no flipped bit crashes")
    func damage() {
        var shorter = 0
        for count in 0..<Self.vector.count { if (try? LogEntry(decoding: Array(Self.vector[..<count]))) != nil { shorter += 1 } }
        // Only at the ends of the eight top-level fields.
        #expect(shorter == 8)
        var refused = 0
        for bit in 0..<Self.vector.count * 8 {
            var damaged = Self.vector
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            if (try? LogEntry(decoding: damaged)) == nil { refused += 1 }
        }
        #expect(refused > 100)
    }

    @Test("paths that would leave the storage are refused", arguments: ["/etc/passwd", "../x", "a/../../x", "a//b", "."])
    func hostile(_ path: String) {
        var writer = WireWriter()
        writer.message(10) { $0.message(2) { $0.text(1, path) } }
        #expect(throws: WireError.self) { try LogEntry(decoding: writer.bytes) }
        var link = WireWriter()
        link.message(10) { w in
            w.message(1) { w in
                w.text(1, path)
                w.number(2, 1)
                w.text(3, "fine")
            }
        }
        #expect(throws: WireError.self) { try LogEntry(decoding: link.bytes) }
    }

    @Test("truncated and garbled frames are refused")
    func frames() throws {
        let frame = EntryFrame.encode(
            partition: "2", lsn: 7, time: Moment(rawValue: 0), manifest: [], files: [("1", .init(bytes: [1, 2, 3], mode: 0o400))])
        let entry = try EntryFrame.decode([frame])
        #expect(entry.lsn == 7 && entry.files["1"]?.bytes == [1, 2, 3] && entry.files["1"]?.mode == 0o400)
        for count in 1..<frame.count where count % 512 != 0 {
            #expect(throws: ArchiveError.self) { try EntryFrame.decode([Array(frame[..<count])]) }
        }
        for i in stride(from: 0, to: 512, by: 3) {
            var damaged = frame
            damaged[i] ^= 0x41
            #expect(throws: ArchiveError.self) { try EntryFrame.decode([damaged]) }
        }
    }
}
