import ArchiveCore
import Digests
import Source

/// The segment that is being received.
struct OpenSegment {
    let name: String
    let branch: UInt32
    let start: UInt64
    let size: UInt64
    /// Only the first `received - start` bytes mean anything.
    var bytes: [UInt8]
    /// The first position not received.
    var received: UInt64
    /// The first position that no tail has.
    var given: UInt64
    var events: [LogEvent] = []
    var eventsGiven = 0
    var lastRecord: UInt64?
    var tails: [PieceName] = []
    /// Tails that the archive has, to be compared with what the server sends, in log order.
    var known: [ResumeState.Tail] = []
    /// Whether its bytes also go to the spool.
    var spooled: Bool
    /// Whether commits may be waiting until the archive has it: then tails are cut as soon as there is something for them.
    var awaited: Bool

    /// - Parameter buffer: of the segment's size, to be filled; `nil`: a new one.
    init(name: SegmentName, spooled: Bool, awaited: Bool = false, known: [ResumeState.Tail], in buffer: [UInt8]? = nil) {
        self.name = name.description
        branch = name.timeline.rawValue
        start = name.start.rawValue
        size = name.size.bytes
        bytes = buffer ?? [UInt8](unsafeUninitializedCapacity: Int(size)) { $1 = Int(name.size.bytes) }
        received = start
        given = start
        self.spooled = spooled
        self.awaited = awaited
        self.known = known
    }

    mutating func append(_ part: UnsafeRawBufferPointer) {
        let at = Int(received - start)
        bytes.withUnsafeMutableBytes { UnsafeMutableRawBufferPointer(rebasing: $0[at..<at + part.count]).copyMemory(from: part) }
        received += UInt64(part.count)
    }

    /// Compares the archive's tails with what was received by now.
    mutating func checkKnown() throws {
        while let tail = known.first, let part = tail.name.part, part.upperBound <= received {
            let digest = bytes.withUnsafeBytes {
                SHA256.of(UnsafeRawBufferPointer(rebasing: $0[Int(part.lowerBound - start)..<Int(part.upperBound - start)]))
            }
            guard digest == tail.sha256 else {
                throw ArchiveError(
                    .twoHistories,
                    "The archive's WAL from \(LSN(rawValue: part.lowerBound)) to \(LSN(rawValue: part.upperBound)) on timeline \(branch) is not what the server has there.",
                    remedy: "The server was restored or failed over without a new timeline; begin a new incarnation.")
            }
            known.removeFirst()
            tails.append(tail.name)
            if part.lowerBound <= given, part.upperBound > given {
                given = part.upperBound
                while eventsGiven < events.count, events[eventsGiven].end <= given { eventsGiven += 1 }
            }
        }
    }

    var hasTail: Bool { received > given && known.isEmpty }

    /// What was received but not yet given out; `nil` when that is nothing, or the archive's own tails are still being compared.
    mutating func takeTail(sequence: UInt64) -> LogPiece? {
        guard hasTail else { return nil }
        let piece = LogPiece(
            name: PieceName(branch: branch, name: name, part: given..<received),
            frames: [Array(bytes[Int(given - start)..<Int(received - start)])],
            spans: [LogSpan(stream: "wal", branch: branch, start: given, end: received, lastRecord: lastRecord)],
            events: Array(events[eventsGiven...]), sequence: sequence)
        tails.append(piece.name)
        given = received
        eventsGiven = events.count
        return piece
    }
}

/// A segment that was received as a whole.
struct ClosedSegment {
    var name: String
    var branch: UInt32
    var start: UInt64
    var end: UInt64
    /// `nil`: read it from the spool.
    var bytes: [UInt8]?
    var events: [LogEvent]
    var lastRecord: UInt64?
    var tails: [PieceName]
    var spooled: Bool

    func piece(bytes: [UInt8], sequence: UInt64) -> LogPiece {
        LogPiece(
            name: PieceName(branch: branch, name: name), frames: [bytes],
            spans: [LogSpan(stream: "wal", branch: branch, start: start, end: end, lastRecord: lastRecord)],
            events: events, supersedes: tails, sequence: sequence)
    }
}

/// What the receiver and the reader of a log source share; kept under one lock.
struct StreamState {
    enum Item {
        case segment(ClosedSegment)
        case output(LogOutput)
    }
    /// A segment or a tail that is not known to be in the archive.
    struct Unarchived {
        var name: PieceName
        /// The first position in it that no tail given out before has, and the first behind it.
        var start: UInt64
        var end: UInt64
        var spooled: Bool
        /// Time of the first commit in between.
        var commit: Moment?
        /// `nil` until it was given out.
        var sequence: UInt64?
        /// Of one segment at most, to become the spare: those behind a piece that is stuck may be many.
        var bytes: [UInt8]?
    }
    struct Clock {
        var time: Moment
        /// Every commit before `time` lies before this position.
        var position: UInt64
    }

