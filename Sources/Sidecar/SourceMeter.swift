import ArchiveCore
import Lag
import Runtime
import Source
import Synchronization

/// Hears what happens to the archiving of one source: measures its lag, keeps its status on the board, and tells of what an administrator
/// should know. Never waits.
public final class SourceMeter: Sendable {
    private struct State {
        var meter: LagMeter
        /// Whether log is being received; else nobody knows what the source commits.
        var isConnected = false
        var incarnation: IncarnationRecord?
        /// Holes that no usable base lies behind.
        var gaps: [GapRecord] = []
        var alarm = FailureAlarm()
        var objective = ObjectiveAlarm()
    }

    public let source: String
    private let started: Moment
    private let board: StatusBoard
    private let post: EventSink
    private let state: Mutex<State>

    /// - Parameter objective: in seconds.
    public init(source: String, board: StatusBoard, objective: Double, started: Moment = now(), post: @escaping EventSink) {
        self.source = source
        self.board = board
        self.started = started
        self.post = post
        state = Mutex(State(meter: LagMeter(objective: objective)))
    }

    // MARK: What shipping tells

    /// Whether an attempt was begun already.
    public var hasBegun: Bool { state.withLock { $0.meter.accountedUpTo != nil } }

    /// An attempt to archive begins.
    ///
    /// - Parameter proven: see `LagMeter.begin`.
    public func begin(at now: Moment, proven: Moment?) { state.withLock { $0.meter.begin(at: now, proven: proven) } }

    /// The source is connected, and its log goes on in `incarnation`.
    ///
    /// - Parameter gaps: its holes that no usable base lies behind.
    public func connected(_ incarnation: IncarnationRecord, watermark: Moment?, gaps: [GapRecord], at now: Moment) {
        state.withLock { state in
            state.isConnected = true
            state.incarnation = incarnation
            state.gaps = gaps
            for gap in gaps { state.meter.lost(since: gap.provenUpTo ?? gap.noticed) }
        }
        board.update(source) { status in
            status.incarnation = incarnation.id
            status.watermark = watermark
            status.enter(.archiving, at: now)
        }
    }

    /// A piece is on its way. What it has and the archive does not: the oldest commit, and bytes.
    public func gave(_ sequence: UInt64, oldest: Moment?, bytes: UInt64, at now: Moment) {
        state.withLock { $0.meter.gave(sequence, oldest: oldest, bytes: bytes, at: now) }
    }

    /// A piece, and all before it, is archived.
    ///
    /// - Parameters:
    ///   - commits: commit times of what was not archived before.
    ///   - stored: bytes.
    public func archived(_ sequence: UInt64, commits: [Moment], stored: UInt64, at now: Moment) {
        let events = state.withLock { state in
            state.meter.archived(sequence, commits: commits, at: now)
            let worst = commits.min().map { now - $0 } ?? 0
            return [state.alarm.succeeded(source, at: now), state.objective.look(worst, objective: state.meter.objective, source: source, at: now)]
        }
        let isMissed = state.withLock { $0.objective.isMissed }
        board.update(source) { status in
            status.pieces += 1
            status.bytesStored += stored
            status.commits += UInt64(commits.count)
            for commit in commits { status.lag.add(now - commit) }
            status.isObjectiveMissed = isMissed
        }
        tell(events)
    }

    /// Everything committed up to `time` is archived.
    public func proven(upTo time: Moment, at now: Moment) {
        let event = state.withLock { state in
            state.meter.proven(upTo: time)
            return state.alarm.succeeded(source, at: now)
        }
        board.update(source) { $0.watermark = time }
        tell([event])
    }

    /// An attempt failed; another one follows.
    public func failed(_ error: any Error, _ cause: Miss.Cause, at now: Moment) {
        let event = state.withLock { state in
            state.isConnected = false
            state.meter.failed(cause, at: now)
            return state.alarm.failed(error, source: source, at: now)
        }
        board.update(source) { status in
            status.failures += 1
            status.lastError = "\(error)"
            status.enter(.retrying, at: now)
        }
        tell([event])
    }

