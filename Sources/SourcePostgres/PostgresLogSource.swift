import ArchiveCore
import Runtime
import Source
import Synchronization

/// Streams a cluster's WAL through a physical replication slot.
public final class PostgresLogSource: LogSource {
    /// The one stream that a cluster has.
    public static let stream = "wal"

    private let conninfo: String
    private let slot: String
    private let stateDirectory: String
    private let tail: Double
    private let ack: Acknowledgement
    private let current = Mutex<(receiver: Receiver?, stopping: Bool, watermark: Moment)>((nil, false, Moment(rawValue: .min)))

    /// - Parameters:
    ///   - stateDirectory: where received WAL is kept until it is archived.
    ///   - tail: longest time that received WAL waits to be archived, in seconds; see `TailPace`.
    ///   - ack: when PostgreSQL is told that WAL is durable.
    public init(conninfo: String, slot: String, stateDirectory: String, tail: Double, ack: Acknowledgement = .spool) {
        self.conninfo = conninfo
        self.slot = slot
        self.stateDirectory = stateDirectory
        self.tail = tail
        self.ack = ack
    }

    public func identify() async throws -> SourceIdentity {
        let conninfo = conninfo
        return try await blocking { try PostgresServer.identify(Connection(conninfo: conninfo, purpose: .replication)) }
    }

    public func start(from resume: ResumeState) async throws {
        guard let size = resume.incarnation.facts["segment-size"].flatMap(UInt64.init).flatMap(SegmentSize.init(bytes:)) else {
            throw ArchiveError(.archiveDamaged, "The record of '\(resume.incarnation.source)' in the archive names no segment size.")
        }
        await close()
        let (conninfo, slot, directory, tail, ack) = (conninfo, slot, stateDirectory, tail, ack)
        var readable = resume
        if readable.content == nil { readable.content = ReadBack(conninfo: conninfo, stateDirectory: directory, size: size).content }
        let archived = try await Self.decoder(behind: readable, size: size)
        let receiver = try await blocking {
            let spool = try Spool(stateDirectory: directory, segmentSize: size.bytes)
            return try Receiver(
                conninfo: conninfo, slot: slot, size: size, resume: resume, archived: archived, spool: spool, tail: tail, ack: ack)
        }
        let stopping = current.withLock { current in
            current.receiver = receiver
            return current.stopping
        }
        if stopping { receiver.state.withLock { $0.stopping = true } }
        receiver.start()
    }

    /// - Returns: `nil` also when the last archived segment cannot be read back: that is no reason not to archive what follows.
    private static func decoder(behind resume: ResumeState, size: SegmentSize) async throws -> WALDecoder? {
        do { return try await WALDecoder.behind(resume, size: size) } catch let error as ArchiveError where !error.code.isRetryable {
            Log(resume.incarnation.source).warning(
                "the last archived segment could not be read back: \(error) If a record goes on from it into the next one, the index lacks it: see tidemark verify --reindex"
            )
            return nil
        }
    }

    private enum Step {
        case give(LogOutput)
        case segment(ClosedSegment, sequence: UInt64)
        case wait
        case end((any Error)?)
    }

    public func next() async throws -> LogOutput? {
        guard let receiver = current.withLock({ $0.receiver }) else { return nil }
        while true {
            try Task.checkCancellation()
            switch receiver.state.withLock({ step(&$0) }) {
            case .give(let output):
                receiver.wake.signal()
                return output
            case .segment(let segment, let sequence):
                receiver.wake.signal()
                if let bytes = segment.bytes { return .piece(segment.piece(bytes: bytes, sequence: sequence)) }
                let spool = receiver.spool
                return .piece(segment.piece(bytes: try await blocking { try spool.read(segment.name) }, sequence: sequence))
            case .end(let failure):
                if let failure { throw failure }
                return nil
            case .wait:
                await withTaskCancellationHandler {
                    await withCheckedContinuation { continuation in
                        let ready = receiver.state.withLock { state in
                            if state.ended || state.cancelled || !state.queue.isEmpty || isTailDue(state) { return true }
                            state.waiter = continuation
                            return false
                        }
                        if ready { continuation.resume() }
                    }
                } onCancel: {
                    let waiter = receiver.state.withLock { state in
                        state.cancelled = true
                        return state.takeWaiter()
                    }
                    waiter?.resume()
                }
            }
        }
    }

    private func isTailDue(_ state: borrowing StreamState) -> Bool { state.isTailDue(at: monotonic(), interval: tail) }

    private func step(_ state: inout StreamState) -> Step {
        if !state.queue.isEmpty {
            switch state.queue.removeFirst() {
            case .output(.piece(var piece)):
                state.number(piece.name)
                piece.sequence = state.sequence
                return .give(.piece(piece))
            case .output(let output): return .give(output)
            case .segment(let segment):
                state.number(PieceName(branch: segment.branch, name: segment.name))
                return .segment(segment, sequence: state.sequence)
            }
        }
        let time = monotonic()
        if state.isTailDue(at: time, interval: tail), let piece = state.takeTail(sequence: state.sequence + 1) {
            state.sequence += 1
            state.lastGiven = time
            state.pace.gave(state.sequence, at: time)
            return .give(.piece(piece))
        }
        if state.isClockDue, let clock = state.clock {
            state.clock = nil
            let isNewer = current.withLock { current in
                guard clock.time > current.watermark else { return false }
                current.watermark = clock.time
                return true
            }
            if isNewer { return .give(.watermark(clock.time)) }
        }
        return state.ended ? .end(state.failure) : .wait
    }

    public func acknowledge(through sequence: UInt64) async {
        guard let receiver = current.withLock({ $0.receiver }) else { return }
        let time = monotonic()
        let (archived, waiter) = receiver.state.withLock { state in
            let done = state.acknowledge(through: sequence, at: time)
            state.pace.archived(through: sequence, at: time)
            return (done, isTailDue(state) ? state.takeWaiter() : nil)
        }
        waiter?.resume()
        guard !archived.isEmpty else { return }
        // Commits wait for the status that goes out now.
        if archived.contains(where: { !$0.spooled }) { receiver.wake.signal() }
        // Also with `ack: archive`: an earlier run may have left it in the spool.
        let closed = archived.filter { $0.name.part == nil }
        guard !closed.isEmpty else { return }
        let spool = receiver.spool
        do { try await blocking { for segment in closed { try spool.discard(segment.name.name) } } } catch {
            Log().warning("an archived segment could not be removed from the spool, which is tried again after the next start: \(error)")
        }
        receiver.wake.signal()
    }

    public func progress() async -> LogProgress {
        let time = now()
        return current.withLock { $0.receiver }?.state.withLock { $0.progress(at: time) } ?? LogProgress()
    }

    public func stop() async {
        let receiver = current.withLock { current in
            current.stopping = true
            return current.receiver
        }
        receiver?.state.withLock { $0.stopping = true }
        receiver?.wake.signal()
    }

    public func interrupt(_ failure: ArchiveError) async {
        guard let receiver = current.withLock({ $0.receiver }) else { return }
        receiver.state.withLock { $0.interruption = failure }
        receiver.wake.signal()
    }

    public func close() async {
        let receiver = current.withLock { current in
            defer { current.receiver = nil }
            return current.receiver
        }
        guard let receiver else { return }
        // Its thread always ends; nothing can fail here.
        _ = try? await blocking { receiver.close() }
    }
}
