import ArchiveCore
import ArchiveTesting
import Catalog
import Pack
import Planner
import Restore
import Store
import Testing

/// A chapter says nothing that the indexes do not say: without one, a plan is the same.
@Suite("Chapters that are missing or damaged")
struct ChapterChainTests {
    private static let chapters = 4
    private static let size = 5

    /// A log of four chapters of five pieces, two pieces behind them, and its store.
    private func archive() async throws -> (catalog: Catalog, store: MemoryStore, incarnation: IncarnationRecord, names: [ChapterName]) {
        let store = MemoryStore()
        let catalog = try await Catalog.create(in: store, at: Moment(rawValue: 1), version: "test")
        let incarnation = IncarnationRecord(
            source: "s", id: "7-0001", kind: "toy", identity: "7", number: 1, created: Moment(rawValue: 1), facts: [:], reason: nil)
        try await catalog.record(incarnation)
        var keeper = ChapterKeeper(maximumPieces: Self.size)
        for n in 0..<(Self.chapters * Self.size + 2) {
            let start = UInt64(n)
            let piece = LogPiece(
                name: PieceName(branch: 0, name: hex(UInt64(n + 1), 16)), frames: [[UInt8(n)]],
                spans: [LogSpan(stream: "1", branch: 0, start: start, end: start + 1, lastRecord: start)],
                events: [LogEvent(span: 0, start: start, end: start + 1, time: Moment(rawValue: Int64(n)), kind: .commit)], sequence: UInt64(n))
            let packed = try PiecePacker.pack(piece)
            try await catalog.store(packed, of: incarnation)
            for chapter in keeper.add(PieceSummary(piece.name, packed.index)) { try await catalog.record(chapter, of: incarnation) }
        }
        let names = try await catalog.chapters(of: incarnation, branch: 0)
        try #require(names.count == Self.chapters)
        return (catalog, store, incarnation, names)
    }

    private func key(_ name: ChapterName) -> ObjectKey { ObjectKey(known: "chapters/s/7-0001/\(name.path)") }

    private func read(_ catalog: Catalog, _ incarnation: IncarnationRecord, from first: String?) async throws -> (starts: [UInt64], commits: UInt64?) {
        let path = try #require(BranchPath(from: 0, to: 0, by: []))
        var cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: first)
        var starts: [UInt64] = []
        while let piece = try await cursor.next() { starts += piece.spans.map(\.start) }
        return (starts, cursor.totals?.commits)
    }

    @Test("whatever is gone, the pieces are read all the same", arguments: [[0], [1], [2], [3], [1, 2], [0, 1, 2, 3]], [nil, 1, 7, 10, 21] as [Int?])
    func removed(_ gone: [Int], _ first: Int?) async throws {
        for isDamaged in [false, true] {
            let (catalog, store, incarnation, names) = try await archive()
            for n in gone {
                await store.remove(key(names[n]))
                if isDamaged { try await store.put([1, 2, 3], at: key(names[n])) }
            }
            let (starts, commits) = try await read(catalog, incarnation, from: first.map { hex(UInt64($0 + 1), 16) })
            #expect(starts == Array(UInt64(first ?? 0)..<22))
            if let commits { #expect(commits == 22) }
        }
    }

    @Test("verify finds them, and writes them anew from the indexes", arguments: [[0], [1], [1, 2]])
    func repaired(_ gone: [Int]) async throws {
        for isDamaged in [false, true] {
            let (catalog, store, incarnation, names) = try await archive()
            for n in gone {
                await store.remove(key(names[n]))
                if isDamaged { try await store.put([1, 2, 3], at: key(names[n])) }
            }
            #expect(try await catalog.auditChapters(of: incarnation, branch: 0, repair: false).count == 1)
            #expect(try await catalog.auditChapters(of: incarnation, branch: 0, repair: true).count == 1)
            #expect(try await catalog.auditChapters(of: incarnation, branch: 0, repair: false).isEmpty)
            for name in try await catalog.chapters(of: incarnation, branch: 0) {
                let chapter = try await catalog.chapter(name, of: incarnation)
                #expect(chapter.totals.commits == UInt64(name.last, radix: 16))
            }
            let (starts, commits) = try await read(catalog, incarnation, from: nil)
            #expect(starts == Array(0..<22))
            #expect(commits == 22)
        }
    }

    @Test("an agent that starts writes a damaged last one anew")
    func resumed() async throws {
        let (catalog, store, incarnation, names) = try await archive()
        await store.remove(key(names[3]))
        try await store.put([1, 2, 3], at: key(names[3]))
        _ = try await catalog.resumeChapters(of: incarnation, maximumPieces: Self.size)
        #expect(try await catalog.chapters(of: incarnation, branch: 0) == names)
        #expect(try await catalog.auditChapters(of: incarnation, branch: 0, repair: false).isEmpty)
        #expect(try await catalog.chapter(names[3], of: incarnation).totals.commits == 20)
    }
}
