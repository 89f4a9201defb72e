import ArchiveCore
import Runtime
import Source

/// A PostgreSQL cluster as a source.
public struct PostgresComponent: Component {
    public static let kind = "postgres"
    private let name: String
    private let conninfo: String
    private let slot: String
    private let stateDirectory: String
    private let tail: Double
    private let ack: Acknowledgement

    /// - Parameters: see `PostgresLogSource`.
    public init(name: String, conninfo: String, slot: String, stateDirectory: String, tail: Double, ack: Acknowledgement = .spool) {
        self.name = name
        self.conninfo = conninfo
        self.slot = slot
        self.stateDirectory = stateDirectory
        self.tail = tail
        self.ack = ack
    }

    public func makeLogSource() -> any LogSource {
        PostgresLogSource(conninfo: conninfo, slot: slot, stateDirectory: stateDirectory, tail: tail, ack: ack)
    }
    public func makeGuard() -> (any SourceGuard)? { PostgresSlotGuard(conninfo: conninfo, slot: slot) }
    public func makeSnapshotSource() -> any SnapshotSource { PostgresBaseBackup(conninfo: conninfo) }
    public var lockPaths: [String] { [stateDirectory + "/lock"] }

    public func check() async -> [Finding] {
        do { return try await blocking { try self.findings() } } catch let error as ArchiveError {
            return [Finding(.failure, name, error.message + (error.cause.map { " (\($0))" } ?? ""), remedy: error.remedy)]
        } catch {
            return [Finding(.failure, name, "\(error)")]
        }
    }

    private func findings() throws -> [Finding] {
        let connection = try Connection(conninfo: conninfo, purpose: .replication)
        var found: [Finding] = []
        let version = connection.serverVersion
        guard version >= 130_000 else { throw PostgresServer.tooOld(version) }
        do {
            let system = try connection.identifySystem()
            found.append(
                Finding(
                    .ok, name,
                    "PostgreSQL \(version / 10_000).\(version % 10_000) is reached over the replication protocol: system \(system.identifier), timeline \(system.timeline), at \(LSN(rawValue: system.position))"
                ))
            let level = try connection.setting("wal_level")
            found.append(
                level == "minimal"
                    ? Finding(.failure, name, "wal_level is minimal", remedy: "Set wal_level = replica and restart PostgreSQL.")
                    : Finding(.ok, name, "wal_level is \(level)"))
            let senders = Int(try connection.setting("max_wal_senders")) ?? 0
            found.append(
                senders >= 2
                    ? Finding(.ok, name, "max_wal_senders is \(senders)")
                    : Finding(.failure, name, "max_wal_senders is \(senders)", remedy: "Set it to at least 2: one to stream, one for base backups."))
            let slots = Int(try connection.setting("max_replication_slots")) ?? 0
            if slots < 1 {
                found.append(Finding(.failure, name, "max_replication_slots is \(slots)", remedy: "Set it to at least 1 and restart PostgreSQL."))
            }
            if try connection.setting("full_page_writes") != "on" {
                found.append(Finding(.failure, name, "full_page_writes is off", remedy: "Set full_page_writes = on."))
            }
            if try connection.setting("data_checksums") != "on" {
                found.append(
                    Finding(.warning, name, "data checksums are off: damaged blocks go unnoticed into bases", remedy: "Enable them with pg_checksums."))
            }
            if try connection.setting("max_slot_wal_keep_size") == "-1" {
                found.append(
                    Finding(
                        .warning, name, "max_slot_wal_keep_size is -1: while no agent runs, the slot can fill the disk of PostgreSQL",
                        remedy: "Set it to what that disk can spare; beyond it a gap opens instead."))
            }
            switch try connection.slotState(slot) {
            case .present(let position):
                found.append(
                    Finding(.ok, name, "the slot '\(slot)' is there\(position.map { ", keeping WAL from \(LSN(rawValue: $0))" } ?? "")"))
            case .missing: found.append(Finding(.ok, name, "the slot '\(slot)' is created when the agent starts"))
            case .unknown: break
            }
        } catch let error as ServerError { throw error.archiveError("examine PostgreSQL") }
        return found
    }
}

public struct PostgresKind: ComponentKind {
    public init() {}
    public let kind = "postgres"
    public var restoreTarget: any RestoreTarget { PostgresRestoreTarget() }
    public func describe(offset: UInt64) -> String { LSN(rawValue: offset).description }
    public let streamsMayBeginEmpty = false
    public let firstOffset: UInt64 = 0
    public let carriesFences = true

    public func pieceName(endingAt offset: UInt64, branch: UInt32, of incarnation: IncarnationRecord) -> PieceName? {
        guard offset > 0, let size = incarnation.facts["segment-size"].flatMap(UInt64.init).flatMap(SegmentSize.init(bytes:)),
            let timeline = TimelineID(rawValue: branch)
        else { return nil }
        return PieceName(branch: branch, name: SegmentName(timeline: timeline, containing: LSN(rawValue: offset - 1), size: size).description)
    }

    /// WAL says everything that its index says.
    public func makeIndexer(for incarnation: IncarnationRecord) throws(ArchiveError) -> (any LogIndexer)? {
        guard let size = incarnation.facts["segment-size"].flatMap(UInt64.init).flatMap(SegmentSize.init(bytes:)) else {
            throw ArchiveError(.archiveDamaged, "The record of '\(incarnation.source)' in the archive names no segment size.")
        }
        return WALIndexer(size: size, systemID: UInt64(incarnation.identity))
    }
}
