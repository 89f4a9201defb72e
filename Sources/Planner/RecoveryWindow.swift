import ArchiveCore

/// The times that can be restored.
public enum RecoveryWindow {
    /// Overlapping and touching ranges made one, ascending.
    public static func union(_ ranges: [ClosedRange<Moment>]) -> [ClosedRange<Moment>] {
        var result: [ClosedRange<Moment>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = result.last, range.lowerBound <= last.upperBound {
                result[result.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                result.append(range)
            }
        }
        return result
    }

    /// The times that are in both.
    public static func intersection(_ a: [ClosedRange<Moment>], _ b: [ClosedRange<Moment>]) -> [ClosedRange<Moment>] {
        a.flatMap { x in
            b.compactMap { y in
                let from = max(x.lowerBound, y.lowerBound)
                let to = min(x.upperBound, y.upperBound)
                return from <= to ? from...to : nil
            }
        }.sorted { $0.lowerBound < $1.lowerBound }
    }
}

/// Follows the log behind a base, piece by piece, to the first hole: the base's window lies before it.
public struct WindowWalk: Sendable {
    private let base: BaseRecord
    private let gaps: [GapRecord]
    private let path: BranchPath
    private let firstOffset: UInt64
    private let streamsMayBeginEmpty: Bool
    /// By stream the first offset that is not there.
    private var reached: [String: UInt64] = [:]
    private var starts: [String: UInt64] = [:]
    /// Ends of the base's windows: before all of them are reached nothing can be restored.
    private let ends: [String: UInt64]
    /// By stream, an instant before the earliest commit of the last piece that went on.
    private var safe: [String: Moment] = [:]
    private var lastCommit: Moment?
    /// Where the log stops being whole: the stream, the first missing offset, and the last time before it that can be restored.
    public private(set) var hole: (stream: String, offset: UInt64, last: Moment)?

    public init(base: BaseRecord, windows: [LogSpan], path: BranchPath, streamsMayBeginEmpty: Bool, firstOffset: UInt64, gaps: [GapRecord] = []) {
        self.base = base
        self.gaps = gaps
        self.path = path
        self.firstOffset = firstOffset
        self.streamsMayBeginEmpty = streamsMayBeginEmpty
        ends = Dictionary(windows.filter { $0.start < $0.end }.map { ($0.stream, $0.end) }, uniquingKeysWith: max)
        for window in windows where !streamsMayBeginEmpty || window.end > 0 {
            reached[window.stream] = window.start
            starts[window.stream] = window.start
        }
        // A stream whose position the base did not know begins with its first archived record.
        for window in windows where streamsMayBeginEmpty && window.end == 0 { starts[window.stream] = .max }
    }

    /// Takes the next piece, in log order. - Returns: whether the log is whole up to it.
    public mutating func add(_ piece: PieceSummary) -> Bool {
        guard hole == nil, let branchEnd = path.end(of: piece.name.branch) else { return hole == nil }
        var found: (String, UInt64)?
        var isCut = false
        piece.forEachSpan { span in
            let end = min(span.end, branchEnd)
            if span.end > branchEnd { isCut = true }
            guard found == nil, span.start < end else { return }
            if starts[span.stream] == .max, reached[span.stream] == nil { reached[span.stream] = span.start }
            let due = reached[span.stream] ?? firstOffset
            guard end > due else { return }
            guard span.start <= due else {
                found = (span.stream, due)
                return
            }
            reached[span.stream] = end
            if streamsMayBeginEmpty, let first = piece.times?.lowerBound { safe[span.stream] = first.adding(nanoseconds: -1) }
        }
        if let (stream, offset) = found {
            // What is missing may have come at once: without anything before it not even the base's own end can be restored.
            let last = (streamsMayBeginEmpty ? safe[stream] : lastCommit) ?? base.completed.adding(nanoseconds: -1)
            hole = (stream, offset, max(last, gaps.first { $0.explains(stream, offset) }?.provenUpTo ?? last))
            return false
        }
        // Commits behind the end of a branch are not on the path, and nothing here tells their times from the others'.
        if !isCut, let last = piece.times?.upperBound { lastCommit = max(last, lastCommit ?? last) }
        return true
    }

    /// Whether all log is there that was written while the base was taken.
    public var hasBase: Bool { ends.allSatisfy { reached[$0.key] ?? 0 >= $0.value } }

    /// The times that can be restored from the base; `nil` when there is none.
    ///
    /// - Parameter watermark: up to when the archive is known to be complete.
    public func range(watermark: Moment?) -> ClosedRange<Moment>? {
        // Of many streams a hole in one does not say that the others are complete up to it.
        let last: Moment? =
            if let hole { streamsMayBeginEmpty ? watermark.map { min($0, hole.last) } : hole.last } else {
                streamsMayBeginEmpty ? watermark : [watermark, lastCommit].compactMap { $0 }.max()
            }
        // A base that goes on behind the place where its branch was left is of no use to the other.
        if !streamsMayBeginEmpty, let end = path.end(of: base.branch), ends.values.contains(where: { $0 > end }) { return nil }
        guard let last, last >= base.completed, hasBase else { return nil }
        return base.completed...last
    }
}
