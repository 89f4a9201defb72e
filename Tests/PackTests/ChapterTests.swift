import ArchiveCore
import ArchiveTesting
import Catalog
import Pack
import Store
import Testing

@Suite("Chapters")
struct ChapterTests {
    private let incarnation = IncarnationRecord(
        source: "main", id: "77-0001", kind: "toy", identity: "77", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)

    private func piece(_ number: UInt64, branch: UInt32 = 1, part: Range<UInt64>? = nil, _ chance: inout SeededRandom) -> LogPiece {
        var spans: [LogSpan] = []
        var events: [LogEvent] = []
        for stream in 0..<Int.random(in: 0...4, using: &chance) {
            let start = UInt64.random(in: 0...1 << 40, using: &chance)
            let end = start + UInt64.random(in: 0...9, using: &chance)
            // The last record may begin in the piece before.
            spans.append(LogSpan(stream: "s\(stream)", branch: branch, start: start, end: end, lastRecord: Bool.random(using: &chance) ? start / 2 : nil))
            events.append(
                LogEvent(
                    span: stream, start: start, end: end, time: Moment(rawValue: .random(in: -5...1 << 60, using: &chance)), kind: stream == 3 ? .restorePoint : .commit,
                    flags: [[], .deleted, .created, .drops, .unresolvedLink].randomElement(using: &chance)!, number: .random(in: 0...99, using: &chance),
                    subject: "n\(number)"))
        }
        let fences = (0..<Int.random(in: 0...2, using: &chance)).map { n in
            FenceRecord(
                id: "f\(number)-\(n)", anchor: "a", anchorIdentity: "7", branch: 1, position: number, anchorTime: Moment(rawValue: 5), asked: Moment(rawValue: -3),
                answered: Moment(rawValue: 9), late: [.init(stream: "s0", start: number)])
        }
        return LogPiece(
            name: PieceName(branch: branch, name: hex(number, 16), part: part), frames: [[UInt8(truncatingIfNeeded: number)]], spans: spans, events: events,
            sequence: number, fences: fences)
    }

    private func same(_ a: [PieceSummary], _ b: [PieceSummary]) -> Bool {
        a.count == b.count
            && zip(a, b).allSatisfy {
                $0.name == $1.name && $0.storedLength == $1.storedLength && $0.spans == $1.spans && $0.times == $1.times && $0.numbers == $1.numbers
                    && $0.lastEvent == $1.lastEvent && $0.totals == $1.totals && $0.fences == $1.fences && $0.notable == $1.notable
            }
    }

    @Test("say the same as the indexes that they stand for", arguments: 0..<20 as Range<UInt64>)
    func roundTrip(_ seed: UInt64) throws {
        var chance = SeededRandom(seed: seed)
        let pieces = try (1...UInt64.random(in: 1...9, using: &chance)).map { n in
            let packed = try PiecePacker.pack(piece(n, &chance))
            return PieceSummary(packed.name, packed.index)
        }
        var totals = LogTotals()
        for piece in pieces { totals += piece.totals }
        let chapter = Chapter(branch: 1, pieces: pieces, totals: totals)
        let read = try Chapter(decoding: chapter.encoded(), branch: 1)
        #expect(same(read.pieces, pieces), "seed \(seed)")
        #expect(read.totals == totals)
        #expect(read.name == chapter.name)
        // What was read can be written again.
        #expect(read.encoded() == chapter.encoded())
        let name = try #require(ChapterName(path: chapter.name.path))
        #expect(name.path == chapter.name.path)
    }

