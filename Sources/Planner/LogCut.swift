import ArchiveCore

/// Cuts a source of one stream.
struct LogCut {
    let base: BaseRecord
    let window: LogSpan
    let view: LogView
    let details: PlanDetails

    /// What is known when the pieces have been gone through.
    private struct State {
        var applied = LogTotals()
        var seen = LogTotals()
        var lastApplied: Moment?
        /// Where the last event that is in begins and ends.
        var through: UInt64?
        var end: UInt64
        /// The first offset after the last commit that is in, and the piece that holds it while only its summary is known.
        var lower: UInt64
        var lastCommitPiece: PieceName?
        /// Where the first commit that is out begins.
        var upper: UInt64?
        var upperTime: Moment?
        /// The first offset that is not there, all before it being there, and the latest commit before it.
        var reached: UInt64
        var lastReached: Moment?
        var lastRecord: UInt64?

        var isInside: Bool { upper == nil }
    }

    func plan(_ rule: CutRule) throws(PlanRefusal) -> PlanStep {
        if case .time(let time, _) = rule, time < base.completed { throw Planner.beforeBase(base) }
        if case .position(let position, _) = rule, position < window.end {
            throw Planner.beforeBase(base, "\(view.describe(position)) lies before the end of the base \(base.id) at \(view.describe(window.end))")
        }
        guard window.end <= view.path.end(of: window.branch) ?? 0 else {
            throw PlanRefusal(
                kind: .otherBranch, reason: "the base \(base.id) goes on behind \(view.describe(view.path.end(of: window.branch) ?? 0)), where its timeline was left",
                earliest: nil, latest: nil)
        }
        var state = State(end: window.end, lower: window.end, reached: window.start)
        var wanted: [(piece: PlannedPiece, start: UInt64)] = []
        for piece in view.pieces {
            guard let branchEnd = view.path.end(of: piece.name.branch), let span = piece.spans.first else { continue }
            let end = min(span.end, branchEnd)
            guard span.start < branchEnd, end > window.start else { continue }
            if span.start > state.reached, state.isInside { try stopAtHole(rule, &state) }
            if span.start <= state.reached { state.reached = max(state.reached, end) }
            if let events = details.events[piece.name]?.events.filter({ $0.start >= window.start && $0.start < branchEnd }) {
                for event in events { state.seen.add(event) }
                try take(events, rule, into: &state)
            } else if needsEvents(piece, span, branchEnd, rule, state) {
                return .needsEvents([piece.name])
            } else {
                state.seen += piece.totals
                guard state.isInside else { continue }
                state.applied += piece.totals
                if let last = piece.times?.upperBound {
                    state.lastApplied = max(last, state.lastApplied ?? last)
                    state.lastCommitPiece = piece.name
                }
                if let last = piece.lastEvent, last.upperBound > window.end {
                    state.through = last.lowerBound
                    state.end = last.upperBound
                }
            }
            state.lastReached = [state.lastReached, state.lastApplied].compactMap { $0 }.max()
            if let last = span.lastRecord, last < end { state.lastRecord = max(last, state.lastRecord ?? 0) }
            wanted.append((PlannedPiece(name: piece.name, storedLength: piece.storedLength), span.start))
        }
        try checkReach(rule, state)
        if case .latest = rule, let last = state.lastRecord, last >= window.end, last > state.through ?? 0 {
            state.through = last
            state.end = max(state.end, state.reached)
        }
        guard state.reached >= state.end else { throw Planner.unfinished(base, at: view.describe(state.reached)) }
        // Fences of the idle time behind the last commit are ordered by their times, so its place has to be known.
        if case .time = rule, let piece = state.lastCommitPiece { return .needsEvents([piece]) }
        // Behind the last event that is in nothing needs to be read.
        let limit = max(state.end, (state.through ?? 0) + 1)
        wanted.removeAll { $0.start >= limit }
        var left = state.seen - state.applied
        if let beyond = view.isComplete ? LogTotals() : view.beyond { left += beyond }
        return .plan(
            SourcePlan(
                source: view.source, incarnation: view.incarnation, base: base, spans: [window],
                cuts: [StreamCut(stream: window.stream, branch: view.path.last, through: state.through, end: state.end)], pieces: wanted.map(\.piece),
                branches: view.branches, applied: state.applied,
                left: view.isComplete || view.beyond != nil ? left : nil, lastApplied: state.lastApplied, anchor: anchor(rule, state)))
    }

