import ArchiveCore
import Runtime
import Source
import Synchronization

/// Writes fences into PostgreSQL's WAL over an ordinary connection, which it opens when needed and keeps.
///
/// The role needs LOGIN and CONNECT on some database of the cluster, nothing else: `leastPrivilege`. The WAL record is a logical
/// message of the prefix `tidemark`, outside of any transaction; it uses up no transaction id, and logical decoding of other prefixes
/// passes over it.
public final class PostgresFenceWriter: FenceWriter {
    public let anchor: String
    private let conninfo: String
    private let session: Mutex<Session>

    /// Seconds for one marker, connecting included.
    public static let limit = 2.0
    /// What `pg_stat_activity` and PostgreSQL's log show.
    static let application = "tidemark fence"

    /// SQL that makes a role for fences; a superuser runs it once.
    public static let leastPrivilege = "CREATE ROLE tidemark_fence LOGIN; GRANT CONNECT ON DATABASE postgres TO tidemark_fence;"

    private struct Session {
        /// Between two calls only: whoever writes has taken it.
        var connection: Kept?
        /// A call that its caller no longer waits for may still be at it.
        var isBusy = false
        var isClosed = false
    }

    /// A connection that goes from one blocking thread to the next.
    private final class Kept: @unchecked Sendable {  // used by whoever set `isBusy`, alone
        let connection: Connection
        init(_ connection: Connection) { self.connection = connection }
    }

    /// - Parameters:
    ///   - anchor: the PostgreSQL source's name in the archive.
    ///   - conninfo: libpq's connection string; the database is `postgres` when nothing names another.
    public init(anchor: String, conninfo: String) {
        self.anchor = anchor
        self.conninfo = conninfo
        session = Mutex(Session())
    }

    public func write(id: String, digest: String) async throws -> FenceMark {
        precondition((id + digest).utf8.allSatisfy { Self.isPlain($0) }, "a fence's id or digest has other characters than letters, digits and '-'")
        // Not this task's thread, and not for ever: looking up a host's name cannot be interrupted.
        let race = Race<FenceMark>()
        return try await withCheckedThrowingContinuation { continuation in
            race.begin(continuation)
            let timer = Task {
                // Ended early when the marker is written first, which is no failure.
                do { try await Task.sleep(for: .seconds(Self.limit)) } catch { return }
                race.end(.failure(self.late()))
            }
            Task {
                do { race.end(.success(try await blocking { try self.writeBlocking(id: id, digest: digest) })) } catch { race.end(.failure(error)) }
                timer.cancel()
            }
        }
    }

    public func close() async {
        session.withLock {
            $0.connection = nil
            $0.isClosed = $0.isBusy
        }
    }

    private static func isPlain(_ c: UInt8) -> Bool {
        (0x30...0x39).contains(c) || (0x41...0x5A).contains(c) || (0x61...0x7A).contains(c) || c == 0x2D
    }

    private func late() -> ArchiveError {
        ArchiveError(
            .sourceUnreachable, "PostgreSQL '\(anchor)' did not write the fence within \(Int(Self.limit)) s.",
            remedy: "See whether it runs, how busy it is, and whether its host's name can be looked up.")
    }

    private func writeBlocking(id: String, digest: String) throws -> FenceMark {
        let deadline = monotonic() + Self.limit
        let kept: Kept? = try session.withLock { session throws(ArchiveError) in
            guard !session.isBusy else { throw late() }
            session.isBusy = true
            session.isClosed = false
            defer { session.connection = nil }
            return session.connection
        }
        var usable: Kept?
        defer {
            session.withLock {
                $0.isBusy = false
                $0.connection = $0.isClosed ? nil : usable
            }
        }
        do {
            let current = try kept ?? connect(before: deadline)
            let mark: FenceMark
            do { mark = try Self.mark(current.connection, id, digest, before: deadline) } catch let error as ServerError
                where kept != nil && error.isLost && monotonic() < deadline - 0.1
            {
                // The server was restarted since, which shows only now. Should the first attempt have written the marker all the same,
                // both stand between the two listings of the fence, and each is as good as the other.
                let fresh = try connect(before: deadline)
                let mark = try Self.mark(fresh.connection, id, digest, before: deadline)
                usable = fresh
                return mark
            }
            usable = current
            return mark
        } catch let error as ServerError {
            throw explained(error)
        }
    }

