import ArchiveCore
import Digests
import ArchiveTesting
import Pack
import Source
import SourcePostgres
import Store
import Testing

@testable import Catalog

/// A short log of `SegmentsTests` archived in memory, and what was done to it.
private struct Archive {
    let store: MemoryStore
    let catalog: Catalog
    let incarnation: IncarnationRecord
    var names: [PieceName] = []

    static func record(kind: String = "postgres") -> IncarnationRecord {
        IncarnationRecord(
            source: "main", id: "77-0001", kind: kind, identity: "77", number: 1, created: Moment(rawValue: 0), facts: ["segment-size": "1048576"],
            reason: nil)
    }

    /// Packed once for all tests.
    private static let packed = Result { try pack(SegmentsTests.short.segments) }

    init(kind: String = "postgres") async throws {
        store = MemoryStore()
        catalog = try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test")
        incarnation = Self.record(kind: kind)
        try await catalog.record(incarnation)
        for piece in try Self.packed.get() {
            try await catalog.store(piece, of: incarnation)
            names.append(piece.name)
        }
    }

    private static func pack(_ pieces: [(name: PieceName, content: [UInt8])]) throws -> [PackedPiece] {
        guard var reader = try PostgresKind().makeIndexer(for: record()) else { throw ArchiveError(.archiveDamaged, "no indexer") }
        return try pieces.map { name, bytes in
            let content = try #require(try reader.read(name, frames: [bytes]))
            return try PiecePacker.pack(LogPiece(name: name, frames: [bytes], spans: content.spans, events: content.events, sequence: 1))
        }
    }

    func add(_ pieces: [(name: PieceName, content: [UInt8])]) async throws {
        for piece in try Self.pack(pieces) { try await catalog.store(piece, of: incarnation) }
    }

    func content(_ name: PieceName) -> ObjectKey { catalog.dataKey(name, of: incarnation) }
    func index(_ name: PieceName) -> ObjectKey { ObjectKey(known: content(name).path + ".idx") }

    func change(_ key: ObjectKey, _ body: (inout [UInt8]) -> Void) async throws {
        var bytes = try await store.get(key)
        body(&bytes)
        await store.remove(key)
        try await store.put(bytes, at: key)
    }

    func verify(contents: Bool = false, reindex: Bool = false) async throws -> VerifyReport {
        let reports = try await catalog.verify(source: "main", kinds: [PostgresKind()], options: VerifyOptions(contents: contents, reindex: reindex))
        return try #require(reports.last)
    }

    /// Finds nothing, however thorough the look.
    func isFine() async throws -> Bool {
        for (contents, reindex) in [(false, false), (true, false), (false, true), (true, true)] {
            if try await verify(contents: contents, reindex: reindex).findings.contains(where: \.isProblem) { return false }
        }
        return true
    }
}

extension VerifyReport {
    fileprivate var codes: [VerifyFinding.Code] { findings.map(\.code) }
}

@Suite("Verifying an archive")
struct VerifyTests {
    @Test("a whole archive is fine, and is counted")
    func whole() async throws {
        let archive = try await Archive()
        let quick = try await archive.verify()
        #expect(quick.findings.isEmpty && quick.pieces == archive.names.count && quick.provenPieces == 0 && quick.comparedPieces == 0)
        let thorough = try await archive.verify(contents: true, reindex: true)
        #expect(thorough.findings.isEmpty && thorough.provenPieces == archive.names.count && thorough.comparedPieces == archive.names.count)
        #expect(thorough.events == 56 && thorough.rewrittenIndexes == 0 && thorough.provenBytes == quick.bytes)
    }

    @Test("an index that is missing or damaged is written anew from the content, just as it was", arguments: ["missing", "garbage", "empty", "digest", "cut"])
    func rewritten(_ damage: String) async throws {
        let archive = try await Archive()
        for name in archive.names.dropLast() {
            let key = archive.index(name)
            let before = try await archive.store.get(key)
            switch damage {
            case "missing": await archive.store.remove(key)
            case "garbage": try await archive.change(key) { $0 = [0xFF, 1, 2, 3] }
            case "empty": try await archive.change(key) { $0 = [] }
            case "digest": try await archive.change(key) { $0[$0.count - 1] ^= 1 }
            default: try await archive.change(key) { $0.removeLast(40) }
            }
            let found = try await archive.verify(contents: true)
            #expect(found.codes.first == (damage == "missing" ? .indexMissing : damage == "digest" ? .contentDamaged : .indexDamaged))
            #expect(found.findings.count == 1 && !found.findings[0].isRepaired, "\(found.findings)")
            let repaired = try await archive.verify(reindex: true)
            #expect(repaired.codes == [damage == "missing" ? .indexMissing : .indexDamaged] && repaired.findings[0].isRepaired && repaired.rewrittenIndexes == 1)
            #expect(try await archive.store.get(key) == before)
        }
        #expect(try await archive.isFine())
    }

