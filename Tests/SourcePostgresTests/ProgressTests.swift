import ArchiveCore
import Source
import Testing

@testable import SourcePostgres

private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_000_000_000_000_000).adding(seconds: seconds) }

@Suite("What of the WAL is on its way")
struct ProgressTests {
    private static let size: UInt64 = 1 << 20

    /// Receives `count` bytes with a commit at their end.
    private func receive(_ count: Int, _ time: Moment, into state: inout StreamState) throws {
        if state.open == nil {
            let name = SegmentName(timeline: try #require(TimelineID(rawValue: 1)), containing: LSN(rawValue: state.received), size: try #require(SegmentSize(bytes: Self.size)))
            state.open = OpenSegment(name: name, spooled: true, known: [])
        }
        [UInt8](repeating: 0, count: count).withUnsafeBytes { state.open?.append($0) }
        state.received += UInt64(count)
        state.open?.events.append(LogEvent(span: 0, start: state.received - 8, end: state.received, time: time, kind: .commit))
    }

    @Test("each stage lacks what the one before it has, since its oldest commit")
    func stages() throws {
        var state = StreamState()
        state.received = Self.size
        state.synced = Self.size
        #expect(state.progress(at: at(0)) == LogProgress())
        state.heard(end: Self.size + 300, at: at(1))
        state.heard(end: Self.size + 300, at: at(2))
        #expect(state.progress(at: at(2)).unreceived == .init(bytes: 300, since: at(1)))
        try receive(100, at(0.5), into: &state)
        try receive(100, at(0.7), into: &state)
        state.heard(end: Self.size + 200, at: at(3))
        #expect(state.progress(at: at(3)) == LogProgress(unsynced: .init(bytes: 200, since: at(0.5)), ungiven: .init(bytes: 200, since: at(0.5))))
        state.synced = Self.size + 100
        #expect(state.progress(at: at(3)).unsynced == .init(bytes: 100, since: at(0.7)))
        state.synced = state.received
        #expect(state.open?.takeTail(sequence: 1) != nil)
        #expect(state.progress(at: at(3)) == LogProgress())
    }

    @Test("of a closed segment only what no tail has, until it is given out")
    func closed() throws {
        var state = StreamState()
        state.received = Self.size
        try receive(1000, at(1), into: &state)
        #expect(state.open?.takeTail(sequence: 1) != nil)
        try receive(Int(Self.size) - 1000, at(2), into: &state)
        state.synced = state.received
        state.close(at: 0, keepInMemory: 3)
        #expect(state.progress(at: at(3)).ungiven == .init(bytes: Self.size - 1000, since: at(2)))
        state.unarchived[0].sequence = 2
        #expect(state.progress(at: at(3)) == LogProgress())
    }

    @Test("a server that has fallen silent may have anything since then")
    func silence() {
        var state = StreamState()
        state.heard(end: 0, at: at(0))
        #expect(state.progress(at: at(StreamState.silence)) == LogProgress())
        #expect(state.progress(at: at(StreamState.silence + 1)).unreceived == .init(bytes: nil, since: at(0)))
    }
}
