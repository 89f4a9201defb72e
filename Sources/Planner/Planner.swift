import ArchiveCore

/// Turns a rule into one offset for every stream of a source. Pure: it decides on what it is given and moves nothing.
///
/// The rule for a time T: a record is in when no commit up to and including it, in log order, is later than T. So the cut lies
/// before the first commit that is later than T, even when clocks ran backwards afterwards.
public enum Planner {
    /// - Parameters:
    ///   - base: the base to start from, with its windows.
    ///   - view: the log from the base's first piece on.
    ///   - details: what earlier calls asked for.
    public static func plan(
        base: BaseRecord, windows: [LogSpan], view: LogView, rule: CutRule, details: PlanDetails = PlanDetails()
    ) throws(PlanRefusal) -> PlanStep {
        if view.streamsMayBeginEmpty { return try StreamsCut(base: base, windows: windows, view: view, details: details).plan(rule) }
        guard let window = windows.first else {
            throw PlanRefusal(kind: .baseUnusable, reason: "the base \(base.id) names no position of the log", earliest: nil, latest: nil)
        }
        return try LogCut(base: base, window: window, view: view, details: details).plan(rule)
    }

    /// A hole in the log, told with its recorded cause.
    static func hole(_ stream: String, at offset: UInt64, before: Moment?, in view: LogView) -> PlanRefusal {
        let gap = view.gaps.first { $0.explains(stream, offset) }
        return PlanRefusal(
            kind: .gap, reason: "the log of stream \(stream) has a hole at \(view.describe(offset))" + (gap.map { ": \($0.cause)" } ?? ""),
            earliest: nil, latest: before)
    }

    /// The log of the base's window is not archived yet; an older base may serve.
    static func unfinished(_ base: BaseRecord, at place: String) -> PlanRefusal {
        PlanRefusal(
            kind: .baseUnusable, reason: "the archive ends at \(place), before the log that the base \(base.id) needs does", earliest: nil, latest: nil)
    }

    static func beforeBase(_ base: BaseRecord, _ reason: String? = nil) -> PlanRefusal {
        PlanRefusal(
            kind: .beforeBase, reason: reason ?? "it lies before the end of the base \(base.id) at \(base.completed)", earliest: base.completed,
            latest: nil)
    }
}
