import ArchiveCore

/// Turns a target into one offset for every stream of a source. Pure: it decides on what it is given and moves nothing.
///
/// The rule for a time T: a record is in when no commit up to and including it, in log order, is later than T. So the cut lies
/// before the first commit that is later than T, even when clocks ran backwards afterwards.
public enum Planner {
    /// - Parameters:
    ///   - base: the base to start from, with its window `spans`.
    ///   - view: the log from the base's first piece on.
    public static func plan(
        base: BaseRecord, spans: [LogSpan], view: LogView, target: RecoveryTarget
    ) throws(PlanRefusal) -> SourcePlan {
        if case .time(let time) = target {
            guard time >= base.completed else {
                throw PlanRefusal(
                    kind: .beforeBase, reason: "it lies before the end of the base \(base.id) at \(base.completed)",
                    earliest: base.completed, latest: view.reachable)
            }
            guard let reachable = view.reachable, time <= reachable else {
                throw PlanRefusal(
                    kind: .beyondWatermark,
                    reason: view.reachable.map { "the archive of '\(view.source)' is known to be complete only up to \($0)" }
                        ?? "nothing says up to when the archive of '\(view.source)' is complete",
                    earliest: base.completed, latest: view.reachable)
            }
        }
        let path = BranchPath(of: view, from: base.branch)
        guard let path else {
            throw PlanRefusal(
                kind: .otherBranch, reason: "the base \(base.id) lies on branch \(base.branch), which is no ancestor of the newest one",
                earliest: nil, latest: nil)
        }
        var streams = Streams(base: base, spans: spans, view: view, path: path)
        for (number, piece) in view.pieces.enumerated() { streams.add(number, piece.index, branch: piece.name.branch) }
        return try streams.plan(target: target)
    }
}

/// The branches from a base's to the newest, each with the first offset that no longer belongs to it.
struct BranchPath {
    private(set) var ends: [UInt32: UInt64] = [:]
    let last: UInt32

    /// - Returns: `nil` when `first` is not on the way.
    init?(of view: LogView, from first: UInt32) {
        let newest = max(view.pieces.map(\.name.branch).max() ?? first, first)
        last = newest
        ends[newest] = .max
        if newest == first { return }
        guard let record = view.branches.first(where: { $0.branch == newest }),
            record.ancestors.contains(where: { $0.branch == first })
        else { return nil }
        for ancestor in record.ancestors { ends[ancestor.branch] = ancestor.end }
    }

    func end(of branch: UInt32) -> UInt64? { ends[branch] }
}

/// What is collected about each stream while pieces go by.
private struct Streams {
    struct Event {
        var start: UInt64
        var end: UInt64
        var time: Moment
        var commits: Bool
        /// Whether it links content that could not be archived with it.
        var isUnresolved: Bool
    }
    struct Stream {
        var window: LogSpan
        var events: [Event] = []
        var covered: [Range<UInt64>] = []
        var lastRecord: UInt64?
    }

    let base: BaseRecord
    let spans: [LogSpan]
    let view: LogView
    let path: BranchPath
    private var streams: [String: Stream] = [:]
    private var uses: [(piece: Int, stream: String, range: Range<UInt64>)] = []

    init(base: BaseRecord, spans: [LogSpan], view: LogView, path: BranchPath) {
        self.base = base
        self.spans = spans
        self.view = view
        self.path = path
        for span in spans { streams[span.stream] = Stream(window: span) }
    }

    mutating func add(_ number: Int, _ index: PieceIndex, branch: UInt32) {
        guard let branchEnd = path.end(of: branch) else { return }
        for (i, span) in index.spans.enumerated() {
            let end = min(span.end, branchEnd)
            guard span.start < end else { continue }
            if streams[span.stream] == nil {
                guard view.streamsMayBeginEmpty else { continue }
                streams[span.stream] = Stream(
                    window: LogSpan(stream: span.stream, branch: span.branch, start: view.firstOffset, end: view.firstOffset))
            }
            guard end > streams[span.stream]!.window.start else { continue }
            streams[span.stream]!.covered.append(span.start..<end)
            uses.append((number, span.stream, span.start..<end))
            if let last = span.lastRecord, last < end {
                streams[span.stream]!.lastRecord = max(last, streams[span.stream]!.lastRecord ?? 0)
            }
            for event in index.events where event.span == i && event.start < end && event.start >= streams[span.stream]!.window.start {
                streams[span.stream]!.events.append(
                    Event(start: event.start, end: event.end, time: event.time, commits: event.kind == .commit,
                        isUnresolved: event.flags.contains(.unresolvedLink)))
            }
        }
    }

