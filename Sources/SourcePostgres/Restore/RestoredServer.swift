import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization

extension PostgresRestoreTarget: QueryableRestore {
    public func withQueries<T: Sendable>(
        at place: RestoredPlace, _ body: @Sendable (any QuerySession) async throws -> T
    ) async throws -> T {
        let server = try await RestoredServer(place: place)
        do {
            let result = try await body(try await server.start())
            try await server.stop()
            return result
        } catch {
            try await server.stopWhateverHappens()
            throw error
        }
    }
}

/// Runs a server on a restored, promoted and stopped cluster for a short time: on a socket that only we can reach, read-only,
/// without any work of its own, and stops it again.
final class RestoredServer: Sendable {
    private let data: String
    private let programs: Programs
    private let user: (uid: UInt32, gid: UInt32)?
    /// A short path, since a socket's name has little room; ours alone.
    private let sockets: String
    private let session = Mutex<RestoredSession?>(nil)
    private let child = Mutex<Task<Subprocess.Result, any Error>?>(nil)

    private var log: String { sockets + "/server.log" }
    private static let port = 5432

    /// - Throws: `.recoveryFailed` when the directory is not a cluster that was stopped cleanly, or the programs are missing.
    init(place: RestoredPlace) async throws {
        data = place.directory
        let (base, bindir) = (place.base, place.bindir)
        let major = try PostgresRestoreTarget.major(base)
        programs = try await blocking { try Programs.find(major: major, bindir: bindir) }
        user = try Programs.user()
        sockets = "/tmp/tidemark-\(hex(UInt64.random(in: 0...UInt64(UInt32.max)), 8))"
    }

