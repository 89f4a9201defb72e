import ArchiveCore

/// Something that an administrator should hear of without looking.
public struct AgentEvent: Sendable, Hashable, Codable {
    public enum Kind: String, Sendable, Hashable, CaseIterable, Codable {
        /// A backup, an expiry or the archiving of a source failed.
        case failure
        /// A base was taken.
        case success
        /// Something was finished but part of it was lost or skipped, or goes on with less protection than configured.
        case degraded
        /// What had failed or was degraded works again.
        case recovered
        case rpoMissed = "rpo-missed"
        case rpoRecovered = "rpo-recovered"
        /// A hole in a log.
        case gap
        /// A replication slot may fill its server's disk, or was dropped.
        case slotDanger = "slot-danger"
        /// The newest usable base is older than the schedule allows.
        case staleBase = "stale-base"
        /// Sent by `tidemark notify --test` alone.
        case test
    }

    public var kind: Kind
    public var time: Moment
    /// The source that it is about; `nil`: the archive, or the agent as a whole.
    public var source: String?
    /// One sentence, without secrets.
    public var message: String
    /// The operator's next step.
    public var remedy: String?

    public init(_ kind: Kind, at time: Moment, source: String? = nil, _ message: String, remedy: String? = nil) {
        self.kind = kind
        self.time = time
        self.source = source
        self.message = message
        self.remedy = remedy
    }
}

/// Takes events; returns at once, whoever is told and however long that takes.
public typealias EventSink = @Sendable (AgentEvent) -> Void
