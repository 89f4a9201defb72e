import ArchiveCore
import Testing

@Suite("Positions and names")
struct VocabularyTests {
    @Test("LSNs are read as PostgreSQL writes them", arguments: [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("ffffffff/ffffffff", UInt64.max)])
    func lsn(_ text: String, _ value: UInt64) throws {
        let lsn = try #require(LSN(text))
        #expect(lsn.rawValue == value)
        #expect(lsn.description == text.uppercased())
    }

    @Test("anything else is no LSN", arguments: ["", "/", "1/", "/1", "1/2/3", "+1/2", "g/1", "123456789/0", "1 /2"])
    func notLSN(_ text: String) { #expect(LSN(text) == nil) }

    @Test("a segment's name means a position only with its size")
    func segmentNames() throws {
        let small = try #require(SegmentSize(bytes: 1 << 20))
        let usual = try #require(SegmentSize(bytes: 16 << 20))
        let large = try #require(SegmentSize(bytes: 1 << 30))
        let text = "0000000A0000001600000003"
        for (size, start) in [(small, 0x16_0030_0000), (usual, 0x16_0300_0000), (large, 0x16_C000_0000)] as [(SegmentSize, UInt64)] {
            let name = try #require(SegmentName(text, size: size))
            #expect(name.start.rawValue == start)
            #expect(name.description == text)
            #expect(name.timeline.rawValue == 10)
        }
        #expect(SegmentName("0000000A0000001600000004", size: large) == nil)
        #expect(SegmentName("0000000a0000001600000003", size: usual) == nil)
        #expect(SegmentName("000000000000001600000003", size: usual) == nil)
        #expect(SegmentName("0000000A00000016000000FF", size: usual)?.next.description == "0000000A0000001700000000")
    }

    @Test("segment sizes are powers of two from 1 MiB to 1 GiB", arguments: [0, 1 << 19, 3 << 20, 1 << 31, UInt64.max])
    func badSizes(_ bytes: UInt64) { #expect(SegmentSize(bytes: bytes) == nil) }

    @Test("partition LSNs are 13 digits of base 36", arguments: [
        (UInt64(1), "0000000000001"), (10, "000000000000a"), (35, "000000000000z"), (36, "0000000000010"), (100, "000000000002s"),
        (123_456, "0000000002n9c"), (UInt64.max, "3w5e11264sgsf"),
    ])
    func partitionLSN(_ value: UInt64, _ text: String) {
        #expect(PartitionLSN(rawValue: value).description == text)
        #expect(PartitionLSN(text)?.rawValue == value)
    }

    @Test("anything else is no partition LSN", arguments: ["", "1", "000000000000A", "3w5e11264sgsg", "zzzzzzzzzzzzz", "+000000000001"])
    func notPartitionLSN(_ text: String) { #expect(PartitionLSN(text) == nil) }

    @Test("piece names survive their path, and nothing else is one")
    func pieceNames() {
        let names = [
            PieceName(branch: 1, name: "000000010000000000000003"),
            PieceName(branch: 1, name: "000000010000000000000003", part: 0x300_0000..<0x300_4A28),
            PieceName(branch: 0, name: "00000000000010FF", suffix: "tar.zst"),
        ]
        for name in names { #expect(PieceName(path: "\(name).\(name.suffix)") == name) }
        for path in ["", "a/b/c", "00000001/x/y.zst", "00000001/000000010000000000000/000000010000000000000003", "00000000/0/0001.gz"] {
            #expect(PieceName(path: path) == nil)
        }
    }

    @Test("keys that could leave the archive are refused", arguments: ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\0", "ü"])
    func badKeys(_ path: String) { #expect(ObjectKey(path) == nil) }
}

@Suite("Times")
struct MomentTests {
    @Test("RFC 3339 with an offset", arguments: [
        ("1970-01-01T00:00:00Z", 0), ("2000-01-01 00:00:00+00", 946_684_800_000_000_000),
        ("2026-11-24T03:53:30.25+01:00", 1_795_488_810_250_000_000), ("1969-12-31T23:59:59.999999999Z", -1),
        ("2024-02-29T12:00:00-05:30", 1_709_227_800_000_000_000),
    ] as [(String, Int64)])
    func reads(_ text: String, _ value: Int64) { #expect(Moment(text)?.rawValue == value) }

    @Test("a time without its offset, or one that never was, is refused", arguments: [
        "2026-11-24T03:53:30", "2026-11-24", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00Zx", "2026-01-01T00:00:00+1", "9999-01-01T00:00:00Z", "2026-01-01T00:00:00.0000000001Z", "",
    ])
    func refuses(_ text: String) { #expect(Moment(text) == nil) }

    @Test("what is written is read back")
    func roundTrip() {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let moment = Moment(rawValue: Int64.random(in: -9_000_000_000_000_000_000...9_000_000_000_000_000_000, using: &random))
            #expect(Moment(moment.description) == moment)
        }
    }

    @Test("PostgreSQL's microseconds, with absurd ones at the ends of the range")
    func postgres() {
        #expect(Moment(postgresMicroseconds: 0).description == "2000-01-01T00:00:00Z")
        #expect(Moment(postgresMicroseconds: .max).rawValue == .max)
        #expect(Moment(postgresMicroseconds: .min).rawValue == .min)
    }
}

@Suite("Records in protobuf's wire format")
struct WireTests {
    private func sample() -> PieceIndex {
        PieceIndex(
            spans: [LogSpan(stream: "wal", branch: 3, start: 16, end: 99, lastRecord: 0), LogSpan(stream: "2", branch: 0, start: 1, end: 2)],
            events: [
                LogEvent(span: 0, start: 20, end: 30, time: Moment(rawValue: -5), kind: .commit, flags: [.drops], number: 7, details: ["", "x"]),
                LogEvent(span: 1, start: 1, end: 2, time: Moment(rawValue: 9), kind: .restorePoint, subject: "ü", frame: 0),
            ],
            frames: [LogFrame(offset: 0, length: 5, rawLength: 10, sha256: [UInt8](repeating: 7, count: 32))],
            storedLength: 5, storedSHA256: [UInt8](repeating: 9, count: 32))
    }

    @Test("an index survives its encoding")
    func roundTrip() throws {
        let index = sample()
        #expect(try PieceIndex(decoding: index.encoded()) == index)
    }

    @Test("every truncation is refused or read without harm")
    func truncated() {
        let bytes = sample().encoded()
        for count in 0..<bytes.count {
            // The digest of the object comes last, so that no shorter run of bytes is a whole index.
            #expect(throws: WireError.self) { try PieceIndex(decoding: Array(bytes[..<count])) }
        }
    }

    @Test("flipped bits do not crash")
    func flipped() {
        let bytes = sample().encoded()
        var survived = 0
        for i in 0..<bytes.count * 8 {
            var damaged = bytes
            damaged[i / 8] ^= 1 << UInt8(i % 8)
            if (try? PieceIndex(decoding: damaged)) != nil { survived += 1 }
        }
        #expect(survived < bytes.count * 8)
    }

    @Test("overlong and wide varints are refused", arguments: [
        [0x80], [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],
    ] as [[UInt8]])
    func varints(_ bytes: [UInt8]) {
        var reader = WireReader(bytes)
        #expect(throws: WireError.self) { try reader.varint() }
    }

    @Test("a tree's paths cannot leave its directory", arguments: ["", "/etc", "a/../b", "..", "a//b", "a\0b"])
    func paths(_ path: String) {
        let index = TreeIndex(entries: [TreeEntry(kind: .file, path: Array(path.utf8), mode: 0o600)], spans: [])
        #expect(throws: WireError.self) { try TreeIndex(decoding: index.encoded()) }
    }

    @Test("CRC-32C of the standard's check value")
    func crc() {
        var crc = CRC32C()
        crc.update(Array("1234".utf8))
        crc.update(Array("56789".utf8))
        #expect(crc.value == 0xE306_9283)
    }
}