    var queue: [Item] = []
    var open: OpenSegment?
    /// In log order.
    var unarchived: [Unarchived] = []
    var sequence: UInt64 = 0
    /// The first position not received, and the first not durable in the spool.
    var received: UInt64 = 0
    var synced: UInt64 = 0
    var clock: Clock?
    /// Where the server's log ended when it said so last, and when that was first ahead of what was received.
    var serverEnd: UInt64 = 0
    var aheadSince: Moment?
    /// When the server was heard last; `nil`: not yet.
    var contact: Moment?
    /// When log was given out last: as a tail, or because its segment closed.
    var lastGiven = 0.0
    /// The content of an archived segment, to be filled again, and since when it lies here: new memory costs the receiver several times
    /// what filling it does.
    private var spare: (bytes: [UInt8], since: Double)?
    var pace = TailPace()
    /// The receiver has ended; with the failure to tell after everything in the queue.
    var ended = false
    var failure: (any Error)?
    var stopping = false
    var closing = false
    /// Why receiving is given up though nothing failed.
    var interruption: ArchiveError?
    var waiter: CheckedContinuation<Void, Never>?
    /// `next` saw its task cancelled.
    var cancelled = false

    /// Tails that may be on their way to the archive at once while commits wait for them. What is received meanwhile goes into the next.
    static let tailsUnderWay = 2

    /// What may be reported as flushed: all before it is in the spool or in the archive.
    var flushed: UInt64 {
        for piece in unarchived {
            guard piece.spooled else { return piece.start }
            // What an earlier timeline left was made durable before it was left.
            if piece.end > synced, open.map({ $0.branch == piece.name.branch }) ?? true { return max(piece.start, synced) }
        }
        guard let open else { return received }
        return open.spooled ? max(open.given, min(synced, received)) : open.given
    }

    /// Whether there is something that the archive may still get from here.
    var isInHand: Bool { !unarchived.isEmpty || open?.hasTail == true }

    /// Whether the reading of the server's clock is a watermark by now: everything before it was given out.
    var isClockDue: Bool { clock.map { $0.position <= open?.given ?? received } ?? false }

    /// Whether a tail is to be cut now.
    ///
    /// - Parameters:
    ///   - time: on the clock of `lastGiven`, in seconds.
    ///   - interval: longest time that received log waits, in seconds, when no commit waits for it.
    func isTailDue(at time: Double, interval: Double) -> Bool {
        guard let open, open.hasTail else { return false }
        if ended || stopping || time - lastGiven >= pace.interval(of: interval) { return true }
        return open.awaited && unarchived.count(where: { $0.name.part != nil }) < Self.tailsUnderWay
    }

    /// Cuts a tail that counts as not archived until `acknowledge` says so.
    ///
    /// - Parameter sequence: `nil` when it is not given out yet.
    mutating func takeTail(sequence: UInt64?) -> LogPiece? {
        guard let open, let piece = self.open?.takeTail(sequence: sequence ?? 0), let part = piece.name.part else { return nil }
        unarchived.append(.init(name: piece.name, start: part.lowerBound, end: part.upperBound, spooled: open.spooled, commit: piece.events.firstCommit(behind: 0), sequence: sequence))
        return piece
    }

    /// Gives the next sequence to a piece that waited in the queue.
    mutating func number(_ name: PieceName) {
        sequence += 1
        if let i = unarchived.firstIndex(where: { $0.name == name && $0.sequence == nil }) { unarchived[i].sequence = sequence }
    }

    /// Seconds for which a spare content is kept.
    private static let spareKept = 10.0

    mutating func takeSpare() -> [UInt8]? {
        defer { spare = nil }
        return spare?.bytes
    }

    mutating func dropSpare(at time: Double) { if let spare, time - spare.since > Self.spareKept { self.spare = nil } }

    /// Everything up to this sequence is in the archive.
    ///
    /// - Parameter time: on the clock of `lastGiven`.
    /// - Returns: what became so by it.
    mutating func acknowledge(through sequence: UInt64, at time: Double) -> [Unarchived] {
        let done = unarchived.filter { $0.sequence.map { $0 <= sequence } ?? false }
        if !done.isEmpty { unarchived.removeAll { $0.sequence.map { $0 <= sequence } ?? false } }
        if let bytes = done.lazy.compactMap(\.bytes).first { spare = (bytes, time) }
        return done
    }

    var inMemory: Int {
        queue.reduce(0) { if case .segment(let s) = $1, s.bytes != nil { $0 + 1 } else { $0 } }
    }
    /// Closed segments that only memory has, and that nobody took yet.
    var waitingInMemory: Int {
        queue.reduce(0) { if case .segment(let s) = $1, !s.spooled { $0 + 1 } else { $0 } }
    }

    /// The open segment is whole: no tail is due for what it had.
    ///
    /// - Parameters:
    ///   - time: on the clock of `lastGiven`.
    ///   - limit: closed segments that are kept in memory besides the spool.
    mutating func close(at time: Double, keepInMemory limit: Int) {
        guard let open else { return }
        lastGiven = time
        let keep = !open.spooled || inMemory < limit
        let closed = ClosedSegment(
            name: open.name, branch: open.branch, start: open.start, end: open.received, bytes: keep ? open.bytes : nil,
            events: open.events, lastRecord: open.lastRecord, tails: open.tails, spooled: open.spooled)
        unarchived.append(
            .init(
                name: PieceName(branch: open.branch, name: open.name), start: open.given, end: open.received, spooled: open.spooled,
                commit: closed.events.firstCommit(behind: open.given), bytes: unarchived.contains { $0.bytes != nil } ? nil : closed.bytes))
        self.open = nil
        queue.append(.segment(closed))
    }

    mutating func takeWaiter() -> CheckedContinuation<Void, Never>? {
        defer { waiter = nil }
        return waiter
    }
}