    @Test("an index that says other things than the content is reported and left alone")
    func differs() async throws {
        let archive = try await Archive()
        let name = archive.names[0]
        var index = try await archive.catalog.index(of: name, of: archive.incarnation)
        index.events.remove(at: 7)
        index.events[3].time = Moment(rawValue: 1)
        let wrong = index.encoded()
        try await archive.change(archive.index(name)) { $0 = wrong }
        let report = try await archive.verify(reindex: true)
        #expect(report.codes == [.indexDiffers] && !report.findings[0].isRepaired)
        #expect(report.findings[0].message.contains("lacks 2 of 50") && report.findings[0].message.contains("has, besides, 1"))
        #expect(try await archive.store.get(archive.index(name)) == wrong)
        await archive.store.remove(archive.index(name))
        #expect(try await archive.verify(reindex: true).rewrittenIndexes == 1)
        #expect(try await archive.isFine())
    }

    @Test("content that is missing, short, or of other bytes is named, and never touched")
    func content() async throws {
        let archive = try await Archive()
        let name = archive.names[2]
        let good = try await archive.store.get(archive.content(name))
        try await archive.change(archive.content(name)) { $0[$0.count / 2] ^= 1 }
        #expect(try await archive.verify().findings.isEmpty)
        for reindex in [false, true] {
            let report = try await archive.verify(contents: true, reindex: reindex)
            #expect(report.codes == [.contentDamaged] && report.findings[0].object == archive.content(name).path && report.rewrittenIndexes == 0)
        }
        try await archive.change(archive.content(name)) { $0.removeLast() }
        #expect(try await archive.verify().codes == [.contentDamaged])
        await archive.store.remove(archive.content(name))
        let missing = try await archive.verify(contents: true, reindex: true)
        #expect(missing.codes == [.contentMissing] && missing.findings[0].message.contains("0/300000"))
        try await archive.store.put(good, at: archive.content(name))
        #expect(try await archive.isFine())
    }

    @Test("content that was archived as damaged is told by its CRCs")
    func damagedWAL() async throws {
        let archive = try await Archive()
        let name = archive.names[0]
        var frames = try await archive.catalog.read(name, index: try await archive.catalog.index(of: name, of: archive.incarnation), of: archive.incarnation)
        frames[0][1000] ^= 1
        let old = try await archive.catalog.index(of: name, of: archive.incarnation)
        try await archive.catalog.remove(name, of: archive.incarnation)
        try await archive.catalog.store(try PiecePacker.pack(LogPiece(name: name, frames: frames, spans: old.spans, events: old.events, sequence: 1)), of: archive.incarnation)
        #expect(try await archive.verify().findings.isEmpty)
        #expect(try await archive.verify(contents: true).codes == [.contentDamaged])
        await archive.store.remove(archive.index(name))
        let report = try await archive.verify(reindex: true)
        #expect(report.codes == [.indexMissing] && !report.findings[0].isRepaired && report.rewrittenIndexes == 0)
    }

    @Test("a hole is named; one that was recorded is a gap and not a second problem")
    func holes() async throws {
        let archive = try await Archive()
        try await archive.catalog.remove(archive.names[3], of: archive.incarnation)
        let report = try await archive.verify()
        #expect(report.codes == [.hole] && report.findings[0].message.contains("0/400000 to 0/500000"), "\(report.findings)")
        try await archive.catalog.record(
            GapRecord(stream: "wal", branch: 1, start: 0x40_0000, end: 0x50_0000, noticed: Moment(rawValue: 0), cause: "the slot was lost"), of: archive.incarnation)
        let known = try await archive.verify(contents: true, reindex: true)
        #expect(known.codes == [.gap] && known.findings[0].message.contains("the slot was lost"))
    }

    @Test("what an agent has in hand is no problem")
    func unfinished() async throws {
        let archive = try await Archive()
        let last = try #require(archive.names.last)
        await archive.store.remove(archive.index(last))
        for reindex in [false, true] {
            let report = try await archive.verify(contents: true, reindex: reindex)
            #expect(report.codes == [.unfinished] && !report.findings[0].isProblem)
            #expect(report.findings[0].object == archive.content(last).path)
        }
    }

