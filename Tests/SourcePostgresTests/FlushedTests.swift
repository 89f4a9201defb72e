import ArchiveCore
import ArchiveTesting
import Digests
import Source
import Testing

@testable import SourcePostgres

@Suite("What PostgreSQL is told is flushed")
struct FlushedTests {
    private static let size = SegmentSize(bytes: 1 << 20)!
    private static let start: UInt64 = 0x300_0000

    private func name(at position: UInt64, timeline: UInt32 = 1) throws -> SegmentName {
        SegmentName(timeline: try #require(TimelineID(rawValue: timeline)), containing: LSN(rawValue: position), size: Self.size)
    }

    /// A stream at the beginning of a segment, with nothing received.
    private func state(spooled: Bool, awaited: Bool, known: [ResumeState.Tail] = []) throws -> StreamState {
        var state = StreamState()
        state.received = Self.start
        state.synced = Self.start
        state.open = OpenSegment(name: try name(at: Self.start), spooled: spooled, awaited: awaited, known: known)
        return state
    }

    private func receive(_ count: Int, of byte: UInt8 = 7, _ state: inout StreamState) {
        [UInt8](repeating: byte, count: count).withUnsafeBytes { state.open?.append($0) }
        state.received += UInt64(count)
    }

    @Test("with ack: archive only what was acknowledged, tail by tail")
    func tails() throws {
        var state = try state(spooled: false, awaited: true)
        #expect(state.flushed == Self.start)
        receive(100, &state)
        #expect(state.flushed == Self.start)
        #expect(state.takeTail(sequence: 1)?.name.part == Self.start..<Self.start + 100)
        receive(50, &state)
        #expect(state.takeTail(sequence: 2) != nil)
        receive(5, &state)
        #expect(state.flushed == Self.start)
        #expect(state.acknowledge(through: 1, at: 0).count == 1)
        #expect(state.flushed == Self.start + 100)
        #expect(state.acknowledge(through: 1, at: 0).isEmpty)
        #expect(state.acknowledge(through: 2, at: 0).count == 1)
        #expect(state.flushed == Self.start + 150)
        #expect(state.received == Self.start + 155)
    }

    @Test("a tail is cut at once when commits wait, and two are under way at most; else at the interval")
    func due() throws {
        var state = try state(spooled: false, awaited: true)
        state.lastGiven = 10
        #expect(!state.isTailDue(at: 10, interval: 1), "there is nothing for it")
        receive(10, &state)
        #expect(state.isTailDue(at: 10, interval: 1))
        for sequence in 1...2 {
            #expect(state.takeTail(sequence: UInt64(sequence)) != nil)
            receive(10, &state)
        }
        #expect(!state.isTailDue(at: 10, interval: 1))
        _ = state.acknowledge(through: 1, at: 0)
        #expect(state.isTailDue(at: 10, interval: 1))

        var patient = try self.state(spooled: true, awaited: false)
        patient.lastGiven = 10
        receive(10, &patient)
        #expect(!patient.isTailDue(at: 10.9, interval: 1))
        #expect(patient.isTailDue(at: 11, interval: 1))
        patient.stopping = true
        #expect(patient.isTailDue(at: 10, interval: 1))
    }

    @Test("the archive's own tails count once they were compared")
    func known() throws {
        let segment = try name(at: Self.start)
        let bytes = [UInt8](repeating: 7, count: 64)
        let tail = ResumeState.Tail(
            name: PieceName(branch: 1, name: segment.description, part: Self.start..<Self.start + 64), sha256: SHA256.of(bytes))
        var state = try state(spooled: false, awaited: true, known: [tail])
        receive(63, &state)
        try state.open?.checkKnown()
        #expect(!state.isTailDue(at: 100, interval: 1))
        #expect(!state.isInHand, "a stop does not wait for what only the server can bring")
        #expect(state.flushed == Self.start)
        receive(1, &state)
        try state.open?.checkKnown()
        #expect(state.flushed == Self.start + 64)
    }

    @Test("what is behind the last tail of a closed segment waits for the segment")
    func closed() throws {
        var state = try state(spooled: false, awaited: true)
        receive(1000, &state)
        _ = state.takeTail(sequence: 1)
        _ = state.acknowledge(through: 1, at: 0)
        receive(Int(Self.size.bytes) - 1000, &state)
        state.close(at: 0, keepInMemory: 0)
        #expect(state.flushed == Self.start + 1000)
        let segment = try name(at: Self.start)
        state.sequence = 1
        state.number(PieceName(branch: 1, name: segment.description))
        #expect(state.flushed == Self.start + 1000)
        #expect(state.isInHand)
        _ = state.acknowledge(through: 2, at: 0)
        #expect(!state.isInHand)
        #expect(state.flushed == segment.end.rawValue)
    }

    @Test("a segment that closed counts as given out; its content is filled again once it is archived, and soon let go of")
    func spare() throws {
        var state = try state(spooled: true, awaited: false)
        func fillAndClose(at time: Double) throws {
            let open = try #require(state.open)
            receive(Int(open.start + open.size - open.received), &state)
            state.close(at: time, keepInMemory: 3)
            state.number(PieceName(branch: 1, name: open.name))
        }
        try fillAndClose(at: 20)
        #expect(state.takeSpare() == nil, "the archive does not have it yet")
        let given = try #require(state.queue.lazy.compactMap { if case .segment(let segment) = $0 { segment } else { nil } }.first)
        _ = state.acknowledge(through: 1, at: 21)
        let archived = state.takeSpare()
        let spare = try #require(archived)
        #expect(spare == given.bytes)
        #expect(state.takeSpare() == nil, "it is filled once")

        state.open = OpenSegment(name: try name(at: state.received), spooled: true, known: [], in: spare)
        receive(2, of: 9, &state)
        #expect(state.open?.bytes.first == 9 && given.bytes?.first == 7, "whoever still reads it is not disturbed")
        #expect(!state.isTailDue(at: 20.9, interval: 1))
        #expect(state.isTailDue(at: 21, interval: 1))

        try fillAndClose(at: 22)
        _ = state.acknowledge(through: 2, at: 30)
        state.dropSpare(at: 40)
        #expect(state.takeSpare() != nil)
        state.open = OpenSegment(name: try name(at: state.received), spooled: true, known: [])
        try fillAndClose(at: 45)
        _ = state.acknowledge(through: 3, at: 50)
        state.dropSpare(at: 60.5)
        #expect(state.takeSpare() == nil)

        for time in [61.0, 62, 63] {
            state.open = OpenSegment(name: try name(at: state.received), spooled: false, known: [])
            try fillAndClose(at: time)
        }
        #expect(state.unarchived.count == 3)
        #expect(state.unarchived.count { $0.bytes != nil } == 1, "a piece that is stuck holds no memory back but its own")
    }

    @Test("a spooled segment that was closed before its last flush holds back what comes without the spool behind it")
    func unsynced() throws {
        var state = try state(spooled: true, awaited: false)
        receive(Int(Self.size.bytes), &state)
        state.synced = Self.start + 10
        state.close(at: 0, keepInMemory: 3)
        state.open = OpenSegment(name: try name(at: state.received), spooled: false, known: [])
        #expect(state.flushed == Self.start + 10)
        state.synced = state.received
        #expect(state.flushed == state.received)
    }

    @Test("a tail of the timeline that was left holds back the next one until it is archived")
    func timelines() throws {
        var state = try state(spooled: false, awaited: true)
        receive(500, &state)
        let tail = state.takeTail(sequence: nil)
        let left = try #require(tail)
        state.open = nil
        state.received = Self.start
        state.synced = Self.start
        state.open = OpenSegment(name: try name(at: Self.start, timeline: 2), spooled: false, awaited: true, known: [])
        receive(600, &state)
        _ = state.acknowledge(through: 100, at: 0)
        #expect(state.flushed == Self.start)
        state.number(left.name)
        _ = state.takeTail(sequence: 2)
        _ = state.acknowledge(through: 1, at: 0)
        #expect(state.flushed == Self.start)
        _ = state.acknowledge(through: 2, at: 0)
        #expect(state.flushed == Self.start + 600)
    }

    @Test("a flush is made by the caller unless one is under way, and a restart forgets what was durable")
    func syncThread() async throws {
        let state = try TemporaryDirectory()
        let spool = try Spool(stateDirectory: state.path, segmentSize: Self.size.bytes)
        let file = try spool.open(try name(at: Self.start).description)
        let sync = SyncThread {}
        try [1, 2, 3].withUnsafeBytes { try file.write($0, at: 0) }
        #expect(try sync.flushHere(file, position: 3))
        #expect(try sync.durable() == 3)
        sync.ask(file, position: 9)
        try await eventually("the flush beside") { try sync.durable() == 9 }
        sync.restart(at: 5)
        #expect(try sync.durable() == 5)
        sync.close()
    }

    @Test("over random histories it is the end of what the archive has, never more", arguments: 1...50)
    func random(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        var state = try state(spooled: false, awaited: true)
        var ends: [(sequence: UInt64, end: UInt64)] = []
        var archived = Self.start
        for _ in 0..<300 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0, 1:
                if state.open == nil { state.open = OpenSegment(name: try name(at: state.received), spooled: false, awaited: true, known: []) }
                guard let open = state.open else { continue }
                let room = Int(open.start + open.size - open.received)
                receive(min(room, Int.random(in: 1...200_000, using: &random)), &state)
                if state.received == open.start + open.size {
                    state.close(at: 0, keepInMemory: 3)
                    state.number(PieceName(branch: 1, name: open.name))
                    ends.append((state.sequence, state.received))
                }
            case 2:
                if let piece = state.takeTail(sequence: state.sequence + 1), let part = piece.name.part {
                    state.sequence += 1
                    ends.append((state.sequence, part.upperBound))
                }
            default:
                guard !ends.isEmpty else { continue }
                let count = Int.random(in: 1...ends.count, using: &random)
                _ = state.acknowledge(through: ends[count - 1].sequence, at: 0)
                archived = ends[count - 1].end
                ends.removeFirst(count)
            }
            #expect(state.flushed == archived)
        }
    }
}
