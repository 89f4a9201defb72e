import ArchiveCore
import DurableIO
import Foundation
import Runtime
import Source
import Synchronization

/// Takes a base through `BASE_BACKUP` of the replication protocol.
public struct PostgresBaseBackup: SnapshotSource {
    private let conninfo: String

    public init(conninfo: String) { self.conninfo = conninfo }

    public func identify() async throws -> SourceIdentity {
        let conninfo = conninfo
        return try await blocking { try PostgresServer.identify(Connection(conninfo: conninfo, purpose: .replication)) }
    }

    public func capture(into sink: any TreeSink & Sendable, archived: [String: UInt64]) async throws -> SnapshotOutcome {
        let conninfo = conninfo
        let wake = try WakeUp()
        let cancelled = Flag()
        return try await withTaskCancellationHandler {
            try await blocking {
                let connection = try Connection(conninfo: conninfo, purpose: .replication)
                connection.wakeDescriptor = wake.descriptor
                connection.isCancelled = { cancelled.isSet }
                var run = Run(connection: connection, sink: sink, cancelled: cancelled)
                do { return try run.capture() } catch let error as ServerError {
                    throw error.archiveError("take a base backup of PostgreSQL")
                }
            }
        } onCancel: {
            cancelled.set()
            wake.signal()
        }
    }

    final class Flag: Sendable {
        private let value = Atomic(false)
        func set() { value.store(true, ordering: .relaxed) }
        var isSet: Bool { value.load(ordering: .relaxed) }
    }

    private struct Tablespace { var oid: String; var location: String }

    private struct Run {
        let connection: Connection
        let sink: any TreeSink
        let cancelled: Flag
        private var total: UInt64?
        private var done: UInt64 = 0
        private var tar = TarStream(prefix: "")
        private var manifest: [UInt8] = []
        private var inManifest = false

        init(connection: Connection, sink: any TreeSink, cancelled: Flag) {
            self.connection = connection
            self.sink = sink
            self.cancelled = cancelled
        }

        mutating func capture() throws -> SnapshotOutcome {
            let version = connection.serverVersion
            guard version >= 130_000 else { throw PostgresServer.tooOld(version) }
            let size = try connection.segmentSize()
            guard try connection.setting("in_hot_standby") == "off" || version < 140_000 else {
                throw ArchiveError(
                    .sourceUnsupported, "The server is a standby; bases are taken from the primary.", remedy: "Point 'conninfo' at the primary.")
            }
            try connection.send(
                version >= 150_000
                    ? "BASE_BACKUP (LABEL 'tidemark', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256')"
                    : "BASE_BACKUP LABEL 'tidemark' PROGRESS FAST NOWAIT MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'")
            // The first checkpoint may take long.
            guard case .rows(let begin)? = try connection.answer(timeout: 3600), let start = begin.first?.first.flatMap({ $0 }).flatMap({ LSN($0) }),
                let row = begin.first, row.count >= 2, let timeline = row[1].flatMap({ UInt32($0) }).flatMap(TimelineID.init(rawValue:))
            else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
            guard case .rows(let list)? = try connection.answer() else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
            let tablespaces = list.compactMap { row in row[0].flatMap { oid in row[1].map { Tablespace(oid: oid, location: $0) } } }
            let sizes = list.compactMap { row in row.count > 2 ? row[2].flatMap { UInt64($0) } : nil }
            total = sizes.isEmpty ? nil : sizes.reduce(0, +) * 1024
            // A tablespace's directory comes before what is in it.
            let outcome: (stop: LSN, losses: [TreeLoss])
            if version >= 150_000 { outcome = try copyTagged(tablespaces) } else { outcome = try copyEach(list) }
            try storeManifest()
            // Where pages are damaged, they say which.
            let notices = connection.takeNotices()
            let first = SegmentName(timeline: timeline, containing: start, size: size)
            var facts = ["server-version": "\(version)", "segment-size": "\(size.bytes)", "start": "\(start)", "stop": "\(outcome.stop)"]
            if !tablespaces.isEmpty {
                let map = Dictionary(tablespaces.map { ($0.oid, $0.location) }, uniquingKeysWith: { $1 })
                facts["tablespaces"] = String(decoding: try JSONEncoder().encode(map), as: UTF8.self)
            }
            return SnapshotOutcome(
                completed: now(), spans: [LogSpan(stream: "wal", branch: timeline.rawValue, start: first.start.rawValue, end: outcome.stop.rawValue)],
                branch: timeline.rawValue, firstPiece: first.description, warnings: notices, losses: outcome.losses, facts: facts)
        }

