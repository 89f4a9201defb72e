import ArchiveCore
import ArchiveTesting
import Source
import Testing

@testable import SourcePostgres

@Suite("Records of the commit index")
struct RecordTests {
    private func body(_ data: [UInt8]) -> [UInt8] { (data.count < 256 ? [255, UInt8(data.count)] : [254] + little(UInt32(data.count))) + data }

    private func event(_ record: [UInt8], major: Int = 15) -> LogEvent? {
        record.withUnsafeBytes { TransactionRecord.event($0, start: 8, end: 16, major: major) }
    }

    private func ending(_ ending: Ending, operation: UInt8 = 0, xid: UInt32 = 700, major: Int = 15) -> [UInt8] {
        let (info, data) = ending.encoded(major: major)
        return WALBuilder.record(manager: 1, info: info | operation, xid: xid, previous: 0, body(data))
    }

    private let full = Ending(
        time: 123_456_789, database: true, subtransactions: Array(1...100), relations: (0..<40).map { (1663, 5, 16_000 + $0) }, statistics: 7,
        invalidations: 9, prepared: 4711, origin: 99)

    @Test("a commit with everything is read in every version", arguments: 13...18)
    func everything(_ major: Int) throws {
        var ending = full
        if major < 15 { ending.statistics = 0 }
        let found = try #require(event(self.ending(ending, operation: 0x30, xid: 0, major: major), major: major))
        #expect(found.kind == .commit && found.number == 4711 && found.flags == .drops)
        // Not the origin's.
        #expect(found.time == Moment(postgresMicroseconds: 123_456_789))
        #expect(found.details == ["40"] + (0..<32).map { "1663/5/\(16_000 + $0)" })
        #expect(found.start == 8 && found.end == 16)
    }

