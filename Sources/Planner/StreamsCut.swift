import ArchiveCore

/// Cuts a source of many streams, such as the partitions of a storage.
struct StreamsCut {
    let base: BaseRecord
    let windows: [LogSpan]
    let view: LogView
    let details: PlanDetails

    /// One stream while the pieces go by, in log order.
    private struct Stream {
        var name: String
        var window: LogSpan
        var isInBase: Bool
        /// The first offset that is not there, all before it from the window's start being there.
        var reached: UInt64
        /// Something follows behind `reached` that does not join on, and an entry before it is later than this.
        var hole: Moment?
        /// The last piece that went on without a hole.
        var lastPiece = -1
        /// The first offset that is out.
        var end: UInt64 = 0
        /// For entries that no fence decides: a deletion that may lie behind the cut, and whether nothing more is taken.
        var held: (offset: UInt64, subject: String)?
        var isClosed = false
        /// Where the first entry begins that is out, as far as one is known.
        var firstOut: UInt64 = .max

        /// With an entry all before it in the stream are in.
        mutating func take(to offset: UInt64) {
            end = max(end, offset)
            if firstOut < end { firstOut = .max }
        }
    }

    private struct State {
        var streams: [Stream] = []
        var numbers: [String: Int] = [:]
        var applied = LogTotals()
        var seen = LogTotals()
        var lastApplied: Moment?
        var precision = CutPrecision()
    }

    /// How entries that no fence decides are compared with the cut.
    private struct Clock {
        /// The target by the anchor's clock, or by the source's own.
        var time: Moment
        var slack: Int64
        /// What is added to an entry's time, at least and at most.
        var offset: ClosedRange<Int64>
        /// Without fences on both sides an entry that is later than the target ends its stream, whatever follows.
        var ends: Bool
        var isExclusive: Bool
        /// From these offsets on entries came while the marker behind the cut was written, or after it: no time proves the opposite, since a
        /// clock that was set meanwhile was not measured.
        var late: [String: UInt64] = [:]

        func isLate(_ piece: PieceSummary) -> Bool {
            var result = false
            if !late.isEmpty { piece.forEachSpan { if $0.end > late[$0.stream] ?? .max { result = true } } }
            return result
        }
        func early(_ t: Moment) -> Bool {
            let corrected = t.adding(nanoseconds: offset.lowerBound)
            let limit = time.adding(nanoseconds: slack)
            return isExclusive ? corrected < limit : corrected <= limit
        }
        /// Whether the entry is not later than the target, whatever the clocks did.
        func surely(_ t: Moment) -> Bool {
            let corrected = t.adding(nanoseconds: offset.upperBound)
            return isExclusive ? corrected < time : corrected <= time
        }
    }

    func plan(_ rule: CutRule) throws(PlanRefusal) -> PlanStep {
        switch rule {
        case .position:
            throw PlanRefusal(kind: .otherBranch, reason: "'\(view.source)' has no single log whose positions could be a target", earliest: nil, latest: nil)
        case .latest:
            // Everything is decided.
            return try plan(decided: view.pieces.count, late: [], undecided: view.pieces.count..<view.pieces.count, clock: nil, state: State())
        case .time(let time, let exclusive):
            guard time >= base.completed else { throw Planner.beforeBase(base) }
            try checkReach(time, offset: 0)
            let clock = Clock(time: time, slack: 0, offset: 0...0, ends: true, isExclusive: exclusive)
            return try plan(decided: 0, late: [], undecided: 0..<view.pieces.count, clock: clock, state: State())
        case .anchored(let cut, let slack):
            let pair: FencePair
            switch FencePair.search(view.pieces, behind: view.earlierFences, around: cut, confirmed: details.confirmed) {
            case .needs(let fences): return .needsConfirmation(fences)
            case .found(let found): pair = found
            }
            var state = State()
            state.precision.before = pair.before?.fence
            state.precision.after = pair.after?.fence
            state.precision.offset = pair.offset
            state.precision.slack = slack
            let offset = pair.offset ?? 0...0
            if let after = pair.after, after.piece < 0 {
                throw Planner.beforeBase(base, "the base \(base.id) was begun after the fence \(after.fence.id), which lies behind the target")
            }
            // Without a fence between the base and the cut the clocks have to say which was first.
            if pair.before?.piece ?? -1 < 0, base.completed.adding(nanoseconds: offset.upperBound) > cut.time { throw Planner.beforeBase(base) }
            // A fence behind the cut proves that all before it is archived; else the watermark has to.
            if pair.after == nil { try checkReach(cut.time, offset: pair.lowest ?? 0) }
            let clock = Clock(
                time: cut.time, slack: slack, offset: offset, ends: pair.before == nil && pair.after == nil, isExclusive: false,
                late: Dictionary(pair.after?.fence.late.map { ($0.stream, $0.start) } ?? [], uniquingKeysWith: min))
            let first = pair.before.map { $0.piece + 1 } ?? 0
            let last = pair.after.map { $0.piece + 1 } ?? view.pieces.count
            return try plan(
                decided: first, late: pair.before?.fence.late ?? [], undecided: min(first, last)..<last, clock: clock, state: state)
        }
    }

