import ArchiveCore
import Runtime
import Source
import Synchronization

/// Receives WAL on a thread of its own: checks it, keeps the open segment, makes it durable, and answers the server at once.
final class Receiver: Sendable {
    /// Closed segments that are kept in memory at most.
    static let memoryLimit = 3
    /// Seconds between two questions for the server's clock, when nothing happens.
    private static let idleClock = 5.0

    let state: Mutex<StreamState>
    let wake: WakeUp
    let spool: Spool
    private let conninfo: String
    private let slot: String
    private let size: SegmentSize
    private let resume: ResumeState
    /// Stands behind the last archived segment.
    private let archived: WALDecoder?
    private let tail: Double
    private let ack: Acknowledgement
    private let ended = Semaphore()

    init(
        conninfo: String, slot: String, size: SegmentSize, resume: ResumeState, archived: WALDecoder?, spool: Spool, tail: Double,
        ack: Acknowledgement
    ) throws {
        self.conninfo = conninfo
        self.slot = slot
        self.size = size
        self.resume = resume
        self.archived = archived
        self.spool = spool
        self.tail = tail
        self.ack = ack
        wake = try WakeUp()
        state = Mutex(StreamState())
    }

    func start() {
        startThread { [self] in
            var failure: (any Error)?
            do { try run() } catch let error as ServerError { failure = error.archiveError("receive WAL from PostgreSQL") } catch { failure = error }
            let waiter = state.withLock { state in
                state.ended = true
                state.failure = failure ?? state.interruption
                return state.takeWaiter()
            }
            waiter?.resume()
            ended.signal()
        }
    }

    /// Ends the thread and waits for it. Blocks.
    func close() {
        state.withLock { $0.closing = true }
        wake.signal()
        ended.wait()
    }

    private var isClosing: Bool { state.withLock { $0.closing } }
    private var isStopping: Bool { state.withLock { $0.closing || $0.stopping || $0.interruption != nil } }

    // MARK: The thread

    private func run() throws {
        let connection = try Connection(conninfo: conninfo, purpose: .replication)
        connection.wakeDescriptor = wake.descriptor
        connection.isCancelled = { [self] in isClosing }
        let pace = try statusPace(connection)
        var restart: String?
        while true {
            let point = try StartPoint.find(
                connection: connection, slot: slot, resume: resume, archived: archived, size: size, spool: spool, restart: restart)
            let waiter = state.withLock { state in
                state.queue += point.spooled.map { .segment($0) } + point.outputs.map { .output($0) }
                state.unarchived += point.spooled.map {
                    .init(
                        name: PieceName(branch: $0.branch, name: $0.name), start: $0.start, end: $0.end, spooled: ack == .spool,
                        commit: $0.events.firstCommit(behind: 0))
                }
                state.received = point.position
                state.synced = point.position
                return state.takeWaiter()
            }
            waiter?.resume()
            let sync = SyncThread { [wake] in wake.signal() }
            defer { sync.close() }
            var stream = Stream(receiver: self, connection: connection, sync: sync, point: point, pace: pace)
            do {
                try stream.run()
                return
            } catch let error as ServerError where Self.isLost(error) && restart == nil {
                restart = "the server no longer had the WAL that was needed: \(error.message)"
                state.withLock { state in
                    // What the spool gave was queued already; it is found again.
                    state.queue = []
                    state.unarchived = []
                }
            }
        }
    }

    /// Whether the server says that it no longer has what we need.
    private static func isLost(_ error: ServerError) -> Bool {
        error.state == ServerError.segmentRemoved || error.state == ServerError.notInPrerequisiteState
            || error.message.contains("has already been removed") || error.message.contains("invalidated")
    }

    /// Seconds between two status messages: a third of the time after which the server gives a receiver up.
    private func statusPace(_ connection: Connection) throws -> Double {
        let text = try connection.setting("wal_sender_timeout")
        let number = Double(text.prefix { $0.isNumber }) ?? 60
        let seconds: Double =
            switch text.drop(while: { $0.isNumber }) {
            case "ms": number / 1000
            case "min": number * 60
            case "h": number * 3600
            default: number
            }
        return seconds > 0 ? max(0.1, min(10, seconds / 3)) : 10
    }

    /// Streaming on one connection, over as many timelines as it takes.
    private struct Stream {
        let receiver: Receiver
        let connection: Connection
        let sync: SyncThread
        var timeline: UInt32
        var position: UInt64
        let pace: Double