    /// What lies in a hole is unknown: the cut must lie before it, at the latest where the last commit before it is.
    private func stopAtHole(_ rule: CutRule, _ state: inout State) throws(PlanRefusal) {
        let isBefore =
            switch rule {
            case .time(let time, _): lastBefore(state).map { time <= $0 } ?? false
            case .position(let position, let exclusive): position < state.reached || exclusive && position == state.reached
            case .latest, .anchored: false
            }
        guard isBefore else { throw Planner.hole(window.stream, at: state.reached, before: lastBefore(state), in: view) }
        state.upper = state.reached
    }

    /// The last time before a hole at which nothing of it had been committed.
    private func lastBefore(_ state: State) -> Moment? {
        [state.lastReached, view.gaps.first { $0.explains(window.stream, state.reached) }?.provenUpTo].compactMap { $0 }.max()
    }

    /// Whether a piece's summary does not say enough.
    private func needsEvents(_ piece: PieceSummary, _ span: LogSpan, _ branchEnd: UInt64, _ rule: CutRule, _ state: State) -> Bool {
        guard state.isInside else { return false }
        if span.start < window.start && span.end > window.start || span.end > branchEnd { return true }
        switch rule {
        case .latest, .anchored: return false
        case .time(let time, let exclusive): return piece.times.map { exclusive ? $0.upperBound >= time : $0.upperBound > time } ?? false
        case .position(let position, _): return span.end > position
        }
    }

    private func take(_ events: [LogEvent], _ rule: CutRule, into state: inout State) throws(PlanRefusal) {
        for event in events where state.isInside {
            if event.isDecisive {
                let isOut =
                    switch rule {
                    case .latest, .anchored: false
                    case .time(let time, let exclusive): exclusive ? event.time >= time : event.time > time
                    case .position(let position, let exclusive): exclusive ? event.start >= position : event.start > position
                    }
                if isOut {
                    guard event.start >= window.end else {
                        throw Planner.beforeBase(base, "a commit of \(event.time) lies inside the window of the base \(base.id)")
                    }
                    state.upper = event.start
                    state.upperTime = event.time
                    return
                }
                state.lastApplied = max(event.time, state.lastApplied ?? event.time)
                state.lower = max(state.lower, event.end)
                state.lastCommitPiece = nil
            }
            state.applied.add(event)
            if event.end > window.end {
                state.through = event.start
                state.end = event.end
            }
        }
    }

    /// Whether the archive is known to hold everything that is in.
    private func checkReach(_ rule: CutRule, _ state: State) throws(PlanRefusal) {
        guard state.isInside else { return }
        // A record may end pieces behind the one in which it begins: the first one that is out is to be seen, or the end.
        if !view.isComplete {
            switch rule {
            case .time, .position: throw PlanRefusal(kind: .beyondWatermark, reason: "not enough of the log was read", earliest: nil, latest: nil)
            case .latest, .anchored: break
            }
        }
        let latest = [view.watermark, state.lastReached].compactMap { $0 }.max()
        switch rule {
        case .latest, .anchored: return
        case .time(let time, _):
            guard latest.map({ time <= $0 }) ?? false else {
                throw PlanRefusal(
                    kind: .beyondWatermark,
                    reason: latest.map { "the archive of '\(view.source)' is known to be complete only up to \($0)" }
                        ?? "nothing says up to when the archive of '\(view.source)' is complete", earliest: base.completed, latest: latest)
            }
        case .position(let position, let exclusive):
            guard position < state.reached || exclusive && position == state.reached else {
                throw PlanRefusal(
                    kind: .beyondWatermark, reason: "the archive of '\(view.source)' ends at \(view.describe(state.reached))", earliest: base.completed,
                    latest: latest)
            }
        }
    }

    private func anchor(_ rule: CutRule, _ state: State) -> AnchorCut {
        let last = max(state.lastApplied ?? base.completed, base.completed)
        let order: AnchorCut.Order
        var time = last
        switch rule {
        case .time(let target, _):
            order = .time(target)
            time = target
        case .position(let position, _): order = .position(max(position, state.lower))
        case .latest, .anchored: order = .position(.max)
        }
        return AnchorCut(
            source: view.source, identity: view.incarnation.identity, path: BranchPath(to: view.path.last, by: view.branches), lower: state.lower, upper: state.upper, order: order, time: time)
    }
}