        /// PostgreSQL 15 and later: one stream, each message with a letter before it.
        private mutating func copyTagged(_ tablespaces: [Tablespace]) throws -> (stop: LSN, losses: [TreeLoss]) {
            guard case .copyOut? = try connection.answer() else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
            try receive { run, message in
                guard let kind = message.first else { return }
                let body = UnsafeRawBufferPointer(rebasing: message[1...])
                switch kind {
                case UInt8(ascii: "n"):
                    let name = String(decoding: body.prefix { $0 != 0 }, as: UTF8.self)
                    try run.beginArchive(oid: name == "base.tar" ? nil : String(name.dropLast(4)))
                case UInt8(ascii: "d"): try run.take(body)
                case UInt8(ascii: "m"): run.inManifest = true
                case UInt8(ascii: "p"): break
                default: throw PostgresServer.notUnderstood("BASE_BACKUP")
                }
            }
            return try finish()
        }

        /// PostgreSQL 13 and 14: a stream for every tablespace, the main one last, then the manifest.
        private mutating func copyEach(_ tablespaces: [Connection.Row]) throws -> (stop: LSN, losses: [TreeLoss]) {
            for row in tablespaces {
                guard case .copyOut? = try connection.answer() else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
                try beginArchive(oid: row[0])
                try receive { run, message in try run.take(message) }
            }
            guard case .copyOut? = try connection.answer() else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
            inManifest = true
            try receive { run, message in try run.take(message) }
            return try finish()
        }

        private mutating func beginArchive(oid: String?) throws {
            guard let oid else {
                tar = TarStream(prefix: "")
                return
            }
            tar = TarStream(prefix: "pg_tblspc/\(oid)/")
            tablespaceDirectories.append(oid)
            for path in tablespaceDirectories.count == 1 ? ["pg_tblspc", "pg_tblspc/\(oid)"] : ["pg_tblspc/\(oid)"] {
                try sink.directory(TreeEntry(kind: .directory, path: Array(path.utf8), mode: 0o700))
            }
        }
        private var tablespaceDirectories: [String] = []

        private mutating func take(_ bytes: UnsafeRawBufferPointer) throws {
            if inManifest {
                manifest.append(contentsOf: bytes)
                return
            }
            try tar.feed(bytes, into: sink)
            done += UInt64(bytes.count)
            sink.progress(bytes: done, of: total.map { max($0, done) })
        }

        private mutating func receive(_ body: (inout Run, UnsafeRawBufferPointer) throws -> Void) throws {
            var silent = monotonic()
            while true {
                if cancelled.isSet {
                    connection.cancel()
                    throw CancellationError()
                }
                switch try connection.receive({ try body(&self, $0) }) {
                case .message: silent = monotonic()
                case .end: return
                case .nothing:
                    guard monotonic() - silent < 600 else {
                        throw ArchiveError(.sourceUnreachable, "PostgreSQL sent nothing of its base backup for 600 s.")
                    }
                    _ = connection.wait(seconds: 5)
                }
            }
        }

        private func finish() throws -> (stop: LSN, losses: [TreeLoss]) {
            var stop: LSN?
            var losses: [TreeLoss] = []
            do {
                while let answer = try connection.answer(timeout: 600) {
                    if case .rows(let rows) = answer, let text = rows.first?.first.flatMap({ $0 }) { stop = LSN(text) ?? stop }
                }
            } catch let error as ServerError where error.state == ServerError.checksumFailure && stop != nil {
                // Everything was sent; the damaged blocks are named in the notices.
                losses.append(TreeLoss(path: [], reason: "PostgreSQL found damaged pages while it sent its files, and sent them as they are: \(error.message)"))
            }
            guard let stop else { throw PostgresServer.notUnderstood("BASE_BACKUP") }
            return (stop, losses)
        }

        private func storeManifest() throws {
            try sink.file(
                TreeEntry(kind: .file, path: Array("backup_manifest".utf8), mode: 0o600, modified: now(), size: UInt64(manifest.count)))
            try manifest.withUnsafeBytes { try sink.write($0) }
        }
    }
}

/// What every connection to a server asks first.
enum PostgresServer {
    static func identify(_ connection: Connection) throws -> SourceIdentity {
        do {
            guard connection.serverVersion >= 130_000 else { throw tooOld(connection.serverVersion) }
            let system = try connection.identifySystem()
            let size = try connection.segmentSize()
            return SourceIdentity(identity: system.identifier, facts: ["segment-size": "\(size.bytes)"])
        } catch let error as ServerError { throw error.archiveError("identify PostgreSQL") }
    }

    static func tooOld(_ version: Int) -> ArchiveError {
        ArchiveError(.sourceUnsupported, "PostgreSQL \(version / 10_000) is not supported; 13 to 18 are.", remedy: "Upgrade the server.")
    }

    static func notUnderstood(_ command: String) -> ArchiveError {
        ArchiveError(.sourceUnsupported, "PostgreSQL's answer to \(command) was not understood.", remedy: "Report this, with the server's version.")
    }
}
