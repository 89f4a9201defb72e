import ArchiveCore
import ArchiveTesting
import Catalog
import Pack
import Restore
import Source
import Store
import Testing

/// Reads an archive while an agent replaces tails by their closed pieces.
@Suite("An archive at work")
struct LiveArchiveTests {
    private let incarnation = IncarnationRecord(
        source: "main", id: "7-0001", kind: "toy", identity: "7", number: 1, created: Moment(rawValue: 0), facts: ["segment-size": "1048576"], reason: nil)

    private func piece(_ segment: String, part: Range<UInt64>?, _ content: [UInt8], start: UInt64) throws -> PackedPiece {
        try PiecePacker.pack(
            LogPiece(
                name: PieceName(branch: 1, name: segment, part: part), frames: [content],
                spans: [LogSpan(stream: "wal", branch: 1, start: start, end: start + UInt64(content.count))], events: [], sequence: 1))
    }

    @Test("tails that vanish under a reader are never an error", .timeLimit(.minutes(10)))
    func race() async throws {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        try await catalog.record(incarnation)
        let size: UInt64 = 1 << 20
        let segments: UInt64 = 10
        let writer = Task {
            for n in 0..<segments {
                let name = SegmentName(timeline: TimelineID(rawValue: 1)!, containing: LSN(rawValue: n * size), size: SegmentSize(bytes: size)!).description
                var tails: [PieceName] = []
                for tail in 0..<4 as Range<UInt64> {
                    let start = n * size + tail * 100
                    let packed = try piece(name, part: start..<start + 100, [UInt8](repeating: UInt8(tail), count: 100), start: start)
                    try await catalog.store(packed, of: incarnation)
                    tails.append(packed.name)
                    await Task.yield()
                }
                try await catalog.store(try piece(name, part: nil, [UInt8](repeating: 9, count: 400), start: n * size), of: incarnation)
                for tail in tails { try await catalog.remove(tail, of: incarnation) }
            }
        }
        var looks = 0
        var last: UInt64 = 0
        // Closed pieces as short as their tails: the length is not what this is about.
        while last < (segments - 1) * size + 400 {
            let (state, _) = try await catalog.resume(incarnation, cleaning: false)
            let end = state.positions["wal"]?.end ?? 0
            #expect(end >= last, "what is archived went back")
            last = end
            looks += 1
            if end > 0 {
                let newest = SegmentName(timeline: TimelineID(rawValue: 1)!, containing: LSN(rawValue: end - 1), size: SegmentSize(bytes: size)!)
                #expect(try await catalog.file(named: "\(newest)", of: incarnation)?.first != nil)
            }
        }
        try await writer.value
        #expect(looks > 0)
    }
}