    func plan(target: RecoveryTarget) throws(PlanRefusal) -> SourcePlan {
        var cuts: [StreamCut] = []
        var applied = 0
        var left = 0
        var lastApplied: Moment?
        var begun: [String: LogSpan] = [:]
        for (name, var stream) in streams.sorted(by: { $0.key < $1.key }) {
            // The base knew no position of the stream: everything before its first archived record was applied when it was taken.
            if view.streamsMayBeginEmpty, stream.window.start == 0, stream.window.end == 0 {
                guard let first = stream.covered.map(\.lowerBound).min() else { continue }
                stream.window.start = first
                stream.window.end = first
                begun[name] = stream.window
            }
            if stream.events.contains(where: { $0.isUnresolved && $0.start < stream.window.end }) {
                throw PlanRefusal(
                    kind: .baseUnusable,
                    reason: "the base \(base.id) was taken while content was linked inside the storage that could not be archived in time", earliest: nil,
                    latest: nil)
            }
            let events = distinct(stream.events)
            var through: UInt64?
            var end = stream.window.end
            var inside = true
            for event in events {
                if inside, case .time(let time) = target, event.commits, event.time > time {
                    guard event.start >= stream.window.end else {
                        throw PlanRefusal(
                            kind: .beforeBase,
                            reason: "a commit of \(event.time) lies inside the window of the base \(base.id)", earliest: base.completed,
                            latest: view.reachable)
                    }
                    inside = false
                }
                guard inside else {
                    if event.commits { left += 1 }
                    continue
                }
                if event.commits {
                    applied += 1
                    lastApplied = max(event.time, lastApplied ?? event.time)
                }
                if event.end > stream.window.end {
                    through = event.start
                    end = event.end
                }
            }
            if case .latest = target, let last = stream.lastRecord, last >= stream.window.end, last > through ?? 0 {
                through = last
                end = max(end, contiguousEnd(stream))
            }
            try checkCoverage(name, stream, to: end)
            // A stream whose records all lie beyond the cut, and which no base knows, does not exist yet.
            if stream.window.end == view.firstOffset, through == nil, !spans.contains(where: { $0.stream == name }) { continue }
            cuts.append(StreamCut(stream: name, branch: path.last, through: through, end: end))
        }
        let ends = Dictionary(uniqueKeysWithValues: cuts.map { ($0.stream, max($0.end, ($0.through ?? 0) + 1)) })
        var wanted: Set<Int> = []
        for use in uses { if let end = ends[use.stream], use.range.lowerBound < end { wanted.insert(use.piece) } }
        let pieces = withoutTailsOfClosedPieces(wanted.sorted().map { view.pieces[$0] })
        return SourcePlan(
            source: view.source, incarnation: view.incarnation, base: base, spans: spans.map { begun[$0.stream] ?? $0 }, cuts: cuts, pieces: pieces,
            branches: view.branches.filter { path.end(of: $0.branch) != nil }, applied: applied, left: left, lastApplied: lastApplied,
            bytes: base.parts.reduce(0) { $0 + $1.storedLength } + pieces.reduce(0) { $0 + $1.index.storedLength })
    }

    /// Events in log order, each once: a tail and its closed piece tell the same ones.
    private func distinct(_ events: [Event]) -> [Event] {
        var result: [Event] = []
        for event in events.sorted(by: { $0.start < $1.start }) where result.last?.start != event.start { result.append(event) }
        return result
    }

    private func contiguousEnd(_ stream: Stream) -> UInt64 {
        var reached = stream.window.start
        for range in stream.covered.sorted(by: { $0.lowerBound < $1.lowerBound }) where range.lowerBound <= reached {
            reached = max(reached, range.upperBound)
        }
        return reached
    }

    private func checkCoverage(_ name: String, _ stream: Stream, to end: UInt64) throws(PlanRefusal) {
        guard end > stream.window.start else { return }
        let reached = contiguousEnd(stream)
        guard reached < end else { return }
        let gap = view.gaps.first { $0.stream == name && $0.start <= reached && $0.end > reached }
        throw PlanRefusal(
            kind: .gap,
            reason: "the log of stream \(name) has a hole at \(view.describe(reached))" + (gap.map { ": \($0.cause)" } ?? ""),
            earliest: nil, latest: nil)
    }

    /// A closed piece replaces its tails, also when they have not been removed yet.
    private func withoutTailsOfClosedPieces(
        _ pieces: [(name: PieceName, index: PieceIndex)]
    ) -> [(name: PieceName, index: PieceIndex)] {
        let closed = Set(pieces.filter { $0.name.part == nil }.map { "\($0.name.branch)/\($0.name.name)" })
        return pieces.filter { $0.name.part == nil || !closed.contains("\($0.name.branch)/\($0.name.name)") }
    }
}