    private func connect(before deadline: Double) throws -> Kept {
        let connection = try Connection(
            conninfo: conninfo, purpose: .sql, application: Self.application, database: "postgres",
            timeout: max(0.1, deadline - monotonic()))
        // The server gives up too: an abandoned call must not write its marker much later.
        _ = try connection.query("SET statement_timeout = \(Int(Self.limit * 1000))", timeout: max(0.1, deadline - monotonic()))
        return Kept(connection)
    }

    /// One statement: where it began and ended, the clock and the timeline belong together.
    private static func mark(_ connection: Connection, _ id: String, _ digest: String, before deadline: Double) throws -> FenceMark {
        // From 17 on the message can be flushed at once. Before, the end of the statement asks the WAL writer to, which takes it up to
        // three times wal_writer_delay.
        let flush = connection.serverVersion >= 170_000 ? ", true" : ""
        let rows = try connection.query(
            """
            SELECT lsn, substr(CASE WHEN lsn IS NOT NULL THEN pg_catalog.pg_walfile_name(lsn) END, 1, 8), \
            (extract(epoch FROM moment) * 1000000)::pg_catalog.int8, (SELECT system_identifier FROM pg_catalog.pg_control_system()) \
            FROM (SELECT pg_catalog.clock_timestamp() AS moment, CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
            THEN pg_catalog.pg_logical_emit_message(false, 'tidemark', 'fence \(id) \(digest)'\(flush)) END AS lsn) AS marker
            """, timeout: max(0.1, deadline - monotonic()))
        guard let row = rows.first, row.count == 4 else {
            throw ArchiveError(.sourceUnsupported, "PostgreSQL's answer to the writing of a fence was not understood.")
        }
        guard let text = row[0] else {
            throw ArchiveError(
                .sourceRefused, "No fence was written: this PostgreSQL is a standby.",
                remedy: "Let fence_conninfo lead to the primary, for instance with several hosts and target_session_attrs=read-write.")
        }
        guard let position = LSN(text)?.rawValue, let timeline = row[1].flatMap({ UInt32($0, radix: 16) }),
            let moment = row[2].flatMap({ Int64($0) }), let identity = row[3]
        else { throw ArchiveError(.sourceUnsupported, "PostgreSQL's answer to the writing of a fence was not understood.") }
        return FenceMark(anchorIdentity: identity, branch: timeline, position: position, anchorTime: Moment(nanoseconds: moment * 1000))
    }

    private func explained(_ error: ServerError) -> ArchiveError {
        switch error.state {
        case "42501":
            ArchiveError(
                .sourceRefused, "The role may not write fences into PostgreSQL '\(anchor)'.",
                remedy: """
                    A role with LOGIN and CONNECT may, unless rights were taken from PUBLIC: \(Self.leastPrivilege) Where they were, also \
                    GRANT EXECUTE on pg_logical_emit_message, pg_walfile_name, pg_is_in_recovery and pg_control_system.
                    """, cause: error)
        case "57014": late()
        default: error.archiveError("write a fence into PostgreSQL '\(anchor)'")
        }
    }
}

extension ServerError {
    /// Whether the connection itself ended, so that a new one may do better.
    fileprivate var isLost: Bool { ["", "57P01", "57P02", "57P03", "08006", "08003"].contains(state) }
}

/// Gives the first of several results to one waiting task.
private final class Race<T: Sendable>: Sendable {
    private let waiting = Mutex<CheckedContinuation<T, any Error>?>(nil)

    func begin(_ continuation: CheckedContinuation<T, any Error>) { waiting.withLock { $0 = continuation } }

    func end(_ result: Result<T, any Error>) {
        let continuation = waiting.withLock { waiting in
            defer { waiting = nil }
            return waiting
        }
        continuation?.resume(with: result)
    }
}
