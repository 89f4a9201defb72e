import ArchiveCore
import Lag
import Synchronization

/// What an agent knows of one source at this moment.
public struct SourceStatus: Sendable, Codable {
    public enum State: String, Sendable, Codable, CaseIterable {
        /// Not connected yet.
        case starting
        case archiving
        /// It failed and is tried again.
        case retrying
        /// It was refused, and nobody tries again before somebody has looked.
        case refused
        case stopped
    }

    /// Of base backups.
    public struct Bases: Sendable, Codable {
        public var lastID: String?
        /// When the newest usable base was begun, and how long it took in seconds.
        public var lastStarted: Moment?
        public var lastSeconds: Double?
        public var lastBytes: UInt64?
        public var lastWarnings: Int?
        /// When the next one is due.
        public var next: Moment?
        public var isRunning = false
        /// Failed attempts since the last success.
        public var failures = 0
        public var lastFailure: String?
        public init() {}
    }

    /// Of a replication slot.
    public struct Slot: Sendable, Codable {
        public var name: String
        /// PostgreSQL's `wal_status`.
        public var state: String
        /// Bytes of WAL that the server keeps for it.
        public var retained: UInt64
        /// Bytes that may still be written before the slot is lost or the disk is full; `nil`: not known.
        public var room: UInt64?
        /// Seconds until then at the pace of late; `nil`: not known, or not within a year.
        public var forecast: Double?
        public init(name: String, state: String, retained: UInt64, room: UInt64?, forecast: Double?) {
            self.name = name
            self.state = state
            self.retained = retained
            self.room = room
            self.forecast = forecast
        }
    }

    public var name: String
    public var kind: String
    public var incarnation: String?
    public var state = State.starting
    public var since: Moment
    public var lastError: String?
    /// What each stage lacks now.
    public var backlog: [LagRow.Stage: LagRow.Backlog] = [:]
    /// Everything committed up to this time is archived.
    public var watermark: Moment?
    /// Since the agent started.
    public var pieces: UInt64 = 0
    public var bytesStored: UInt64 = 0
    public var commits: UInt64 = 0
    public var gaps: UInt64 = 0
    public var failures: UInt64 = 0
    /// Of each commit archived since the agent started, seconds from commit to archive.
    public var lag = LagHistogram()
    public var isObjectiveMissed = false
    public var bases = Bases()
    public var slot: Slot?

    public init(name: String, kind: String, since: Moment) {
        self.name = name
        self.kind = kind
        self.since = since
    }
}

/// What became of notifications to one recipient since the agent started.
public struct RecipientStatus: Sendable, Codable, Hashable {
    /// Without secrets.
    public var name: String
    public var sent: UInt64 = 0
    /// Given up, or no room to wait.
    public var failed: UInt64 = 0
    public var waiting = 0
    public var lastError: String?

    public init(name: String) { self.name = name }
}

/// Where an agent's parts leave what they know, and where its status server and its metrics find it.
public final class StatusBoard: Sendable {
    public struct Snapshot: Sendable, Codable {
        public var version: String
        public var started: Moment
        public var archive: String
        public var archiveID: String
        /// In seconds.
        public var objective: Double
        /// By name, in the order of the configuration.
        public var sources: [SourceStatus]
        public var configurationLoaded: Moment
        public var lastReloadError: String?
        /// When the archive answered last, and why it did not since; both `nil` before it was asked.
        public var archiveAnswered: Moment?
        public var archiveProblem: String?
        /// In the order of the configuration.
        public var notifications: [RecipientStatus] = []

        public init(
            version: String, started: Moment, archive: String, archiveID: String, objective: Double, sources: [SourceStatus], configurationLoaded: Moment
        ) {
            self.version = version
            self.started = started
            self.archive = archive
            self.archiveID = archiveID
            self.objective = objective
            self.sources = sources
            self.configurationLoaded = configurationLoaded
        }
    }

    private let state: Mutex<Snapshot>

    public init(_ first: Snapshot) { state = Mutex(first) }

    public var snapshot: Snapshot { state.withLock { $0 } }

    public func update(_ change: @Sendable (inout Snapshot) -> Void) { state.withLock { change(&$0) } }

    /// Changes what is known of one source.
    public func update(_ source: String, _ change: (inout SourceStatus) -> Void) {
        state.withLock { snapshot in
            guard let i = snapshot.sources.firstIndex(where: { $0.name == source }) else { return }
            change(&snapshot.sources[i])
        }
    }
}