    @Test("tails count where no closed piece does, and holes between them are holes")
    func tails() async throws {
        let log = SegmentsTests.short
        let archive = try await Archive()
        let last = try #require(archive.names.last)
        let start = log.start + UInt64(archive.names.count - 1) << 20
        try await archive.catalog.remove(last, of: archive.incarnation)
        let bytes = log.segments[archive.names.count - 1].content
        func tail(_ from: Int, _ to: Int) -> (PieceName, [UInt8]) {
            (PieceName(branch: 1, name: last.name, part: start + UInt64(from)..<start + UInt64(to)), Array(bytes[from..<to]))
        }
        try await archive.add(log.segments.dropLast() + [tail(0, 8192), tail(8192, 40_000), tail(40_000, 300_000)])
        #expect(try await archive.isFine())
        let middle = tail(8192, 40_000).0
        let before = try await archive.store.get(archive.index(middle))
        await archive.store.remove(archive.index(middle))
        #expect(try await archive.verify().codes == [.indexMissing])
        #expect(try await archive.verify(reindex: true).rewrittenIndexes == 1)
        #expect(try await archive.store.get(archive.index(middle)) == before)
        try await archive.catalog.remove(middle, of: archive.incarnation)
        #expect(try await archive.verify(contents: true, reindex: true).codes == [.hole])
        // The closed segment comes, and its tails are not removed yet.
        try await archive.add(log.segments)
        let report = try await archive.verify(contents: true, reindex: true)
        #expect(report.codes == [.unfinished] && !report.findings[0].isProblem, "\(report.findings)")
    }

