import ArchiveCore
import Lag
import Runtime
import Source
import Synchronization

/// Hears what becomes of one source's log while an agent runs: measures its lag, keeps its line on the status board, and tells of what an
/// administrator should know. Returns at once, whatever it is told.
public final class SourceMeter: Sendable {
    fileprivate struct State {
        var meter: LagMeter
        /// By stream, the first offset that is not archived, as far as pieces overlap.
        var ends: [String: UInt64] = [:]
        /// Since when archiving fails, and whether somebody was told.
        var failing: (since: Moment, attempts: Int, told: Bool)?
        /// Since when the lag is within the objective again, after it was not.
        var missed = false
        var withinSince: Moment?
        /// When the hole was noticed that no base lies behind yet.
        var gapNoticed: Moment?
    }

    public let source: String
    private let board: StatusBoard
    private let post: EventSink
    private let state: Mutex<State>

    /// Failed attempts, and seconds, after which a failure is told: what passes by itself is in the log only.
    static let patience = (attempts: 3, seconds: 30.0)
    /// Seconds for which the lag is within the objective before that is told.
    static let calm = 10.0

    public init(source: String, board: StatusBoard, objective: Double, post: @escaping EventSink) {
        self.source = source
        self.board = board
        self.post = post
        state = Mutex(State(meter: LagMeter(objective: objective)))
    }

    // MARK: Told by those who archive

    func begin(_ incarnation: IncarnationRecord, proven: Moment?, ends: [String: UInt64]) {
        let time = now()
        let hadFailed = state.withLock { state in
            state.meter.begin(at: time, proven: proven)
            state.ends = ends
            defer { state.failing = nil }
            return state.failing?.told ?? false
        }
        board.update(source) {
            $0.incarnation = incarnation.id
            $0.set(.archiving, at: time)
            $0.watermark = proven ?? $0.watermark
        }
        if hadFailed { post(AgentEvent(.recovered, at: time, source: source, "'\(source)' is archived again.")) }
    }

    func gave(_ piece: LogPiece) {
        let time = now()
        state.withLock { state in
            let commits = state.commits(piece.events, piece.spans)
            state.meter.gave(piece.sequence, oldest: commits.min(), bytes: piece.frames.reduce(0) { $0 + UInt64($1.count) }, at: time)
        }
    }

    func archived(_ sequence: UInt64, _ name: PieceName, _ index: PieceIndex) {
        let time = now()
        let commits = state.withLock { state in
            let commits = state.commits(index.events, index.spans)
            state.meter.archived(sequence, commits: commits, at: time)
            // Only pieces of one long log hold what tails held before them.
            for span in index.spans where name.part != nil || state.ends[span.stream] != nil { state.ends[span.stream] = max(state.ends[span.stream] ?? 0, span.end) }
            return commits
        }
        board.update(source) { status in
            status.pieces += 1
            status.bytesStored += index.storedLength
            status.commits += UInt64(commits.count)
            for commit in commits { status.lag.add(time - commit) }
        }
    }

    func proven(upTo time: Moment) {
        state.withLock { $0.meter.proven(upTo: time) }
        board.update(source) { $0.watermark = time }
    }

    func lost(_ gap: GapRecord) {
        state.withLock { state in
            state.meter.lost(since: gap.provenUpTo ?? gap.noticed)
            state.gapNoticed = max(state.gapNoticed ?? gap.noticed, gap.noticed)
        }
        board.update(source) { $0.gaps += 1 }
        post(
            AgentEvent(
                .gap, at: gap.noticed, source: source, "The log of '\(source)' has a hole: \(gap.cause).",
                remedy: "What was committed from then on is safe again behind the next base: see that one is taken (`tidemark backup --source \(source)`)."))
    }

    func failed(_ error: any Error) {
        let time = now()
        let code = (error as? ArchiveError)?.code
        let tell = state.withLock { state in
            state.meter.failed(code == .sourceUnreachable ? .network : code?.name.hasPrefix("source") ?? false ? .network : .store, at: time)
            var failing = state.failing ?? (time, 0, false)
            failing.attempts += 1
            let tell = !failing.told && (failing.attempts >= Self.patience.attempts || time - failing.since >= Self.patience.seconds)
            failing.told = failing.told || tell
            state.failing = failing
            return tell
        }
        board.update(source) {
            $0.set(.retrying, at: time)
            $0.failures += 1
            $0.lastError = "\(error)"
        }
        if tell { post(AgentEvent(.failure, at: time, source: source, "'\(source)' is not archived: \(message(error))", remedy: (error as? ArchiveError)?.remedy)) }
    }