        /// Bytes that a flush beside the receiving is worth.
        private static let flushAside: UInt64 = 1 << 20

        private var decoder: WALDecoder
        private var file: SpoolFile?
        /// Up to where a flush of the spool was asked for or made.
        private var flushAsked: UInt64
        private var serverEnd: UInt64 = 0
        private var reported: UInt64 = 0
        private var lastStatus = 0.0
        private var lastQuestion = 0.0
        private var answered: UInt64 = 0
        /// Whether commits wait for what is received, and whether they come one by one.
        private let waits: CommitWaits
        private var lone = LoneCommits()
        /// A reading of the server's clock that still lacks its proof; see `prove`.
        private var candidate: (time: Moment, end: UInt64, repeated: Int)?

        init(receiver: Receiver, connection: Connection, sync: SyncThread, point: StartPoint, pace: Double) {
            self.receiver = receiver
            self.connection = connection
            self.sync = sync
            self.timeline = point.timeline
            self.position = point.position
            flushAsked = point.position
            self.pace = pace
            waits = CommitWaits(conninfo: receiver.conninfo, process: connection.process)
            decoder = point.makeDecoder(size: receiver.size, systemID: UInt64(receiver.resume.incarnation.identity))
        }

        mutating func run() throws {
            while true {
                try connection.send("START_REPLICATION SLOT \(quoted(receiver.slot)) PHYSICAL \(LSN(rawValue: position)) TIMELINE \(timeline)")
                switch try connection.answer() {
                case .copyBoth?:
                    guard try receive() else { return }
                    connection.endCopy()
                case .rows(let rows)?: if try follow(rows) { continue }
                default: throw PostgresServer.notUnderstood("START_REPLICATION")
                }
                var followed = false
                while let answer = try connection.answer() { if case .rows(let rows) = answer { followed = try follow(rows) } }
                guard followed else { throw ServerError(state: "", message: "the server ended the stream") }
            }
        }

        /// Goes over to the timeline that the server names. - Returns: `false` when it names none.
        private mutating func follow(_ rows: [Connection.Row]) throws -> Bool {
            guard let row = rows.first, row.count >= 2, let next = row[0].flatMap({ UInt32($0) }), let end = row[1].flatMap({ LSN($0)?.rawValue })
            else { return false }
            // The rest of the command's answers, before another one is asked.
            while try connection.answer() != nil {}
            let history = try connection.timelineHistory(next)
            try syncAll()
            let waiter = receiver.state.withLock { state in
                // It gets its place in the sequence when it is given out.
                if let piece = state.takeTail(sequence: nil) { state.queue.append(.output(.piece(piece))) }
                state.open = nil
                state.queue.append(.output(.branch(history.record)))
                return state.takeWaiter()
            }
            waiter?.resume()
            file = nil
            timeline = next
            position = segmentStart(end, receiver.size)
            decoder = WALDecoder(
                start: position, timeline: next, segmentSize: receiver.size.bytes, systemID: UInt64(receiver.resume.incarnation.identity))
            sync.restart(at: position)
            flushAsked = position
            receiver.state.withLock { state in
                state.received = position
                state.synced = position
            }
            return true
        }

        /// - Returns: `false` when we were asked to stop; `true` when the server ended the stream.
        private mutating func receive() throws -> Bool {
            try status()
            while true {
                if receiver.isStopping {
                    try syncAll()
                    try awaitArchive()
                    try status()
                    return false
                }
                var message: Received = .nothing
                let outcome = try connection.receive { bytes in message = try take(bytes) }
                switch outcome {
                case .end: return true
                case .message: if message == .replyNow { try replyNow() }
                case .nothing:
                    try becomeCurrent()
                    if try flush() {
                        try afterwards(idle: false)
                        if watchForNext() { continue }
                    }
                    let interval = receiver.state.withLock { $0.pace.interval(of: receiver.tail) }
                    _ = connection.wait(seconds: candidate != nil ? 0.01 : min(interval, 1, pace))
                }
                try afterwards(idle: outcome == .nothing)
            }
        }

        /// After a lone commit was answered: the next one of a client that waits for each comes at once, and is met awake, since it takes
        /// long to be woken up. Not when nothing came at once the last time, nor when nobody waits; and where many commit together, their
        /// server has better use for the core.
        private mutating func watchForNext() -> Bool {
            let time = monotonic()
            return lone.answered(at: time) && waits.isKnown(at: time) && connection.watch(seconds: LoneCommits.soon)
        }