    func start() async throws -> any QuerySession {
        let (data, sockets, user) = (data, sockets, user)
        try await blocking {
            guard !Files.exists(data + "/recovery.signal"), !Files.exists(data + "/standby.signal") else {
                throw ArchiveError(
                    .recoveryFailed, "The database in '\(data)' has not ended its recovery.", remedy: "Restore with --recover promote to have it checked.")
            }
            guard mkdir(sockets, 0o700) == 0 else { throw ArchiveError.system("create the directory", sockets) }
            for (name, text) in [("hba.conf", "local all all trust\n"), ("ident.conf", "")] {
                let file = try Descriptor("\(sockets)/\(name)", O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
                try file.write(Array(text.utf8))
                if let user, fchown(file.raw, user.uid, user.gid) != 0 { throw ArchiveError.system("give its owner to", "\(sockets)/\(name)") }
            }
            if let user, chown(sockets, user.uid, user.gid) != 0 { throw ArchiveError.system("give its owner to", sockets) }
        }
        let owner = try await bootstrapUser()
        let settings: [(String, String)] = [
            ("listen_addresses", ""), ("unix_socket_directories", sockets), ("unix_socket_permissions", "0700"), ("port", "\(Self.port)"),
            ("hba_file", sockets + "/hba.conf"), ("ident_file", sockets + "/ident.conf"), ("external_pid_file", ""), ("ssl", "off"),
            ("archive_mode", "off"), ("autovacuum", "off"), ("default_transaction_read_only", "on"), ("logging_collector", "off"),
            ("log_destination", "stderr"), ("log_statement", "none"), ("lc_messages", "C"), ("primary_conninfo", ""), ("synchronous_standby_names", ""),
            // Nothing that runs by itself, such as scheduled jobs, and no subscription.
            ("shared_preload_libraries", ""), ("session_preload_libraries", ""), ("local_preload_libraries", ""),
            ("max_logical_replication_workers", "0"), ("jit", "off"),
        ]
        let words = ["\(programs.directory)/postgres", "-D", data] + settings.flatMap { ["-c", "\($0.0)=\($0.1)"] }
        // The server ends with us, also when we are killed: SIGINT asks it to stop at once and cleanly.
        let shell = "umask 077; exec setpriv --pdeathsig INT -- \"$@\" >>'\(log)' 2>&1"
        let command = Subprocess(["sh", "-c", shell, "sh"] + words, user: user)
        // A task of its own: a cancelled check still stops its server in order.
        let running = Task { try await command.run() }
        child.withLock { $0 = running }
        let ended = Flag()
        Task {
            // Whether and why it failed is told by the server's log.
            _ = await running.result
            ended.set()
        }
        let deadline = monotonic() + 120
        while true {
            try Task.checkCancellation()
            // Complete, so that no variable of the environment leads elsewhere.
            let conninfo = "host=\(sockets) hostaddr='' port=\(Self.port) user=\(quotedForConninfo(owner)) dbname=template1 options='' "
                + "target_session_attrs=any sslmode=disable gssencmode=disable passfile=/dev/null"
            if Files.exists("\(sockets)/.s.PGSQL.\(Self.port)") {
                do {
                    let session = try await blocking { try RestoredSession(conninfo: conninfo) }
                    self.session.withLock { $0 = session }
                    return session
                } catch let error as ArchiveError where error.code == .sourceUnreachable {
                    // It is still starting, or has ended again.
                }
            }
            guard !ended.isSet, monotonic() < deadline else {
                throw ArchiveError(
                    .recoveryFailed, "The restored database in '\(data)' could not be opened for the cross-check: \(lastWords()).",
                    remedy: "The restore itself is complete. Start it by hand, or restore again with --cross-check off.")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    func stop() async throws {
        try await end("fast")
        guard try await blocking({ [self] in try state() }) == "shut down" else {
            throw ArchiveError(.recoveryFailed, "The restored database in '\(data)' was not stopped cleanly after the cross-check: \(lastWords()).")
        }
        let data = data
        try await blocking { try Files.syncFileSystem(of: data) }
        try await removeSockets()
    }

    /// After a failure or an interruption.
    func stopWhateverHappens() async throws {
        do { try await end("fast") } catch { try await end("immediate") }
        try await removeSockets()
    }

    private func end(_ mode: String) async throws {
        session.withLock { session in
            session?.close()
            session = nil
        }
        let words = ["\(programs.directory)/pg_ctl", "stop", "-D", data, "-m", mode, "-w", "-t", "120"]
        let (user, pidFile) = (user, data + "/postmaster.pid")
        // Not a child of a task that may be cancelled.
        let errors = try await blocking { () -> String? in
            guard Files.exists(pidFile) else { return nil }
            let result = try Subprocess(words, user: user).runBlocking()
            return result.status == 0 || !Files.exists(pidFile) ? nil : result.errors
        }
        if let errors { throw ArchiveError(.recoveryFailed, "The restored database in '\(data)' could not be stopped: \(errors)") }
        if let running = child.withLock({ $0 }) {
            running.cancel()
            _ = await running.result
        }
    }

    private func removeSockets() async throws {
        let sockets = sockets
        try await blocking { try Files.removeTree(sockets) }
    }

    private func state() throws -> String {
        var command = Subprocess(["\(programs.directory)/pg_controldata", "-D", data], user: user)
        command.environment = ["LC_ALL=C", "PATH=/usr/bin:/bin"]
        for line in try command.runBlocking().output.split(separator: "\n") where line.hasPrefix("Database cluster state:") {
            return String(line.dropFirst("Database cluster state:".count).drop { $0 == " " })
        }
        return ""
    }

    /// The name of the superuser that initdb made, which need not be 'postgres': asked of the cluster itself, which is not running.
    private func bootstrapUser() async throws -> String {
        let sockets = sockets
        let words = [
            "sh", "-c", "umask 077; echo 'SELECT rolname FROM pg_catalog.pg_authid WHERE oid = 10' | \"$@\" 2>>'\(log)'", "sh", "\(programs.directory)/postgres",
            "--single", "-D", data, "-c", "default_transaction_read_only=on", "-c", "shared_preload_libraries=", "-c", "archive_mode=off", "-c",
            "external_pid_file=", "-c", "ssl=off", "-c", "unix_socket_directories=\(sockets)", "-c", "logging_collector=off", "-c",
            "log_destination=stderr", "template1",
        ]
        let result = try await Subprocess(words, user: user).run()
        // `	 1: rolname = "postgres"	(typeid = 19, …)`
        for line in result.output.split(separator: "\n") {
            guard let begin = line.firstRange(of: "rolname = \""), let end = line.ranges(of: "\"\t(typeid").last else { continue }
            return String(line[begin.upperBound..<end.lowerBound])
        }
        throw ArchiveError(
            .recoveryFailed, "The restored database in '\(data)' did not tell the name of its superuser: \(lastWords()).",
            remedy: "The restore itself is complete. Start it by hand, or restore again with --cross-check off.")
    }

    private func lastWords() -> String {
        guard Files.exists(log) else { return "its log is empty" }
        do {
            let lines = String(decoding: try Files.read(log), as: UTF8.self).split(separator: "\n").suffix(4)
            return lines.isEmpty ? "its log is empty" : lines.joined(separator: " | ")
        } catch { return "its log could not be read" }
    }
}

/// Set once, read often.
private final class Flag: Sendable {
    private let value = Atomic(false)
    func set() { value.store(true, ordering: .relaxed) }
    var isSet: Bool { value.load(ordering: .relaxed) }
}

private func quotedForConninfo(_ text: String) -> String { "'" + text.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "'" }

/// One connection for each database that was asked, each inside one transaction that sees one state and cannot write.
final class RestoredSession: QuerySession {
    /// Rows that are in memory at once.
    private static let batch = 2000
    /// Seconds that one query may take.
    private static let patience = 3600.0

    let databases: [String]
    private let conninfo: String
    /// Used by one thread at a time, which the lock sees to; never held across `await`.
    private let connections = Mutex<Connections>(Connections())

    private let cursors = Atomic(0)

    private struct Connections { var byDatabase: [String: Connection] = [:] }

    init(conninfo: String) throws {
        self.conninfo = conninfo
        let connection = try Connection(conninfo: conninfo, purpose: .sql)
        do {
            databases = try connection.query("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
                .compactMap { $0.first ?? nil }
        } catch let error as ServerError { throw error.archiveError("list the databases") }
    }

    func close() { connections.withLock { $0.byDatabase = [:] } }

    func columns(of query: String, in database: String) async throws -> [QueryColumn] {
        let table = try await ask(database) { try $0.table("SELECT * FROM (\(query)\n) q LIMIT 0", timeout: Self.patience) }
        return table.columns.map { QueryColumn(name: $0.name, kind: Self.kind($0.type)) }
    }

    func rows(of query: String, in database: String, _ body: @Sendable ([QueryRow]) async throws -> Void) async throws {
        let cursor = "tidemark_\(cursors.add(1, ordering: .relaxed).newValue)"
        _ = try await ask(database) { try $0.table("DECLARE \(cursor) NO SCROLL CURSOR FOR \(query)", timeout: Self.patience) }
        while true {
            try Task.checkCancellation()
            let rows = try await ask(database) { try $0.table("FETCH \(Self.batch) FROM \(cursor)", timeout: Self.patience) }.rows
            if !rows.isEmpty { try await body(rows) }
            if rows.count < Self.batch { break }
        }
        _ = try await ask(database) { try $0.query("CLOSE \(cursor)") }
    }

    /// Runs `command` on the database's connection; a query that fails leaves the transaction as it was before.
    private func ask<T: Sendable>(_ database: String, _ command: @escaping @Sendable (Connection) throws -> T) async throws -> T {
        // A cancelled query is left to the server's end, which comes next.
        let isCancelled = Flag()
        return try await withTaskCancellationHandler {
            try await blocking { [self] in
                try connections.withLock { connections in
                    let connection: Connection
                    if let known = connections.byDatabase[database] { connection = known } else {
                        connection = try open(database)
                        connections.byDatabase[database] = connection
                    }
                    connection.isCancelled = { isCancelled.isSet }
                    do {
                        _ = try connection.query("SAVEPOINT tidemark")
                        let result = try command(connection)
                        _ = try connection.query("RELEASE SAVEPOINT tidemark")
                        return result
                    } catch let error as ServerError {
                        if !error.state.isEmpty { _ = try connection.query("ROLLBACK TO SAVEPOINT tidemark") }
                        throw ArchiveError(.sourceRefused, "The database '\(database)' refused a query of the cross-check.", cause: error)
                    }
                }
            }
        } onCancel: { isCancelled.set() }
    }

    private func open(_ database: String) throws -> Connection {
        let connection = try Connection(conninfo: "\(conninfo) dbname=\(quotedForConninfo(database))", purpose: .sql)
        do {
            for command in [
                "SET statement_timeout = '\(Int(Self.patience))s'", "SET TimeZone = 'UTC'",
                "SET DateStyle = 'ISO'", "SET bytea_output = 'hex'", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            ] { _ = try connection.query(command) }
        } catch let error as ServerError { throw error.archiveError("open the database '\(database)'") }
        return connection
    }

    private static func kind(_ type: UInt32) -> QueryColumn.Kind {
        switch type {
        case 25, 1043, 1042, 19, 705: .text
        case 17: .bytes
        case 1184: .time
        case 1114: .localTime
        default: .other
        }
    }
}
