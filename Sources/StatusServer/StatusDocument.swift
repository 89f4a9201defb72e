import ArchiveCore
import Foundation
import Lag
import Sidecar

/// What `/status` answers; docs/status.md describes it. Times are RFC 3339. Fields may be added and are never renamed.
public struct StatusDocument: Sendable, Codable {
    public struct Lag: Sendable, Codable {
        public var commits: UInt64
        public var p50, p95, p99, max: Double?
    }

    public struct Bases: Sendable, Codable {
        public var lastID, lastStarted: String?
        public var lastSeconds: Double?
        public var lastBytes: UInt64?
        public var lastWarnings: Int?
        public var next: String?
        public var running: Bool
        public var failures: Int
        public var lastFailure: String?
    }

    public struct Source: Sendable, Codable {
        public var name, kind, state, since: String
        public var incarnation, lastError, watermark: String?
        public var objectiveMissed: Bool
        public var backlog: [LagRow.Stage: LagRow.Backlog]
        public var pieces, bytesStored, gaps, failures: UInt64
        public var lag: Lag
        public var bases: Bases
        public var slot: SourceStatus.Slot?
    }

    public var version, time, started, archive, archiveID: String
    public var archiveAnswered, archiveProblem: String?
    public var objective: Double
    public var configurationLoaded: String
    public var reloadError: String?
    public var ready: Bool
    /// What is not as it should be, those that keep the agent from being ready first.
    public var problems: [String]
    public var sources: [Source]
    public var notifications: [RecipientStatus]

    public init(_ snapshot: StatusBoard.Snapshot, at time: Moment) {
        let reasons = Readiness.reasons(snapshot)
        version = snapshot.version
        self.time = "\(time)"
        started = "\(snapshot.started)"
        archive = snapshot.archive
        archiveID = snapshot.archiveID
        archiveAnswered = snapshot.archiveAnswered.map { "\($0)" }
        archiveProblem = snapshot.archiveProblem
        objective = snapshot.objective
        configurationLoaded = "\(snapshot.configurationLoaded)"
        reloadError = snapshot.lastReloadError
        ready = reasons.isEmpty
        problems = reasons + Readiness.warnings(snapshot)
        sources = snapshot.sources.map(Source.init)
        notifications = snapshot.notifications
    }

    /// Sorted keys, so that the same state is the same text.
    func json() -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        do { return Array(try encoder.encode(self)) + [0x0A] } catch { preconditionFailure("strings and numbers can be encoded: \(error)") }
    }
}

extension StatusDocument.Source {
    fileprivate init(_ source: SourceStatus) {
        name = source.name
        kind = source.kind
        state = source.state.rawValue
        since = "\(source.since)"
        incarnation = source.incarnation
        lastError = source.lastError
        watermark = source.watermark.map { "\($0)" }
        objectiveMissed = source.isObjectiveMissed
        backlog = source.backlog
        pieces = source.pieces
        bytesStored = source.bytesStored
        gaps = source.gaps
        failures = source.failures
        lag = .init(
            commits: source.commits, p50: source.lag.quantile(0.5), p95: source.lag.quantile(0.95), p99: source.lag.quantile(0.99),
            max: source.lag.total > 0 ? source.lag.maximum : nil)
        let bases = source.bases
        self.bases = .init(
            lastID: bases.lastID, lastStarted: bases.lastStarted.map { "\($0)" }, lastSeconds: bases.lastSeconds, lastBytes: bases.lastBytes,
            lastWarnings: bases.lastWarnings, next: bases.next.map { "\($0)" }, running: bases.isRunning, failures: bases.failures, lastFailure: bases.lastFailure)
        slot = source.slot
    }
}