    @Test("timelines follow each other where their records say so")
    func timelines() async throws {
        let archive = try await Archive()
        // The second timeline leaves the first in its last but one segment.
        let switchPoint = UInt64(0x10_0000 + (archive.names.count - 2) << 20 + 4096)
        var second = WALBuilder(start: switchPoint & ~0xF_FFFF, timeline: 2)
        second.append(manager: 1, info: 0, xid: 1, little(Int64(1)))
        second.switchSegment()
        try await archive.add(second.segments)
        #expect(try await archive.verify().codes == [.recordDamaged])
        let record = BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: switchPoint)], file: Array("1\t0/0\tno reason\n".utf8), fileName: "00000002.history")
        try await archive.catalog.record(record, of: archive.incarnation)
        #expect(try await archive.isFine())
        // The file as PostgreSQL wants it is an object of its own.
        let file = ObjectKey(known: "branches/main/77-0001/00000002.history")
        await archive.store.remove(file)
        #expect(try await archive.verify().codes == [.recordDamaged])
        try await archive.store.put(record.file, at: file)
        // The first timeline ends before the second begins.
        for name in archive.names.suffix(3) { try await archive.catalog.remove(name, of: archive.incarnation) }
        let report = try await archive.verify()
        #expect(report.codes == [.hole] && report.findings[0].message.contains("branch 2"), "\(report.findings)")
    }

    @Test("indexes of a kind whose content does not tell are not written")
    func otherKind() async throws {
        let archive = try await Archive(kind: "toy")
        #expect(try await archive.isFine())
        await archive.store.remove(archive.index(archive.names[1]))
        let report = try await archive.verify(contents: true, reindex: true)
        #expect(report.codes == [.indexMissing] && report.rewrittenIndexes == 0 && report.comparedPieces == 0)
        #expect(report.findings[0].remedy?.contains("copy of the archive") == true)
    }

    @Test("a base lacks a part, its index, its log or its record")
    func bases() async throws {
        let archive = try await Archive()
        var parts: [BaseRecord.Part] = []
        for number in 0..<3 {
            let content = [UInt8](repeating: UInt8(number), count: 5000)
            var object: [UInt8] = []
            try Zstd.compress(content, into: &object)
            let name = "part-00000\(number).tar.zst"
            parts.append(
                .init(name: name, offset: UInt64(number) * 5000, length: 5000, storedLength: UInt64(object.count), sha256: hexText(SHA256.of(object))))
            try await archive.store.put(object, at: archive.catalog.baseKey(name, base: "b1", of: archive.incarnation))
        }
        func key(_ name: String) -> ObjectKey { archive.catalog.baseKey(name, base: "b1", of: archive.incarnation) }
        #expect(try await archive.verify().codes == [.unfinished])
        let spans = [LogSpan(stream: "wal", branch: 1, start: 0x20_0100, end: 0x40_0100)]
        _ = try await archive.catalog.record(
            BaseRecord(
                id: "b1", source: "main", incarnation: "77-0001", kind: "postgres", started: Moment(rawValue: 0), completed: Moment(rawValue: 1), firstPiece: nil,
                branch: 1, parts: parts, indexSHA256: "", files: 0, bytes: 15_000, warnings: [], facts: [:]),
            index: TreeIndex(entries: [], spans: spans), of: archive.incarnation)
        let whole = try await archive.verify(contents: true)
        #expect(whole.findings.isEmpty && whole.bases == 1 && whole.parts == 3 && whole.provenParts == 3)
        let part = key(parts[1].name)
        let good = try await archive.store.get(part)
        try await archive.change(part) { $0[9] ^= 1 }
        #expect(try await archive.verify().findings.isEmpty)
        let damaged = try await archive.verify(contents: true)
        #expect(damaged.codes == [.baseDamaged] && damaged.findings[0].object == part.path && damaged.provenParts == 2)
        try await archive.change(part) { $0 = good + [0] }
        #expect(try await archive.verify().codes == [.baseDamaged])
        await archive.store.remove(part)
        #expect(try await archive.verify().codes == [.baseDamaged])
        try await archive.store.put(good, at: part)
        let index = try await archive.store.get(key("index.zst"))
        try await archive.change(key("index.zst")) { $0[5] ^= 1 }
        #expect(try await archive.verify().codes == [.baseDamaged])
        try await archive.change(key("index.zst")) { $0 = index }
        // Its log: a piece that is missing with its index, and one whose content is damaged.
        try await archive.change(archive.content(archive.names[2])) { $0[100] ^= 1 }
        #expect(try await archive.verify(contents: true).codes == [.contentDamaged, .baseWithoutLog])
        try await archive.catalog.remove(archive.names[2], of: archive.incarnation)
        #expect(try await archive.verify().codes == [.hole, .baseWithoutLog])
        try await archive.change(key("base.json")) { $0 = Array("{}".utf8) }
        #expect(try await archive.verify().codes == [.hole, .recordDamaged])
    }

    @Test("the record of a history that is missing or damaged is noticed")
    func records() async throws {
        let archive = try await Archive()
        let key = ObjectKey(known: "sources/main/77-0001.json")
        try await archive.change(key) { $0.removeLast(20) }
        #expect(try await archive.verify().codes == [.recordDamaged])
        await archive.store.remove(key)
        #expect(try await archive.catalog.sources() == [])
        #expect(try await archive.catalog.storedSources() == ["main"])
        #expect(try await archive.verify().codes == [.recordDamaged])
    }

    @Test("an agent that closes a segment meanwhile is no problem", .timeLimit(.minutes(10)))
    func overtaken() async throws {
        let log = SegmentsTests.short
        let segments = log.segments
        let archive = try await Archive()
        let last = try #require(archive.names.last)
        let start = log.start + UInt64(segments.count - 1) << 20
        try await archive.catalog.remove(last, of: archive.incarnation)
        let bytes = segments[segments.count - 1].content
        let tail = PieceName(branch: 1, name: last.name, part: start..<start + 8192)
        try await archive.add(segments.dropLast() + [(tail, Array(bytes[..<8192]))])
        let indexed = archive
        // Just before the tail is read it is replaced.
        let overtaking = OvertakingStore(archive.store, at: archive.index(tail).path) {
            let late = indexed
            try await late.add(segments)
            try await late.catalog.remove(tail, of: late.incarnation)
        }
        let catalog = try await Catalog.open(overtaking)
        let reports = try await catalog.verify(source: "main", kinds: [PostgresKind()], options: VerifyOptions(contents: true, reindex: true))
        #expect(await overtaking.isDone)
        #expect(reports.count == 1 && reports[0].findings.isEmpty && reports[0].pieces == segments.count, "\(reports)")
    }

    @Test("every byte of an index may be wrong without harm", arguments: 1...4)
    func hostileIndex(_ seed: Int) async throws {
        let archive = try await Archive()
        let key = archive.index(archive.names[0])
        let good = try await archive.store.get(key)
        var random = SeededRandom(seed: UInt64(seed))
        for _ in 0..<8 {
            let at = Int.random(in: 0..<good.count, using: &random)
            try await archive.change(key) { $0[at] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
            let report = try await archive.verify(reindex: true)
            // A bit that means nothing is possible; what means something is told or put in order.
            if report.findings.isEmpty {
                let index = try await archive.catalog.index(of: archive.names[0], of: archive.incarnation)
                #expect(try index == PieceIndex(decoding: good))
            }
            try await archive.change(key) { $0 = good }
        }
        #expect(try await archive.isFine())
    }
}

/// A store beside which somebody else changes something just before one object is read for the first time.
private actor OvertakingStore: ObjectStore {
    private let inner: MemoryStore
    private let key: String
    private let change: @Sendable () async throws -> Void
    private(set) var isDone = false
    nonisolated let description = "overtaking"

    init(_ inner: MemoryStore, at key: String, change: @escaping @Sendable () async throws -> Void) {
        self.inner = inner
        self.key = key
        self.change = change
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await inner.put(bytes, at: key) }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        if key.path == self.key, !isDone {
            isDone = true
            try await change()
        }
        return try await inner.get(key, range: range)
    }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
}