    /// - Parameters:
    ///   - time: by the anchor's clock, or by the source's own.
    ///   - offset: what is added to the source's own times at least, in nanoseconds.
    private func checkReach(_ time: Moment, offset: Int64) throws(PlanRefusal) {
        let latest = view.watermark?.adding(nanoseconds: offset)
        guard latest.map({ time <= $0 }) ?? false else {
            throw PlanRefusal(
                kind: .beyondWatermark,
                reason: latest.map { "the archive of '\(view.source)' is known to be complete only up to \($0)" }
                    ?? "nothing says up to when the archive of '\(view.source)' is complete", earliest: base.completed, latest: latest)
        }
    }

    /// - Parameters:
    ///   - decided: pieces that are in as a whole, from the first one on, but for what `late` names.
    ///   - undecided: pieces whose entries `clock` decides; what follows is out.
    private func plan(
        decided: Int, late: [FenceRecord.Late], undecided: Range<Int>, clock: Clock?, state: State
    ) throws(PlanRefusal) -> PlanStep {
        var state = state
        let lateStart = Dictionary(late.map { ($0.stream, $0.start) }, uniquingKeysWith: min)
        let mixed: Set<Int> = lateStart.isEmpty ? [] : mixedPieces(decided, lateStart)
        var needed: [PieceName] = []
        let single = clock.map { singlePieces(undecided, $0) } ?? []
        for number in single.sorted() where details.events[view.pieces[number].name] == nil { needed.append(view.pieces[number].name) }
        for number in mixed.sorted() where details.events[view.pieces[number].name] == nil { needed.append(view.pieces[number].name) }
        guard needed.isEmpty else { return .needsEvents(needed) }

        state.numbers.reserveCapacity(windows.count)
        state.streams.reserveCapacity(windows.count)
        for window in windows {
            state.numbers[window.stream] = state.streams.count
            state.streams.append(Stream(name: window.stream, window: window, isInBase: true, reached: window.start))
        }
        for number in 0..<decided {
            let piece = view.pieces[number]
            if mixed.contains(number), let known = details.events[piece.name] {
                take(known.events, of: known.streams, number, clock, lateStart, into: &state)
            } else {
                take(number, into: &state)
            }
        }
        if let clock {
            for number in undecided {
                let piece = view.pieces[number]
                if single.contains(number), let known = details.events[piece.name] {
                    take(known.events, of: known.streams, number, clock, nil, into: &state)
                } else {
                    take(number, undecidedBy: clock, into: &state)
                }
            }
        }
        for piece in view.pieces[max(decided, undecided.upperBound)...] {
            state.seen += piece.totals
            piece.forEachSpan { span in
                if let n = state.numbers[span.stream] { state.streams[n].firstOut = min(state.streams[n].firstOut, span.start) }
            }
        }
        for stream in state.streams { if let held = stream.held { state.precision.heldDeletions.append("\(stream.name)/\(view.describe(held.offset))\(held.subject.isEmpty ? "" : " \(held.subject)")") } }
        return .plan(try finish(state, hasClock: clock != nil, limit: clock.map { $0.time.adding(nanoseconds: -$0.offset.lowerBound) }, through: max(decided, undecided.upperBound)))
    }

    /// Pieces that hold entries which are not in V of their fence.
    private func mixedPieces(_ decided: Int, _ late: [String: UInt64]) -> Set<Int> {
        var mixed: Set<Int> = []
        // They came while the marker was written, and so lie in the last pieces before the fence's end.
        var open = Set(late.keys)
        for number in (0..<decided).reversed() where !open.isEmpty {
            view.pieces[number].forEachSpan { span in
                guard let start = late[span.stream] else { return }
                if span.end > start { mixed.insert(number) }
                if span.start <= start { open.remove(span.stream) }
            }
        }
        return mixed
    }

