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

    private func findings() throws -> [Finding] { try Preconditions(conninfo: conninfo, slot: slot).findings(name, slot: slot) }
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