        private enum Received { case nothing, replyNow }

        private mutating func take(_ message: UnsafeRawBufferPointer) throws -> Received {
            guard let kind = message.first else { return .nothing }
            func number(_ at: Int) throws -> UInt64 {
                guard at + 8 <= message.count else { throw PostgresServer.notUnderstood("START_REPLICATION") }
                return UInt64(bigEndian: message.loadUnaligned(fromByteOffset: at, as: UInt64.self))
            }
            switch kind {
            case UInt8(ascii: "w"):
                let start = try number(1)
                serverEnd = try number(9)
                let heard = now()
                receiver.state.withLock { $0.heard(end: serverEnd, at: heard) }
                // The server looked up the end of its WAL for this message after it had read its clock for the last one.
                prove(at: serverEnd)
                guard start == position else {
                    throw ArchiveError(
                        .logDamaged, "PostgreSQL sent WAL from \(LSN(rawValue: start)) where \(LSN(rawValue: position)) was expected.",
                        remedy: "The connection is made anew.")
                }
                try append(UnsafeRawBufferPointer(rebasing: message[25...]))
                return .nothing
            case UInt8(ascii: "k"):
                serverEnd = try number(1)
                let heard = now()
                receiver.state.withLock { $0.heard(end: serverEnd, at: heard) }
                let clock = Moment(postgresMicroseconds: Int64(bitPattern: try number(9)))
                if candidate?.end == serverEnd {
                    candidate?.repeated += 1
                    if candidate?.repeated == 2 { prove(at: serverEnd) }
                } else {
                    candidate = (clock, serverEnd, 0)
                }
                return message.count > 17 && message[17] != 0 ? .replyNow : .nothing
            default: return .nothing
            }
        }

        /// Settles up to where the log has to be archived so that nothing else was committed up to the candidate's time.
        ///
        /// A keepalive carries the clock, but only the end of what was *sent*: more may have been committed by then. It was not when
        /// two more keepalives, each asked for after the one before, found nothing else to send; else the next message with WAL says
        /// where the log ended.
        private mutating func prove(at end: UInt64) {
            guard let proven = candidate else { return }
            candidate = nil
            // An older reading is not given up for a newer one, or none would ever be reached under load.
            receiver.state.withLock { if $0.clock == nil { $0.clock = .init(time: proven.time, position: end) } }
        }

        private mutating func append(_ bytes: UnsafeRawBufferPointer) throws {
            var at = 0
            while at < bytes.count {
                try openSegment()
                let segmentEnd = (position / receiver.size.bytes + 1) * receiver.size.bytes
                let n = Int(min(UInt64(bytes.count - at), segmentEnd - position))
                let part = UnsafeRawBufferPointer(rebasing: bytes[at..<at + n])
                try decoder.feed(part)
                if let file {
                    try file.write(part, at: Int64(position % receiver.size.bytes))
                }
                position += UInt64(n)
                at += n
                let events = decoder.events
                decoder.events = []
                lone.received(events.count { $0.isCommit }, at: monotonic())
                try receiver.state.withLock { state in
                    state.open?.append(part)
                    state.open?.events += events
                    state.open?.lastRecord = decoder.lastRecord
                    try state.open?.checkKnown()
                    state.received = position
                    if state.serverEnd <= position { state.aheadSince = nil }
                }
                // The flush of a lot goes beside the receiving; that of a little is made when nothing else has come: see `flush`.
                if let file, position - min(position, flushAsked) >= Self.flushAside || position == segmentEnd { askFlush(file) }
                if position == segmentEnd { try closeSegment() }
            }
        }

        private mutating func openSegment() throws {
            guard receiver.state.withLock({ $0.open == nil }), let id = TimelineID(rawValue: timeline) else { return }
            let name = SegmentName(timeline: id, containing: LSN(rawValue: position), size: receiver.size)
            // More than a segment behind: the archive itself is the quickest durable place.
            let isBacklog = serverEnd > position + receiver.size.bytes
            let known = receiver.resume.tails.filter { $0.name.branch == timeline && $0.name.name == name.description }
            let isSpooled = !isBacklog && receiver.ack == .spool
            file = isSpooled ? try receiver.spool.open(name.description) : nil
            let isAwaited = !isBacklog && receiver.ack == .archive
            receiver.state.withLock { $0.open = OpenSegment(name: name, spooled: isSpooled, awaited: isAwaited, known: known, in: $0.takeSpare()) }
        }