    /// Pieces whose entries have to be looked at one by one.
    private func singlePieces(_ undecided: Range<Int>, _ clock: Clock) -> Set<Int> {
        var single: Set<Int> = []
        var mayHold = false
        for number in undecided {
            let piece = view.pieces[number]
            guard let times = piece.times, clock.early(times.lowerBound) else { continue }
            let isSure = clock.surely(times.upperBound) && !clock.isLate(piece)
            if piece.totals.deleted > 0, !isSure { mayHold = true }
            // Behind a deletion that was held only those go in that are surely not later.
            if !clock.early(times.upperBound) || mayHold && !isSure { single.insert(number) }
        }
        return single
    }

    /// The number of a stream; of one that no base mentions it begins with its first record.
    private func number(_ stream: String, in state: inout State) -> Int {
        if let known = state.numbers[stream] { return known }
        let window = LogSpan(stream: stream, branch: 0, start: view.firstOffset, end: view.firstOffset)
        state.numbers[stream] = state.streams.count
        state.streams.append(Stream(name: stream, window: window, isInBase: false, reached: view.firstOffset))
        return state.streams.count - 1
    }

    /// Notes that a span is archived.
    private func cover(_ span: LogSpan, of piece: Int, in state: inout State) -> Int {
        let n = number(span.stream, in: &state)
        // The base knew no position of the stream: everything before its first archived record was applied when it was taken.
        if state.streams[n].isInBase, state.streams[n].window.start == 0, state.streams[n].window.end == 0 {
            state.streams[n].window.start = span.start
            state.streams[n].window.end = span.start
            state.streams[n].reached = span.start
        }
        if span.start <= state.streams[n].reached {
            if span.end > state.streams[n].reached {
                state.streams[n].reached = span.end
                state.streams[n].lastPiece = piece
            }
        } else if state.streams[n].hole == nil {
            let last = state.streams[n].lastPiece
            let safe = (last >= 0 ? view.pieces[last].times?.lowerBound : nil)?.adding(nanoseconds: -1) ?? base.completed
            let proven = view.gaps.first { $0.explains(span.stream, state.streams[n].reached) }?.provenUpTo
            state.streams[n].hole = max(safe, proven ?? safe)
        }
        return n
    }

    /// Takes a piece that is in as a whole.
    private func take(_ number: Int, into state: inout State) {
        let piece = view.pieces[number]
        piece.forEachSpan { span in
            let n = cover(span, of: number, in: &state)
            state.streams[n].take(to: span.end)
        }
        state.applied += piece.totals
        state.seen += piece.totals
        if let last = piece.times?.upperBound { state.lastApplied = max(last, state.lastApplied ?? last) }
    }

    /// Takes a piece whose entries all are in by the clock, or all out.
    private func take(_ number: Int, undecidedBy clock: Clock, into state: inout State) {
        let piece = view.pieces[number]
        state.seen += piece.totals
        let entries = Int(clamping: piece.totals.commits)
        state.precision.undecided += entries
        guard let times = piece.times, clock.early(times.lowerBound) else {
            state.precision.left += entries
            piece.forEachSpan { span in
                let n = cover(span, of: number, in: &state)
                state.streams[n].firstOut = min(state.streams[n].firstOut, span.start)
                if clock.ends { state.streams[n].isClosed = true }
            }
            return
        }
        piece.forEachSpan { span in
            let n = cover(span, of: number, in: &state)
            guard !state.streams[n].isClosed else {
                state.streams[n].firstOut = min(state.streams[n].firstOut, span.start)
                return
            }
            // All of it is surely not later, or no deletion was held.
            state.streams[n].held = nil
            state.streams[n].take(to: span.end)
        }
        state.precision.taken += entries
        state.applied += piece.totals
        state.lastApplied = max(times.upperBound, state.lastApplied ?? times.upperBound)
    }

    /// Takes entries one by one.
    ///
    /// - Parameter late: where given, entries before these offsets are decided by the fence.
    private func take(
        _ events: [LogEvent], of streams: [String], _ piece: Int, _ clock: Clock?, _ late: [String: UInt64]?, into state: inout State
    ) {
        view.pieces[piece].forEachSpan { _ = cover($0, of: piece, in: &state) }
        for event in events {
            let n = number(streams[event.span], in: &state)
            state.seen.add(event)
            func apply() {
                state.streams[n].take(to: event.end)
                state.applied.add(event)
                state.lastApplied = max(event.time, state.lastApplied ?? event.time)
            }
            if let late, event.start < late[streams[event.span]] ?? .max {
                apply()
                continue
            }
            guard let clock else { continue }
            state.precision.undecided += 1
            let isSure = clock.surely(event.time) && event.start < clock.late[streams[event.span]] ?? .max
            func leave() {
                state.precision.left += 1
                state.streams[n].firstOut = min(state.streams[n].firstOut, event.start)
                if clock.ends { state.streams[n].isClosed = true }
            }
            if state.streams[n].isClosed {
                leave()
            } else if event.flags.contains(.deleted), !isSure {
                // Ahead of the database is harmless for what is added, not for what is removed.
                if state.streams[n].held == nil { state.streams[n].held = (event.start, event.subject) }
                leave()
            } else if clock.early(event.time), state.streams[n].held == nil || isSure {
                state.streams[n].held = nil
                state.precision.taken += 1
                apply()
            } else {
                leave()
            }
        }
    }

