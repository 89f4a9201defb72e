import ArchiveCore

/// Whether a base of a source is to be taken now. Pure: everything that decides it is told.
public struct BaseDecision: Sendable {
    public enum Reason: String, Sendable, Hashable, Codable {
        case schedule
        /// A scheduled moment passed while no agent ran.
        case catchUp = "catch-up"
        /// The source has none that can be restored.
        case first
        /// A hole in the log.
        case gap
        /// The last attempt failed.
        case retry
    }

    public enum Verdict: Sendable, Hashable {
        /// Nothing is due before then; `nil`: ever.
        case wait(until: Moment?)
        case take(Reason)
    }

    /// `nil`: bases are taken on demand only; but holes are answered, and a first base is taken, where `answersGaps`.
    public var policy: BasePolicy?
    public var source: String
    /// The archive's id, from which the jitter comes.
    public var archive: String
    /// When this agent started.
    public var agentStarted: Moment
    /// When the newest usable base was begun.
    public var lastStarted: Moment?
    /// When a hole was noticed that no base lies behind.
    public var gapNoticed: Moment?
    /// Attempts that failed since the last base, and when the last of them did.
    public var failures = 0
    public var lastFailure: Moment?

    /// Seconds between attempts after failures: doubled each time, from the first to the last.
    public static let backoff = (first: 60.0, last: 3600.0)

    public init(policy: BasePolicy?, source: String, archive: String, agentStarted: Moment) {
        self.policy = policy
        self.source = source
        self.archive = archive
        self.agentStarted = agentStarted
    }

    /// - Returns: `.wait` also where an attempt failed shortly before.
    public func verdict(at now: Moment) -> Verdict {
        guard let policy else { return .wait(until: nil) }
        guard let due = due(policy, at: now) else { return .wait(until: nil) }
        var (time, reason) = due
        if failures > 0, let lastFailure {
            let pause = min(Self.backoff.last, Self.backoff.first * Double(1 << min(failures - 1, 10)))
            time = max(time, lastFailure.adding(seconds: pause))
            if reason != .gap { reason = .retry }
        }
        return time <= now ? .take(reason) : .wait(until: time)
    }

    /// The earliest moment at which one is due, and why; it may be past.
    private func due(_ policy: BasePolicy, at now: Moment) -> (Moment, Reason)? {
        if let gapNoticed, lastStarted.map({ $0 < gapNoticed }) ?? true { return (gapNoticed, .gap) }
        guard let lastStarted else { return (agentStarted, .first) }
        func start(_ scheduled: Moment) -> Moment { scheduled.adding(seconds: policy.delay(of: source, in: archive, at: scheduled)) }
        // The last scheduled moment that should have had its base by now.
        if let previous = policy.schedule.previous(atOrBefore: now), previous > lastStarted {
            return (start(previous), start(previous) < agentStarted ? .catchUp : .schedule)
        }
        return policy.schedule.next(after: now).map { (start($0), .schedule) }
    }

    /// Since when the newest base is older than two scheduled ones; `nil`: it is not.
    public func staleSince(at now: Moment) -> Moment? {
        guard let policy, let last = policy.schedule.previous(atOrBefore: now), let before = policy.schedule.previous(atOrBefore: last.adding(nanoseconds: -1)) else { return nil }
        let limit = before.adding(seconds: -1)
        guard agentStarted < limit || lastStarted != nil else { return nil }
        return (lastStarted ?? agentStarted) < limit ? last : nil
    }
}