        private mutating func closeSegment() throws {
            file = nil
            let waiter = receiver.state.withLock { state in
                state.close(at: monotonic(), keepInMemory: Receiver.memoryLimit)
                return state.takeWaiter()
            }
            waiter?.resume()
            // Without a spool memory is all there is: wait for the archive, and keep answering.
            while receiver.state.withLock({ $0.waitingInMemory }) >= Receiver.memoryLimit - 1, !receiver.isStopping {
                _ = connection.wait(seconds: min(pace, 0.2))
                try afterwards(idle: false)
            }
        }

        /// Caught up in the middle of a segment that went by the spool: from here on it is kept there too, or its tails are cut at once, so
        /// that it can be acknowledged.
        private mutating func becomeCurrent() throws {
            guard receiver.ack == .spool else {
                receiver.state.withLock { $0.open?.awaited = true }
                return
            }
            guard file == nil, let open = receiver.state.withLock({ $0.open.flatMap { $0.spooled ? nil : $0 } }) else { return }
            let file = try receiver.spool.open(open.name)
            try open.bytes.withUnsafeBytes { try file.write(UnsafeRawBufferPointer(rebasing: $0[..<Int(open.received - open.start)]), at: 0) }
            self.file = file
            askFlush(file)
            try waitForSync()
            receiver.state.withLock { $0.open?.spooled = true }
        }

        private mutating func askFlush(_ file: SpoolFile) {
            sync.ask(file, position: position)
            flushAsked = position
        }

        /// Makes what was written durable: here, unless a flush is under way already.
        ///
        /// - Returns: whether something became durable.
        private mutating func flush() throws -> Bool {
            guard let file, flushAsked != position else { return false }
            if try sync.flushHere(file, position: position) {
                flushAsked = position
                return true
            }
            askFlush(file)
            return false
        }

        private func waitForSync() throws {
            while try sync.durable() < position { _ = connection.wait(seconds: 0.05) }
            try noteSynced()
        }

        private func noteSynced() throws {
            let durable = try sync.durable()
            receiver.state.withLock { $0.synced = max($0.synced, durable) }
        }

        private mutating func syncAll() throws {
            try becomeCurrent()
            if file != nil {
                _ = try flush()
                try waitForSync()
            }
        }

        /// Goes on answering until the archive has all that was received, where commits wait for that. Whoever ships may give up: then it
        /// closes the receiver.
        private mutating func awaitArchive() throws {
            guard receiver.ack == .archive else { return }
            while receiver.state.withLock({ $0.isInHand }), !receiver.isClosing {
                try afterwards(idle: false)
                _ = connection.wait(seconds: min(pace, 0.2))
            }
        }

        /// The server asks: flush what is held, and answer.
        private mutating func replyNow() throws {
            try syncAll()
            try status()
        }

        /// What is due between two messages.
        private mutating func afterwards(idle: Bool) throws {
            try noteSynced()
            let time = monotonic()
            let (flushed, waiter) = receiver.state.withLock { state in
                state.dropSpare(at: time)
                let due = !state.queue.isEmpty || state.isTailDue(at: time, interval: receiver.tail) || state.isClockDue
                return (state.flushed, due ? state.takeWaiter() : nil)
            }
            waiter?.resume()
            let pause = candidate != nil ? 0.01 : position == answered ? Receiver.idleClock : max(receiver.tail, 0.2)
            let question = idle && time - lastQuestion >= pause
            if flushed != reported || time - lastStatus >= pace || question {
                if question {
                    lastQuestion = time
                    answered = position
                }
                try status(asking: question)
            }
        }

        private mutating func status(asking: Bool = false) throws {
            let (received, flushed) = receiver.state.withLock { ($0.received, $0.flushed) }
            var message: [UInt8] = [UInt8(ascii: "r")]
            func append(_ value: UInt64) { withUnsafeBytes(of: value.bigEndian) { message += $0 } }
            append(received)
            append(min(flushed, received))
            append(0)  // nothing is applied here
            append(UInt64(bitPattern: now().rawValue / 1000 - Moment.postgresEpoch))
            message.append(asking ? 1 : 0)
            try connection.sendCopy(message)
            reported = flushed
            lastStatus = monotonic()
        }
    }
}