    private func finish(_ state: State, hasClock: Bool, limit: Moment?, through last: Int) throws(PlanRefusal) -> SourcePlan {
        try checkLinks(state)
        let gaps = Dictionary(grouping: view.gaps, by: \.stream)
        var cuts: [StreamCut] = []
        var spans: [LogSpan] = []
        cuts.reserveCapacity(state.streams.count)
        spans.reserveCapacity(windows.count)
        var limits = [Range<UInt64>?](repeating: nil, count: state.streams.count)
        for (n, stream) in state.streams.enumerated() {
            if stream.isInBase { spans.append(stream.window) }
            let window = stream.window
            // Of what the base holds the cut must leave nothing out.
            if stream.isInBase, stream.firstOut < window.end {
                throw Planner.beforeBase(base, "an entry of partition \(stream.name) that the base \(base.id) holds was committed later")
            }
            guard stream.end >= window.end || window.start == window.end else {
                // The cut lies inside the base's window, and what the window holds behind it was not read.
                if let limit, limit < base.completed, !view.isComplete, stream.hole == nil { throw Planner.beforeBase(base) }
                throw stream.hole == nil
                    ? Planner.unfinished(base, at: "\(stream.name)/\(view.describe(stream.reached))") : Planner.hole(stream.name, at: stream.reached, before: stream.hole, in: view)
            }
            if stream.isInBase, window.end == 0, stream.end == 0 { continue }
            let end = max(stream.end, window.end)
            // Of what is missing in a hole nobody knows whether it was in.
            guard stream.reached >= end, stream.reached > end || stream.hole.map({ hole in limit.map { $0 <= hole } ?? false }) ?? true else {
                throw Planner.hole(stream.name, at: stream.reached, before: stream.hole, in: view)
            }
            // Nor whether it was, where what follows the hole lies behind the cut; up to a time nothing of it was there.
            if let limit, let gap = gaps[stream.name]?.first(where: { $0.explains(stream.name, end) }), let proven = gap.provenUpTo, limit > proven {
                throw Planner.hole(stream.name, at: end, before: proven, in: view)
            }
            // A stream whose records all lie beyond the cut, and which no base knows, does not exist yet.
            if !stream.isInBase, stream.end <= view.firstOffset { continue }
            cuts.append(
                StreamCut(stream: stream.name, branch: view.path.last, through: stream.end > window.end ? stream.end - 1 : nil, end: end))
            limits[n] = window.start..<max(window.start, end)
        }
        var pieces: [PlannedPiece] = []
        for piece in view.pieces[..<last] {
            var isWanted = false
            piece.forEachSpan { span in
                if !isWanted, let n = state.numbers[span.stream], let range = limits[n], span.start < range.upperBound, span.end > range.lowerBound { isWanted = true }
            }
            if isWanted { pieces.append(PlannedPiece(name: piece.name, storedLength: piece.storedLength)) }
        }
        var left = state.seen - state.applied
        if let beyond = view.isComplete ? LogTotals() : view.beyond { left += beyond }
        cuts.sort { ($0.stream.utf8.count, $0.stream) < ($1.stream.utf8.count, $1.stream) }
        return SourcePlan(
            source: view.source, incarnation: view.incarnation, base: base, spans: spans, cuts: cuts, pieces: pieces,
            branches: view.branches, applied: state.applied,
            left: view.isComplete || view.beyond != nil ? left : nil, lastApplied: state.lastApplied,
            precision: hasClock ? state.precision : nil)
    }

    /// A base is of no use when its window links content that could not be archived with the entry.
    private func checkLinks(_ state: State) throws(PlanRefusal) {
        for piece in view.pieces where !piece.notable.isEmpty {
            let spans = piece.spans
            for event in piece.notable where event.flags.contains(.unresolvedLink) {
                guard let n = state.numbers[spans[event.span].stream] else { continue }
                let window = state.streams[n].window
                if (window.start..<max(window.start, window.end)).contains(event.start) {
                    throw PlanRefusal(
                        kind: .baseUnusable,
                        reason: "the base \(base.id) was taken while content was linked inside the storage that could not be archived in time",
                        earliest: nil, latest: nil)
                }
            }
        }
    }
}
