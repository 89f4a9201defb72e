import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source

/// A Gitaly storage as a source.
public struct GitalyComponent: Component {
    public static let kind = "gitaly"
    private let name: String
    private let storage: String
    private let spool: String?
    private let tail: Double
    private let prune: Bool
    private let fencing: Fencing?

    /// - Parameters:
    ///   - spool: the directory of the native archiver's tars, for `log: spool`; `nil` for `log: wal`.
    ///   - tail: longest time that an entry waits for others, in seconds.
    ///   - fencing: `nil`: no fences.
    public init(name: String, storage: String, spool: String?, tail: Double, prune: Bool, fencing: Fencing? = nil) {
        self.name = name
        self.storage = storage
        self.spool = spool
        self.tail = tail
        self.prune = prune
        self.fencing = fencing
    }

    public func makeLogSource() -> any LogSource {
        GitalyLogSource(storage: storage, spool: spool, tail: tail, prune: prune, fencing: fencing, output: Log(name))
    }
    public func makeSnapshotSource() -> any SnapshotSource { GitalySnapshot(storage: storage, spool: spool) }
    public var lockPaths: [String] { [storage] }

    public func check() async -> [Finding] {
        do { return try await blocking { try self.findings() } + fenceFindings() } catch let error as ArchiveError {
            return [Finding(.failure, name, error.message, remedy: error.remedy)]
        } catch {
            return [Finding(.failure, name, "\(error)")]
        }
    }

    private func findings() throws -> [Finding] {
        var found: [Finding] = []
        guard let status = try Files.status(storage), status.st_mode & S_IFMT == S_IFDIR else {
            return [Finding(.failure, name, "the storage '\(storage)' is not a directory", remedy: "Correct 'storage' in the configuration.")]
        }
        guard access(storage, R_OK | X_OK) == 0 else {
            return [Finding(.failure, name, "the storage '\(storage)' cannot be read", remedy: "Run as Gitaly's user or as root.")]
        }
        found.append(
            Files.exists("\(storage)/.gitaly-metadata")
                ? Finding(.ok, name, "'\(storage)' is a Gitaly storage")
                : Finding(.failure, name, "'\(storage)' has no .gitaly-metadata", remedy: "Start Gitaly on it once."))
        let hasLog = Files.exists("\(storage)/+gitaly/database")
        found.append(
            hasLog
                ? Finding(.ok, name, "transactions are on: there is a log")
                : Finding(
                    .warning, name, "transactions are off: there is no log, only base backups are possible, and what can be lost is everything since the last of them",
                    remedy: "Set [transactions] enabled = true in Gitaly's configuration; see docs/gitaly.md."))
        let partitions = try WALDirectories.all(of: storage)
        for (id, place) in partitions where access(place.wal, R_OK | X_OK | (prune && spool == nil ? W_OK : 0)) != 0 {
            found.append(
                Finding(.failure, name, "the log of partition \(id) cannot be \(prune ? "read and pruned" : "read")", remedy: "Run as Gitaly's user or as root."))
        }
        if let spool {
            found.append(
                Files.exists(spool)
                    ? Finding(.ok, name, "the spool '\(spool)' is there")
                    : Finding(
                        .failure, name, "the spool '\(spool)' is missing",
                        remedy: "Set wal_backup_go_cloud_url of Gitaly's [backup] section to it, or correct 'spool'."))
        } else if hasLog {
            let entries = partitions.values.reduce(0) { $0 + $1.lsns.count }
            found.append(
                Self.keeping(GitalyProcess.all().map(\.keepsEntries), partitions: partitions.count, entries: entries, name: name)
                    ?? Finding(.ok, name, "\(partitions.count) partitions, \(entries) entries in their logs"))
        }
        return found
    }

    /// Whether Gitaly keeps its log until it is archived, as far as its processes and the log tell; `nil`: nothing speaks against it.
    ///
    /// - Parameter processes: of each Gitaly on this host, whether the variable is set; `nil`: this account may not see.
    static func keeping(_ processes: [Bool?], partitions: Int, entries: Int, name: String) -> Finding? {
        let remedy = "Start Gitaly with the variable GITALY_KEEP_WAL_LOG_ENTRIES=1 in its environment; `tidemark check --print-setup` tells where it is set."
        // Several Gitalys on one host: which of them has this storage is not told by their environments.
        if !processes.isEmpty, processes.allSatisfy({ $0 == false }) {
            return Finding(.failure, name, "Gitaly runs without GITALY_KEEP_WAL_LOG_ENTRIES: entries are gone before they are archived", remedy: remedy)
        }
        if processes.allSatisfy({ $0 == true }), !processes.isEmpty {
            return Finding(.ok, name, "Gitaly keeps its log until it is archived: \(partitions) partitions, \(entries) entries")
        }
        guard partitions > 0, entries == 0 else { return nil }
        return Finding(.warning, name, "no partition holds any entry: Gitaly seems to prune its log at once", remedy: remedy)
    }

    /// Whether fences can be written, tried by writing some, and what they tell about the two clocks.
    private func fenceFindings() async -> [Finding] {
        guard let fencing else {
            return [
                Finding(
                    .warning, name, "no fences: which entries came before a restore's target is told by the clocks of two hosts alone",
                    remedy: "Set 'fence' to the name of the PostgreSQL source in the archive; see docs/fences.md.")
            ]
        }
        let writer = fencing.writer
        do {
            var bounds: ClosedRange<Int64>?
            var identity = ""
            // The first one's bounds hold the time that connecting took.
            for _ in 0..<3 {
                let record = try await FenceSchedule.attempt([:], by: writer)
                let narrower = bounds.map { $0.clamped(to: record.offset) } ?? record.offset
                bounds = narrower
                identity = record.anchorIdentity
            }
            await writer.close()
            var found = [
                Finding(
                    .ok, name, "fences can be written into the log of '\(writer.anchor)', which is of \(identity)", anchor: writer.anchor,
                    anchorIdentity: identity)
            ]
            if let bounds {
                let text = "the clock of '\(writer.anchor)' is ahead of this host's by \(Self.milliseconds(bounds.lowerBound)) to \(Self.milliseconds(bounds.upperBound)) ms"
                found.append(
                    max(bounds.lowerBound.magnitude, bounds.upperBound.magnitude) > 1_000_000_000
                        ? Finding(.warning, name, text, remedy: "Let both hosts follow the same time server (chrony or NTP).")
                        : Finding(.ok, name, text))
            }
            return found
        } catch {
            await writer.close()
            let known = error as? ArchiveError
            let cause = known?.cause.map { " (\($0))" } ?? ""
            return [Finding(.failure, name, "no fence could be written: \((known?.message ?? "\(error)") + cause)", remedy: known?.remedy)]
        }
    }

    /// Nanoseconds as milliseconds with one decimal.
    private static func milliseconds(_ nanoseconds: Int64) -> String {
        let tenths = (Double(nanoseconds) / 1e5).rounded()
        return "\(tenths == 0 ? 0 : tenths / 10)"
    }
}
