import ArchiveCore
import Catalog
import Store
import Synchronization
import Testing

@Suite("Listing chapters and pieces")
struct ChapterListingTests {
    private let incarnation = IncarnationRecord(
        source: "main", id: "77-0001", kind: "toy", identity: "77", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)

    private func summary(_ name: String, _ spans: [LogSpan], fences: [FenceRecord] = []) -> PieceSummary {
        PieceSummary(
            PieceName(branch: 1, name: name),
            PieceIndex(spans: spans, events: [], frames: [], storedLength: 1, storedSHA256: [UInt8](repeating: 0, count: 32), fences: fences))
    }

    /// A segment's name of 16 MiB segments: the numbers jump every 256.
    private func segment(_ n: Int) -> String { "00000001" + hex(UInt64(n) / 256, 8) + hex(UInt64(n) % 256, 8) }

    @Test("the last chapter is found in a few pages, however many there are", arguments: [0, 1, 3, 4, 5, 7, 8, 9, 40, 257, 1000, 3907], [true, false])
    func last(_ count: Int, _ areSegments: Bool) async throws {
        let store = CountingStore()
        let catalog = try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test")
        for n in 0..<count {
            // Chapters of different lengths.
            let number = n * 512 + (n % 3) * 100 + 300
            let name = areSegments ? segment(number) : hex(UInt64(number), 16)
            let chapter = Chapter(branch: 1, pieces: [summary(name, [])], totals: LogTotals())
            try await store.put([1], at: ObjectKey(known: "chapters/main/77-0001/\(chapter.name.path)"))
        }
        // Another branch lies behind it.
        try await store.put([1], at: ObjectKey(known: "chapters/main/77-0001/\(ChapterName(branch: 2, first: segment(1), last: segment(9), times: nil).path)"))
        let before = store.listings
        let last = try await catalog.lastChapter(of: incarnation, branch: 1, limit: 4)
        let number = (count - 1) * 512 + ((count - 1) % 3) * 100 + 300
        #expect(last?.last == (count == 0 ? nil : areSegments ? segment(number) : hex(UInt64(number), 16)))
        #expect(last?.branch ?? 1 == 1)
        #expect(store.listings - before <= 30)
    }

    @Test("what is missing of a plan's pieces is found: contents, indexes, tails, whole stretches", arguments: [true, false])
    func missing(_ isFile: Bool) async throws {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        func put(_ name: PieceName, content: Bool = true, index: Bool = true) async throws {
            let key = catalog.dataKey(name, of: incarnation).path
            if content { try await catalog.store.put([1], at: ObjectKey(known: key)) }
            if index { try await catalog.store.put([1], at: ObjectKey(known: key + ".idx")) }
        }
        var names: [PieceName] = []
        var expected: Set<PieceName> = []
        for n in 0..<600 {
            let name = PieceName(branch: n < 300 ? 1 : 2, name: segment(n), suffix: isFile ? "zst" : "tar.zst")
            switch n % 50 {
            case 7: try await put(name, content: false)
            case 8: try await put(name, index: false)
            case 9...12: break
            default:
                try await put(name)
                // Some that the plan does not read.
                if n % 3 != 0 { names.append(name) }
                continue
            }
            names.append(name)
            expected.insert(name)
        }
        for (i, part) in [0..<100, 100..<200, 200..<300].enumerated() as EnumeratedSequence<[Range<UInt64>]> {
            let tail = PieceName(branch: 2, name: segment(600), part: part)
            names.append(tail)
            if i == 1 { expected.insert(tail) } else { try await put(tail) }
        }
        #expect(try await catalog.missing(names, of: incarnation) == expected)
        // Also in another order, which costs more listings.
        #expect(try await catalog.missing(names.shuffled(), of: incarnation) == expected)
        #expect(try await catalog.missing([], of: incarnation) == [])
    }

    @Test("the first span is the first of the spans, read from an index or from a chapter; anchors come back as they were")
    func roundTrip() throws {
        func fence(_ n: Int, _ anchor: String) -> FenceRecord {
            FenceRecord(
                id: "f\(n)", anchor: anchor, anchorIdentity: "\(anchor)-of-many-letters", branch: 1, position: UInt64(n), anchorTime: Moment(rawValue: 5),
                asked: Moment(rawValue: 4), answered: Moment(rawValue: 6), late: [.init(stream: "b", start: 9)])
        }
        let spans = [LogSpan(stream: "b", branch: 1, start: 300, end: 700, lastRecord: 600), LogSpan(stream: "a", branch: 1, start: 1, end: 1)]
        let pieces = [
            summary(segment(1), spans, fences: [fence(1, "main"), fence(2, "main"), fence(3, "other")]), summary(segment(2), []),
            summary(segment(3), spans.reversed(), fences: [fence(4, "main")]),
        ]
        let read = try Chapter(decoding: Chapter(branch: 1, pieces: pieces, totals: LogTotals()).encoded(), branch: 1)
        #expect(read.pieces.map(\.spans) == pieces.map(\.spans))
        #expect(read.pieces.map(\.firstSpan) == [spans[0], nil, spans[1]])
        #expect(pieces.map(\.firstSpan) == [spans[0], nil, spans[1]])
        #expect(read.pieces.map(\.fences) == pieces.map(\.fences))
    }
}

/// A store in memory that counts listings.
private final class CountingStore: ObjectStore {
    private let inner = MemoryStore()
    private let count = Mutex(0)
    let description = "memory"
    var listings: Int { count.withLock { $0 } }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await inner.put(bytes, at: key) }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await inner.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        count.withLock { $0 += 1 }
        return await inner.list(prefix: prefix, after: key, limit: limit)
    }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
}