    /// Archiving ended, and is not tried again.
    public func refused(_ error: any Error, at now: Moment) {
        let event = state.withLock { state in
            state.isConnected = false
            return state.alarm.refused(error, source: source, at: now)
        }
        board.update(source) { status in
            status.lastError = "\(error)"
            status.enter(.refused, at: now)
        }
        tell([event])
    }

    public func stopped(at now: Moment) { board.update(source) { $0.enter(.stopped, at: now) } }

    /// The log has a hole.
    public func found(_ gap: GapRecord) {
        state.withLock { state in
            state.gaps.append(gap)
            state.meter.lost(since: gap.provenUpTo ?? gap.noticed)
        }
        board.update(source) { $0.gaps += 1 }
        tell([
            AgentEvent(
                .gap, at: gap.noticed, source: source, "The log of '\(source)', stream \(gap.stream), has a hole: \(gap.cause).",
                remedy: "Take a base with `tidemark backup --source \(source)`: nothing behind the hole can be restored without one.")
        ])
    }

    // MARK: What the recorder asks

    /// Holes that no usable base lies behind, and the history that they are in.
    public var openGaps: (incarnation: IncarnationRecord, gaps: [GapRecord])? {
        state.withLock { state in state.gaps.isEmpty ? nil : state.incarnation.map { ($0, state.gaps) } }
    }

    /// Usable bases lie behind all holes.
    ///
    /// - Parameter gaps: those that this was found out of.
    public func mended(_ gaps: [GapRecord], at now: Moment) {
        state.withLock { state in
            guard state.gaps == gaps else { return }
            state.gaps = []
            state.meter.mended(at: now)
        }
    }

    /// Rows that are settled; see `LagMeter.takeRows`.
    public func takeRows(all: Bool = false) -> [LagRow] { state.withLock { $0.meter.takeRows(all: all) } }

    /// Looks at what is on its way at this moment.
    ///
    /// - Parameters:
    ///   - verified: everything committed up to this time was verified; `nil`: not known.
    ///   - objective: in seconds; what is measured from now on is held against it.
    public func sample(_ progress: LogProgress, verified: Moment?, objective: Double, at now: Moment) {
        let (backlogs, isMissed, events) = state.withLock { state in
            state.meter.objective = objective
            var backlogs = Self.backlogs(state.isConnected ? progress : nil, meter: state.meter, unknownSince: state.meter.accountedUpTo ?? started, at: now)
            if let verified { backlogs[.verified] = .init(bytes: nil, seconds: max(0, now - verified)) }
            state.meter.sample(backlogs, at: now)
            let exposure = backlogs[.archived]?.seconds ?? 0
            let events = [
                state.objective.look(exposure, objective: state.meter.objective, source: source, at: now), state.alarm.looked(source, at: now),
            ]
            return (backlogs, state.objective.isMissed, events)
        }
        board.update(source) { status in
            status.backlog = backlogs
            status.isObjectiveMissed = isMissed
        }
        tell(events)
    }

    /// What each stage lacks.
    ///
    /// - Parameter progress: `nil`: the source is not connected, and what it committed since `unknownSince` is not known.
    static func backlogs(_ progress: LogProgress?, meter: LagMeter, unknownSince: Moment, at now: Moment) -> [LagRow.Stage: LagRow.Backlog] {
        let progress = progress ?? LogProgress(unreceived: .init(bytes: nil, since: unknownSince))
        func age(_ times: Moment?...) -> Double { times.compactMap { $0 }.min().map { max(0, now - $0) } ?? 0 }
        let (unreceived, unsynced, ungiven, waiting) = (progress.unreceived, progress.unsynced, progress.ungiven, meter.waiting(at: now))
        return [
            .received: .init(bytes: unreceived.bytes, seconds: age(unreceived.since)),
            .synced: .init(bytes: unsynced.bytes, seconds: age(unreceived.since, unsynced.since)),
            .archived: .init(
                bytes: ungiven.bytes.flatMap { a in waiting.bytes.map { a + $0 } },
                seconds: max(age(unreceived.since, unsynced.since, ungiven.since), waiting.seconds)),
        ]
    }

    private func tell(_ events: [AgentEvent?]) { for case let event? in events { post(event) } }
}

extension SourceStatus {
    fileprivate mutating func enter(_ next: State, at now: Moment) {
        guard state != next else { return }
        state = next
        since = now
    }
}
