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

    init(name: SegmentName, spooled: Bool, known: [ResumeState.Tail]) {
        self.name = name.description
        branch = name.timeline.rawValue
        start = name.start.rawValue
        size = name.size.bytes
        bytes = [UInt8](unsafeUninitializedCapacity: Int(size)) { $1 = Int(name.size.bytes) }
        received = start
        given = start
        self.spooled = spooled
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

    /// What was received but not yet given out; `nil` when that is nothing, or the archive's own tails are still being compared.
    mutating func takeTail(sequence: UInt64) -> LogPiece? {
        guard received > given, known.isEmpty else { return nil }
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
    /// A segment that is not known to be in the archive.
    struct Unarchived {
        var name: String
        var start: UInt64
        var end: UInt64
        var spooled: Bool
        /// What no tail has of it: bytes, and the time of the first commit.
        var fresh: UInt64
        var commit: Moment?
        /// `nil` until it was given out.
        var sequence: UInt64?
    }
    struct Clock {
        var time: Moment
        /// Every commit before `time` lies before this position.
        var position: UInt64
    }

    var queue: [Item] = []
    var open: OpenSegment?
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
    var lastTail = 0.0
    var pace = TailPace()
    /// The receiver has ended; with the failure to tell after everything in the queue.
    var ended = false
    var failure: (any Error)?
    var stopping = false
    var closing = false
    var waiter: CheckedContinuation<Void, Never>?
    /// `next` saw its task cancelled.
    var cancelled = false

    /// What may be reported as flushed: all before it is in the spool or in the archive.
    var flushed: UInt64 {
        var position = synced
        if let open, !open.spooled { position = min(open.start, received) }
        if let first = unarchived.first(where: { !$0.spooled }) { position = min(position, first.start) }
        if open?.spooled == false, unarchived.allSatisfy({ $0.spooled }) { position = max(position, open!.start) }
        return position
    }

    var inMemory: Int {
        queue.reduce(0) { if case .segment(let s) = $1, s.bytes != nil { $0 + 1 } else { $0 } }
    }
    /// Closed segments that only memory has, and that nobody took yet.
    var waitingInMemory: Int {
        queue.reduce(0) { if case .segment(let s) = $1, !s.spooled { $0 + 1 } else { $0 } }
    }

    mutating func close(keepInMemory limit: Int) {
        guard let open else { return }
        let keep = !open.spooled || inMemory < limit
        let closed = ClosedSegment(
            name: open.name, branch: open.branch, start: open.start, end: open.received, bytes: keep ? open.bytes : nil,
            events: open.events, lastRecord: open.lastRecord, tails: open.tails, spooled: open.spooled)
        unarchived.append(
            .init(name: open.name, start: open.start, end: open.received, spooled: open.spooled, fresh: open.received - open.given,
                commit: closed.events.firstCommit(behind: open.given)))
        self.open = nil
        queue.append(.segment(closed))
    }

    mutating func takeWaiter() -> CheckedContinuation<Void, Never>? {
        defer { waiter = nil }
        return waiter
    }
}
