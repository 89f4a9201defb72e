import ArchiveCore

/// The times that can be restored.
public enum RecoveryWindow {
    /// What a base and the log behind it allow: from its end to the last time before a hole, or to the newest reachable time.
    ///
    /// - Returns: `nil` when the base cannot be restored at all.
    public static func range(base: BaseRecord, spans: [LogSpan], view: LogView) -> ClosedRange<Moment>? {
        guard let newest = view.reachable, newest >= base.completed else { return nil }
        func reaches(_ time: Moment) -> Bool {
            do {
                _ = try Planner.plan(base: base, spans: spans, view: view, target: .time(time))
                return true
            } catch { return false }
        }
        if reaches(newest) { return base.completed...newest }
        guard reaches(base.completed) else { return nil }
        // A hole lies in between: the last reachable time is found by halving, since what is out of reach stays so.
        var low = base.completed.rawValue
        var high = newest.rawValue
        while high - low > 1_000_000 {
            let middle = low + (high - low) / 2
            if reaches(Moment(rawValue: middle)) { low = middle } else { high = middle }
        }
        return base.completed...Moment(rawValue: low)
    }

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