    @Test("commits, aborts and prepared transactions are told apart")
    func kinds() throws {
        let plain = Ending()
        #expect(event(ending(plain))?.kind == .commit)
        #expect(event(ending(plain, operation: 0x20))?.kind == .abort)
        #expect(event(ending(Ending(prepared: 9), operation: 0x40, xid: 0))?.number == 9)
        // An abort takes back files that it made: that drops nothing of anybody's.
        let abort = try #require(event(ending(full, operation: 0x20)))
        #expect(abort.flags == [] && abort.details == [] && abort.number == 4711)
        for operation: UInt8 in [0x50, 0x60, 0x70] { #expect(event(ending(plain, operation: operation)) == nil) }
        let prepare = little(UInt32(0x57F9_4534)) + little(UInt32(300)) + little(UInt32(815)) + little(UInt32(5)) + little(Int64(42)) + [UInt8](repeating: 1, count: 60)
        let found = try #require(event(WALBuilder.record(manager: 1, info: 0x10, xid: 815, previous: 0, body(prepare))))
        #expect(found.kind == .prepare && found.number == 815 && found.time == Moment(postgresMicroseconds: 42))
        let point = little(Int64(43)) + Array("before the upgrade".utf8) + [UInt8](repeating: 0, count: 46)
        let named = try #require(event(WALBuilder.record(manager: 0, info: 0x70, xid: 0, previous: 0, body(point))))
        #expect(named.kind == .restorePoint && named.subject == "before the upgrade" && named.time == Moment(postgresMicroseconds: 43))
        // An origin and a top-level transaction stand before the main data.
        let (info, data) = plain.encoded(major: 15)
        #expect(event(WALBuilder.record(manager: 1, info: info, xid: 1, previous: 0, [253, 1, 0, 252, 9, 0, 0, 0] + body(data)))?.kind == .commit)
        // Records with block references are no ends of transactions.
        #expect(event(WALBuilder.record(manager: 1, info: info, xid: 1, previous: 0, [0, 0, 0, 0] + body(data))) == nil)
    }

    @Test("every truncation of a commit record is survived, and every way to cut it in two says the same")
    func truncations() throws {
        let record = ending(full, operation: 0x30)
        let whole = try #require(event(record))
        for count in 24..<record.count {
            let found = event(Array(record[..<count]))
            // Up to the time nothing is known, from there on it is a commit of that time.
            #expect((found == nil) == (count < 24 + 5 + 8))
            #expect(found.map { $0.time == whole.time && $0.kind == .commit } ?? true)
            let joined: LogEvent? = record.withUnsafeBytes { bytes in
                guard var parts = TransactionRecord(header: bytes, major: 15) else { return nil }
                parts.feed(UnsafeRawBufferPointer(rebasing: bytes[24..<count]))
                parts.feed(UnsafeRawBufferPointer(rebasing: bytes[count...]))
                return parts.event(start: 8, end: 16)
            }
            #expect(joined == whole)
        }
    }

    @Test("counts that the record cannot hold are not believed", arguments: [UInt32.max, 0x8000_0000, 0x7FFF_FFFF, 1 << 20, 41, 1000])
    func hostileCounts(_ count: UInt32) throws {
        let (_, data) = full.encoded(major: 15)
        let sections = [20, 20 + 4 + 400, 20 + 4 + 400 + 4 + 480, 20 + 4 + 400 + 4 + 480 + 4 + 84]
        for at in sections {
            var hostile = data
            hostile.replaceSubrange(at..<at + 4, with: little(count))
            for operation: UInt8 in [0x00, 0x30, 0x20, 0x40] {
                let found = try #require(event(WALBuilder.record(manager: 1, info: 0x80 | operation, xid: 700, previous: 0, body(hostile))))
                #expect(found.time == Moment(postgresMicroseconds: 123_456_789))
                #expect(found.details.count <= 1 + TransactionRecord.namedRelations)
            }
        }
        // A main data length that the record does not have.
        for length in [UInt32.max, 9, 0] {
            _ = event(WALBuilder.record(manager: 1, info: 0x80, xid: 1, previous: 0, [254] + little(length) + data))
            _ = event(WALBuilder.record(manager: 0, info: 0x70, xid: 1, previous: 0, [254] + little(length) + data))
            _ = event(WALBuilder.record(manager: 21, info: 0, xid: 1, previous: 0, [254] + little(length) + data))
        }
    }

    private func message(_ data: [UInt8], xid: UInt32 = 0) -> LogEvent? {
        event(WALBuilder.record(manager: 21, info: 0, xid: xid, previous: 0, body(data)))
    }

    private let prefix = Array("tidemark\0".utf8)

    @Test("our own messages are fences, transactional or not")
    func fences() throws {
        for transactional in [false, true] {
            let found = try #require(message(logicalMessage(prefix, Array("fence 0019-ab 00ffAB".utf8), transactional: transactional), xid: 5))
            #expect(found.kind == .fence && found.subject == "0019-ab" && found.details == ["00ffAB"])
            #expect(found.time == Moment(rawValue: 0) && found.number == 5 && found.flags == [])
        }
        let longest = "fence \(String(repeating: "z", count: 64)) \(String(repeating: "f", count: 128))"
        #expect(message(logicalMessage(prefix, Array(longest.utf8)))?.subject.count == 64)
    }

    @Test("any other message is ignored", arguments: [
        "", "fence", "fence ", "fence a", "fence a ", "fence  00", "fence a 0g", "fence a 00 ", "fence a 00\0", " fence a 00", "Fence a 00", "fence a_b 00",
        "fence a/b 00", "fence ä 00", "fence \u{FEFF}a 00", "fence \(String(repeating: "a", count: 65)) 00", "fence a \(String(repeating: "0", count: 129))",
        "fence a b 00", "fence a 00\n",
    ])
    func noFences(_ text: String) {
        #expect(message(logicalMessage(prefix, Array(text.utf8))) == nil)
    }

    @Test("damaged and hostile messages are ignored")
    func hostileMessages() {
        let good = Array("fence a 00".utf8)
        #expect(message(logicalMessage(prefix, good)) != nil)
        #expect(message(logicalMessage(prefix, [0x66, 0x65, 0x6E, 0x63, 0x65, 0x20, 0xFF, 0x20, 0x30])) == nil)
        #expect(message(logicalMessage(Array("other\0".utf8), good)) == nil)
        #expect(message(logicalMessage(Array("tidemark2".utf8), good)) == nil)
        #expect(message(logicalMessage(Array("tidemar\0".utf8), good)) == nil)
        for size: UInt64 in [0, 1, 8, 10, 100, 1 << 31, 1 << 32, 1 << 62, 1 << 63, .max] {
            #expect(message(logicalMessage(prefix, good, prefixSize: size)) == nil)
        }
        for size: UInt64 in [0, 11, 256, 257, 1 << 31, 1 << 32, 1 << 62, 1 << 63, .max] {
            #expect(message(logicalMessage(prefix, good, messageSize: size)) == nil)
        }
        let record = WALBuilder.record(manager: 21, info: 0, xid: 0, previous: 0, body(logicalMessage(prefix, good)))
        for count in 24..<record.count { #expect(event(Array(record[..<count])) == nil) }
        // A large one of somebody else's.
        #expect(message(logicalMessage(Array("big\0".utf8), [UInt8](repeating: 7, count: 3 << 20))) == nil)
    }

    @Test("random bytes never trap", arguments: 1...20)
    func random(_ seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        let seeds = [ending(full, operation: 0x30), ending(full), WALBuilder.record(manager: 21, info: 0, xid: 0, previous: 0, body(logicalMessage(prefix, Array("fence a 00".utf8))))]
        for round in 0..<2000 {
            var bytes: [UInt8]
            if round % 2 == 0 {
                bytes = (0..<Int.random(in: 24...400, using: &random)).map { _ in UInt8.random(in: .min ... .max, using: &random) }
                bytes[17] = [0, 1, 21, 1][Int.random(in: 0..<4, using: &random)]
            } else {
                bytes = seeds[Int.random(in: 0..<seeds.count, using: &random)]
                for _ in 0..<Int.random(in: 1...6, using: &random) {
                    bytes[Int.random(in: 0..<bytes.count, using: &random)] = [0, 1, 127, 128, 254, 255][Int.random(in: 0..<6, using: &random)]
                }
            }
            let major = Int.random(in: 13...18, using: &random)
            let whole = event(bytes, major: major)
            // In parts of any size it says the same.
            let parts: LogEvent? = bytes.withUnsafeBytes { raw in
                guard var record = TransactionRecord(header: raw, major: major) else { return nil }
                var at = 24
                while at < raw.count {
                    let n = min(raw.count - at, Int.random(in: 1...40, using: &random))
                    record.feed(UnsafeRawBufferPointer(rebasing: raw[at..<at + n]))
                    at += n
                }
                return record.event(start: 8, end: 16)
            }
            #expect(whole == parts, "seed \(seed), round \(round)")
        }
    }
}

@Suite("WAL of many segments")
struct SegmentsTests {
    private let size = SegmentSize(bytes: 1 << 20)!

    /// Some commits, a record of 3 MB, a commit record of more than a megabyte, and another segment.
    private static let log15 = log(major: 15)
    static func log(major: Int) -> WALBuilder {
        var log = WALBuilder(major: major)
        func commit(_ xid: UInt32, _ ending: Ending, operation: UInt8 = 0) {
            let (info, data) = ending.encoded(major: major)
            log.append(manager: 1, info: info | operation, xid: operation == 0 ? xid : 0, data)
        }
        for xid in 1...50 as ClosedRange<UInt32> { commit(xid, Ending(time: Int64(xid))) }
        log.append(manager: 21, info: 0, logicalMessage(Array("big\0".utf8), [UInt8](repeating: 7, count: 3 << 20)))
        commit(51, Ending(time: 51))
        commit(
            0,
            Ending(
                time: 52, subtransactions: Array(1000..<400_000), relations: (0..<100_000).map { (1663, 5, $0) }, statistics: major >= 15 ? 500 : 0,
                invalidations: 30_000, prepared: 52), operation: 0x30)
        log.append(manager: 21, info: 0, logicalMessage(Array("tidemark\0".utf8), Array("fence one 00".utf8)))
        commit(53, Ending(time: 53))
        log.switchSegment()
        commit(54, Ending(time: 54))
        log.switchSegment()
        return log
    }

    /// The same in small, for tests that read it many times: a message and a commit record over segments, and two more segments.
    static let short: WALBuilder = {
        var log = WALBuilder()
        func commit(_ xid: UInt32, _ ending: Ending, operation: UInt8 = 0) {
            let (info, data) = ending.encoded(major: 15)
            log.append(manager: 1, info: info | operation, xid: operation == 0 ? xid : 0, data)
        }
        for xid in 1...50 as ClosedRange<UInt32> { commit(xid, Ending(time: Int64(xid))) }
        log.append(manager: 21, info: 0, logicalMessage(Array("big\0".utf8), [UInt8](repeating: 7, count: 1_300_000)))
        commit(51, Ending(time: 51))
        commit(0, Ending(time: 52, subtransactions: Array(1000..<300_000), prepared: 52), operation: 0x30)
        log.append(manager: 21, info: 0, logicalMessage(Array("tidemark\0".utf8), Array("fence one 00".utf8)))
        for xid in 53...55 as ClosedRange<UInt32> {
            commit(xid, Ending(time: Int64(xid)))
            log.switchSegment()
        }
        return log
    }()

    @Test("records of megabytes are read over pages and segments in parts of any size", arguments: 13...18)
    func large(_ major: Int) throws {
        let log = Self.log(major: major)
        var random = SeededRandom(seed: UInt64(major))
        var decoder = WALDecoder(start: log.start, timeline: 1, segmentSize: size.bytes, systemID: 77)
        try log.bytes.withUnsafeBytes { raw in
            var at = 0
            while at < raw.count {
                let n = min(raw.count - at, Int.random(in: 1...200_000, using: &random))
                try decoder.feed(UnsafeRawBufferPointer(rebasing: raw[at..<at + n]))
                at += n
            }
        }
        #expect(decoder.events.map(\.number) == (1...52).map { UInt64($0) } + [0, 53, 54])
        let large = try #require(decoder.events.first { $0.number == 52 })
        #expect(large.flags == .drops && large.details.count == 33 && large.details[0] == "100000" && large.details[32] == "1663/5/31")
        #expect(large.end - large.start > 3 << 20)
        #expect(decoder.events.contains { $0.kind == .fence && $0.subject == "one" })
    }

    @Test("archived pieces say again what the source said, in segments and tails, wherever reading begins")
    func indexer() throws {
        let log = Self.log15
        var all = WALIndexer(size: size, systemID: 77)
        var events: [LogEvent] = []
        for (name, content) in log.segments {
            let before = all
            let found = try #require(try all.read(name, frames: [content]))
            events += found.events
            // The same segment in tails.
            let base = try #require(SegmentName(name.name, size: size)).start.rawValue
            var tails = before
            var parts: [LogEvent] = []
            for (from, to) in [(0, 8192), (8192, 500_000), (500_000, 1 << 20)] {
                let tail = PieceName(branch: 1, name: name.name, part: base + UInt64(from)..<base + UInt64(to))
                let part = try #require(try tails.read(tail, frames: [Array(content[from..<to])]))
                #expect(part.spans == [LogSpan(stream: "wal", branch: 1, start: base + UInt64(from), end: base + UInt64(to), lastRecord: part.spans[0].lastRecord)])
                parts += part.events
            }
            #expect(parts == found.events)
        }
        #expect(events.count == 55)
        // Behind a hole: what begins before it is passed over, a tail's middle means nothing.
        let segments = log.segments
        var late = WALIndexer(size: size, systemID: 77)
        let last = try #require(try late.read(segments[segments.count - 2].name, frames: [segments[segments.count - 2].content]))
        #expect(last.events.map(\.subject) == ["one", ""] && last.events.map(\.number) == [0, 53])
        var middle = WALIndexer(size: size, systemID: 77)
        let start = log.start
        #expect(try middle.read(PieceName(branch: 1, name: segments[0].name.name, part: start + 8192..<start + 16_384), frames: [Array(segments[0].content[8192..<16_384])]) == nil)
        // Damage is damage, and does not spread to the next piece.
        var damaged = segments[0].content
        damaged[100] ^= 1
        var reader = WALIndexer(size: size, systemID: 77)
        #expect(throws: ArchiveError.self) { try reader.read(segments[0].name, frames: [damaged]) }
        #expect(throws: ArchiveError.self) { try reader.read(segments[0].name, frames: [Array(segments[0].content.dropLast())]) }
        #expect(throws: ArchiveError.self) { try reader.read(PieceName(branch: 2, name: segments[0].name.name), frames: [segments[0].content]) }
        #expect(try reader.read(segments[0].name, frames: [segments[0].content])?.events.count == 50)
    }

    @Test("after a restart the record that goes on from the archive's last segment is known", arguments: 1...9)
    func restart(_ archived: Int) async throws {
        let log = Self.log15
        let segments = log.segments
        let incarnation = IncarnationRecord(
            source: "main", id: "77-0001", kind: "postgres", identity: "77", number: 1, created: Moment(rawValue: 0), facts: ["segment-size": "1048576"], reason: nil)
        let last = min(archived, segments.count)
        var resume = ResumeState(incarnation: incarnation, lastPiece: [1: segments[last - 1].name])
        resume.content = { name in
            guard let found = segments[..<last].first(where: { $0.name == name }) else { throw ArchiveError(.objectMissing, "\(name)") }
            return [found.content]
        }
        var whole = WALIndexer(size: size, systemID: 77)
        var expected: [LogEvent] = []
        for (number, segment) in segments.enumerated() {
            let content = try whole.read(segment.name, frames: [segment.content])
            if number >= last { expected += content?.events ?? [] }
        }
        var decoder = try #require(try await WALDecoder.behind(resume, size: size))
        #expect(decoder.position == log.start + UInt64(last) << 20)
        #expect(decoder.events.isEmpty)
        for segment in segments[last...] { try segment.content.withUnsafeBytes { try decoder.feed($0) } }
        #expect(decoder.events == expected)
    }
}