    func refused(_ error: any Error) {
        let time = now()
        board.update(source) {
            $0.set(.refused, at: time)
            $0.lastError = "\(error)"
        }
        post(AgentEvent(.failure, at: time, source: source, "'\(source)' is no longer archived: \(message(error))", remedy: (error as? ArchiveError)?.remedy))
    }

    func stopped() { board.update(source) { $0.set(.stopped, at: now()) } }

    private func message(_ error: any Error) -> String { (error as? ArchiveError)?.message ?? "\(error)" }

    // MARK: Asked by the recorder

    /// Looks at how far everything is, for the status board and the row under way.
    ///
    /// - Parameters:
    ///   - progress: of the source.
    ///   - verified: everything committed up to this time was verified; `nil`: not known.
    public func sample(_ progress: LogProgress, verified: Moment?, objective: Double, at time: Moment) {
        let (backlogs, event) = state.withLock { state in
            state.meter.objective = objective
            func age(_ since: Moment?) -> Double { since.map { max(0, time - $0) } ?? 0 }
            let waiting = state.meter.waiting(at: time)
            var backlogs: [LagRow.Stage: LagRow.Backlog] = [
                .received: .init(bytes: progress.unreceived.bytes, seconds: age(progress.unreceived.since)),
                .synced: .init(bytes: progress.unsynced.bytes, seconds: age(progress.unsynced.since)),
                .archived: .init(
                    bytes: progress.ungiven.bytes.map { $0 + (waiting.bytes ?? 0) }, seconds: max(waiting.seconds, age(progress.ungiven.since), age(progress.unreceived.since))),
            ]
            if let verified { backlogs[.verified] = .init(bytes: nil, seconds: max(0, time - verified)) }
            state.meter.sample(backlogs)
            return (backlogs, state.judge(backlogs[.archived]?.seconds ?? 0, objective: objective, source: source, at: time))
        }
        board.update(source) {
            $0.backlog = backlogs
            if let event { $0.isObjectiveMissed = event.kind == .rpoMissed }
        }
        if let event { post(event) }
    }

    /// Rows that are to be recorded; see `LagMeter.takeRows`.
    public func takeRows(all: Bool = false) -> [LagRow] { state.withLock { $0.meter.takeRows(all: all) } }

    /// When a hole was noticed that no base lies behind yet.
    public var openGap: Moment? { state.withLock { $0.gapNoticed } }

    /// A usable base was begun after the hole was noticed.
    public func mended(at time: Moment) {
        state.withLock { state in
            state.meter.mended(at: time)
            state.gapNoticed = nil
        }
    }
}

extension SourceMeter.State {
    /// Commit times of what was not archived before.
    fileprivate func commits(_ events: [LogEvent], _ spans: [LogSpan]) -> [Moment] {
        events.filter { event in event.kind == .commit && ends[spans[event.span].stream].map { event.end > $0 } ?? true }.map(\.time)
    }

    /// - Returns: what there is to tell of the objective.
    fileprivate mutating func judge(_ lag: Double, objective: Double, source: String, at time: Moment) -> AgentEvent? {
        guard lag <= objective else {
            withinSince = nil
            if missed { return nil }
            missed = true
            return AgentEvent(
                .rpoMissed, at: time, source: source, "The archive is \(Int(lag.rounded())) s behind '\(source)', more than the objective of \(objective) s.",
                remedy: "`tidemark status` and the agent's log tell what holds it up.")
        }
        guard missed else { return nil }
        withinSince = withinSince ?? time
        guard let since = withinSince, time - since >= SourceMeter.calm else { return nil }
        missed = false
        withinSince = nil
        return AgentEvent(.rpoRecovered, at: time, source: source, "The archive of '\(source)' is within the objective of \(objective) s again.")
    }
}

extension SourceStatus {
    fileprivate mutating func set(_ state: State, at time: Moment) {
        if self.state != state { since = time }
        self.state = state
        if state == .archiving { lastError = nil }
    }
}