    @Test("bytes of anybody's are refused or read, and never end the program", arguments: 0..<40 as Range<UInt64>)
    func hostile(_ seed: UInt64) throws {
        var chance = SeededRandom(seed: seed)
        let pieces = try (1...4 as ClosedRange<UInt64>).map { n in
            let packed = try PiecePacker.pack(piece(n, &chance))
            return PieceSummary(packed.name, packed.index)
        }
        let whole = Chapter(branch: 1, pieces: pieces, totals: LogTotals()).encoded()
        let index = try PiecePacker.pack(piece(9, &chance)).index.encoded()
        func use(_ summary: PieceSummary) {
            _ = ObjectKey(known: "log/main/77-0001/\(summary.name).\(summary.name.suffix)")
            for span in summary.spans { _ = span.end - span.start }
            for fence in summary.fences { _ = fence.offset }
            _ = Chapter(branch: 1, pieces: [summary], totals: LogTotals()).encoded()
        }
        _ = try Chapter(decoding: whole, branch: 1)
        _ = try PieceIndex(decoding: index)
        var read = 0
        for _ in 0..<150 {
            var bytes = Bool.random(using: &chance) ? whole : index
            for _ in 0..<Int.random(in: 1...4, using: &chance) where !bytes.isEmpty {
                let at = Int.random(in: bytes.indices, using: &chance)
                switch Int.random(in: 0...7, using: &chance) {
                case 1: bytes.insert(contentsOf: [UInt8](repeating: 0xFF, count: Int.random(in: 1...9, using: &chance)), at: at)
                case 2: bytes.remove(at: at)
                case 3: bytes.removeLast(min(bytes.count, Int.random(in: 1...20, using: &chance)))
                default: bytes[at] = UInt8.random(in: 0...255, using: &chance)
                }
            }
            do {
                for piece in try Chapter(decoding: bytes, branch: 1).pieces { use(piece) }
                read += 1
            } catch { #expect(!error.reason.isEmpty) }
            do {
                use(PieceSummary(PieceName(branch: 1, name: hex(1, 16)), try PieceIndex(decoding: bytes)))
                read += 1
            } catch { #expect(!error.reason.isEmpty) }
        }
        #expect(read > 0, "seed \(seed): every change was refused, so that little was tried")
    }

    @Test("are named by what they cover, and by nothing else", arguments: [
        "00000001/0005-0001-0000000000000001-0000000000000009.zst", "00000001/0005-0005-7FFFFFFFFFFFFFFF-0000000000000000.zst",
    ])
    func names(_ path: String) throws { #expect(try #require(ChapterName(path: path)).path == path) }

    @Test("other names are no chapters", arguments: [
        "", ".zst", "00000001/0005-0001-0-9.zst", "00000001/0001-0005-0000000000000001-0000000000000009.zst", "1/0005-0001-0000000000000001-0000000000000009.zst",
        "00000001/0005-0001-0000000000000001-0000000000000009", "00000001/0005-0001-+000000000000001-0000000000000009.zst",
        "00000001/5-1-0000000000000001-0000000000000009.zst", "00000001/0005-00001-0000000000000001-0000000000000009.zst",
        "00000001/x/0005-0001-0000000000000001-0000000000000009.zst",
    ])
    func otherNames(_ path: String) { #expect(ChapterName(path: path) == nil) }

    /// Pieces of two branches with a tail here and there.
    private func pieces(_ seed: UInt64) throws -> [PackedPiece] {
        var chance = SeededRandom(seed: seed)
        var result: [PackedPiece] = []
        for branch in 1...2 as ClosedRange<UInt32> {
            for n in 1...11 as ClosedRange<UInt64> {
                if n % 4 == 0 { result.append(try PiecePacker.pack(piece(n, branch: branch, part: n..<n + 1, &chance))) }
                result.append(try PiecePacker.pack(piece(n, branch: branch, &chance)))
            }
        }
        return result
    }

    private func chapters(_ catalog: Catalog) async throws -> [(name: ChapterName, chapter: Chapter)] {
        var result: [(name: ChapterName, chapter: Chapter)] = []
        for branch in 1...2 as ClosedRange<UInt32> {
            for name in try await catalog.chapters(of: incarnation, branch: branch) { result.append((name, try await catalog.chapter(name, of: incarnation))) }
        }
        return result
    }

    @Test("are the same after an agent was killed anywhere", arguments: 0..<24)
    func resumed(_ killed: Int) async throws {
        let pieces = try pieces(4)
        let straight = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        var keeper = ChapterKeeper(maximumPieces: 3)
        for piece in pieces {
            try await straight.store(piece, of: incarnation)
            for chapter in keeper.add(PieceSummary(piece.name, piece.index)) { try await straight.record(chapter, of: incarnation) }
        }
        // Killed after a piece, and before the chapters that it closed.
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        keeper = ChapterKeeper(maximumPieces: 3)
        for (n, piece) in pieces.enumerated() {
            try await catalog.store(piece, of: incarnation)
            let closed = keeper.add(PieceSummary(piece.name, piece.index))
            if n == killed || n == killed + 5 { keeper = try await catalog.resumeChapters(of: incarnation, maximumPieces: 3) } else {
                for chapter in closed { try await catalog.record(chapter, of: incarnation) }
            }
        }
        let expected = try await chapters(straight)
        let found = try await chapters(catalog)
        #expect(found.map(\.name) == expected.map(\.name))
        #expect(found.map(\.chapter.totals) == expected.map(\.chapter.totals))
        for (a, b) in zip(found, expected) { #expect(same(a.chapter.pieces, b.chapter.pieces)) }
    }

    @Test("what is missing of a plan's pieces is found, whichever half of one it is")
    func missing() async throws {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        let pieces = try pieces(5)
        for piece in pieces { try await catalog.store(piece, of: incarnation) }
        let names = pieces.map(\.name)
        #expect(try await catalog.missing(names, of: incarnation).isEmpty)
        #expect(try await catalog.missing([], of: incarnation).isEmpty)
        let lost = [names[0], names[4], names[12], names.last!]
        for (n, name) in lost.enumerated() {
            let data = catalog.dataKey(name, of: incarnation)
            if n % 2 == 0 { try await catalog.store.remove(data) } else { try await catalog.store.remove(ObjectKey(known: "\(data).idx")) }
        }
        #expect(try await catalog.missing(names, of: incarnation) == Set(lost))
        #expect(try await catalog.missing([names[12]], of: incarnation) == [names[12]])
        #expect(try await catalog.missing([PieceName(branch: 7, name: hex(1, 16))], of: incarnation).count == 1)
    }
}
