import ArchiveCore
import Glibc
import Runtime
import Source
import Synchronization

/// Looks at the slot over an ordinary connection, made anew for each look, and drops it over a replication connection.
final class PostgresSlotGuard: SourceGuard {
    private let conninfo: String
    private let slot: String

    /// Seconds for a look, connecting included, and for the server to notice that the receiver has left.
    static let lookLimit = 5.0
    static let releaseLimit = 30.0
    static let application = "tidemark guard"

    init(conninfo: String, slot: String) {
        self.conninfo = conninfo
        self.slot = slot
    }

    func look() async throws -> GuardReading? {
        try await blocking { [self] in
            do { return try lookBlocking() } catch let error as ServerError { throw error.archiveError("look at the slot '\(slot)'") }
        }
    }

    private func lookBlocking() throws -> GuardReading? {
        let connection = try Connection(conninfo: conninfo, purpose: .sql, application: Self.application, database: "postgres", timeout: Self.lookLimit)
        let name = slot.replacing("'", with: "''")
        guard let row = try connection.query("\(SlotRow.query) '\(name)'", timeout: Self.lookLimit).first else { return nil }
        guard let found = SlotRow(row) else { throw ArchiveError(.sourceUnsupported, "PostgreSQL's answer about the slot '\(slot)' was not understood.") }
        let segment = try connection.segmentSize().bytes
        return found.reading(slot: slot, segment: segment, disk: found.isLimited ? nil : try Self.disk(connection))
    }

    /// The file system of pg_wal, a link followed. `nil` where the role may not ask, or the server runs on another machine.
    private static func disk(_ connection: Connection) throws -> (free: UInt64, total: UInt64)? {
        // A server on another machine may have a directory of the same name here: only a Unix socket proves that it is this machine.
        guard try connection.query("SELECT pg_catalog.inet_server_addr()", timeout: lookLimit).first == [nil] else { return nil }
        let directory: String
        do { directory = try connection.setting("data_directory") } catch let error as ServerError where error.state == "42501" { return nil }
        var status = statvfs()
        guard statvfs(directory + "/pg_wal", &status) == 0 else { return nil }
        return (UInt64(status.f_bavail) * UInt64(status.f_frsize), UInt64(status.f_blocks) * UInt64(status.f_frsize))
    }

    func release() async throws {
        try await blocking { [self] in
            do {
                let connection = try Connection(conninfo: conninfo, purpose: .replication, timeout: Self.releaseLimit)
                do { _ = try connection.query("DROP_REPLICATION_SLOT \(quoted(slot)) WAIT", timeout: Self.releaseLimit) } catch let error as ServerError
                    where error.state == ServerError.undefinedObject
                {} catch {
                    // It must not be dropped much later, when a receiver has begun anew.
                    connection.cancel()
                    throw error
                }
            } catch let error as ServerError { throw error.archiveError("drop the slot '\(slot)'") }
        }
    }

    func close() async {}
}
