import ArchiveCore

/// Which runs of a log are there, put together from spans that come in log order for each branch.
struct LogCoverage {
    private struct Place: Hashable {
        var stream: String
        var branch: UInt32
    }
    private struct Runs {
        var start: UInt64
        /// The first offset that nothing tells of.
        var reached: UInt64
        /// What is there and whole: not touching each other, ascending.
        var whole: [Range<UInt64>] = []
    }
    private var runs: [Place: Runs] = [:]
    private var first: [String: UInt32] = [:]

    /// - Parameters:
    ///   - parent: where the span's branch left the one before, when that is known.
    ///   - isWhole: whether its content can be relied upon.
    /// - Returns: what is missing before it.
    mutating func add(_ span: LogSpan, parent: BranchRecord.Ancestor?, isWhole: Bool) -> Range<UInt64>? {
        let place = Place(stream: span.stream, branch: span.branch)
        var reached = span.start
        var known: Runs
        if let found = runs[place] {
            known = found
            reached = found.reached
        } else {
            first[span.stream] = first[span.stream] ?? span.branch
            known = Runs(start: span.start, reached: span.start)
            if let parent, let before = runs[Place(stream: span.stream, branch: parent.branch)] { reached = min(before.reached, parent.end) }
        }
        known.reached = max(known.reached, span.end)
        if isWhole, span.start < span.end {
            if let last = known.whole.last, last.upperBound >= span.start {
                known.whole[known.whole.count - 1] = min(last.lowerBound, span.start)..<max(last.upperBound, span.end)
            } else {
                known.whole.append(span.start..<span.end)
            }
        }
        runs[place] = known
        return reached < span.start ? reached..<span.start : nil
    }

    /// Whether all of a span is there and whole.
    func contains(_ span: LogSpan) -> Bool {
        guard span.start < span.end else { return true }
        return runs[Place(stream: span.stream, branch: span.branch)]?.whole.contains { $0.lowerBound <= span.start && $0.upperBound >= span.end } ?? false
    }

    /// Streams and branches that began after another branch of the stream.
    var rootless: [(stream: String, branch: UInt32)] {
        runs.keys.filter { first[$0.stream] != $0.branch }.map { ($0.stream, $0.branch) }.sorted { $0 < $1 }
    }

    func start(of stream: String, _ branch: UInt32) -> UInt64? { runs[Place(stream: stream, branch: branch)]?.start }
}
