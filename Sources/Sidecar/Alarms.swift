import ArchiveCore

/// Tells of failures of archiving that last, and of their end. Pure.
struct FailureAlarm {
    /// Attempts, and seconds since the first of them, after which it is no blip.
    static let patience = (attempts: 3, seconds: 30.0)

    private var attempts = 0
    private var since: Moment?
    private var last = ""
    private var remedy: String?
    private var isTold = false

    mutating func failed(_ error: any Error, source: String, at now: Moment) -> AgentEvent? {
        attempts += 1
        since = since ?? now
        let known = error as? ArchiveError
        last = known?.message ?? "\(error)"
        remedy = known?.remedy
        return looked(source, at: now)
    }

    /// Time went by.
    mutating func looked(_ source: String, at now: Moment) -> AgentEvent? {
        guard let since, !isTold, attempts >= Self.patience.attempts || now - since >= Self.patience.seconds else { return nil }
        isTold = true
        return AgentEvent(.failure, at: now, source: source, "Archiving '\(source)' has failed since \(since): \(last)", remedy: remedy)
    }

    /// Nobody tries again.
    mutating func refused(_ error: any Error, source: String, at now: Moment) -> AgentEvent? {
        isTold = true
        let known = error as? ArchiveError
        return AgentEvent(.failure, at: now, source: source, "'\(source)' is no longer archived: \(known?.message ?? "\(error)")", remedy: known?.remedy)
    }

    /// Something was archived.
    mutating func succeeded(_ source: String, at now: Moment) -> AgentEvent? {
        guard let since else { return nil }
        let wasTold = isTold
        self = FailureAlarm()
        return wasTold ? AgentEvent(.recovered, at: now, source: source, "'\(source)' is archived again; that had failed since \(since).") : nil
    }
}

/// Tells when more would be lost than the objective allows, and when that is over for good. Pure.
struct ObjectiveAlarm {
    /// Seconds within the objective after which a miss is over.
    static let calm = 30.0

    private(set) var isMissed = false
    private var begun = Moment(rawValue: 0)
    private var worst = 0.0
    private var last = Moment(rawValue: 0)

    /// - Parameters:
    ///   - exposure: age of the oldest commit that the archive lacks, in seconds.
    ///   - objective: in seconds.
    mutating func look(_ exposure: Double, objective: Double, source: String, at now: Moment) -> AgentEvent? {
        if exposure > objective {
            last = now
            worst = max(worst, exposure)
            guard !isMissed else { return nil }
            isMissed = true
            begun = now
            return AgentEvent(
                .rpoMissed, at: now, source: source,
                "The archive lacks what '\(source)' committed in the last \(Self.text(exposure)) s; the objective is \(Self.text(objective)) s.",
                remedy: "See `tidemark status` for the stage that is behind, and the agent's log for what fails.")
        }
        guard isMissed, now - last >= Self.calm else { return nil }
        defer { self = ObjectiveAlarm() }
        return AgentEvent(
            .rpoRecovered, at: now, source: source,
            "The archive of '\(source)' is within its objective of \(Self.text(objective)) s again. From \(begun) to \(last) up to \(Self.text(worst)) s would have been lost."
        )
    }

    /// With one decimal.
    private static func text(_ seconds: Double) -> String {
        let tenths = Int((min(seconds, 1e12) * 10).rounded())
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }
}
