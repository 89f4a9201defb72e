import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Testing

@testable import SourcePostgres

/// A real PostgreSQL for one test, stopped and removed with it.
final class Server: Sendable {
    /// Every installation to be tested: `TIDEMARK_TEST_PG_BINDIRS`, or what Debian has.
    static let bindirs: [String] = {
        if let list = getenv("TIDEMARK_TEST_PG_BINDIRS") { return String(cString: list).split(separator: ":").map(String.init) }
        let versions = (try? Files.names(in: "/usr/lib/postgresql")) ?? []
        return versions.map { "/usr/lib/postgresql/\($0)/bin" }.filter { Files.exists($0 + "/postgres") }
    }()

    let directory: TemporaryDirectory
    let bindir: String
    let port: Int
    static let user: (uid: UInt32, gid: UInt32)? = geteuid() == 0 ? getpwnam("postgres").map { ($0.pointee.pw_uid, $0.pointee.pw_gid) } : nil

    var data: String { directory.path + "/data" }
    /// The sockets' own directory, so the port need not be free of others.
    var conninfo: String { "host=\(directory.path) port=\(port) user=postgres dbname=postgres" }

    init(_ bindir: String, segmentMegabytes: Int = 1, from: Server? = nil) async throws {
        self.bindir = bindir
        directory = try TemporaryDirectory()
        port = Int.random(in: 20_000...60_000)
        if let user = Self.user { #expect(chown(directory.path, user.uid, user.gid) == 0) }
        if let from {
            try await run("pg_basebackup", ["-h", from.directory.path, "-p", "\(from.port)", "-U", "postgres", "-D", data, "-R", "-X", "stream"])
        } else {
            try await run("initdb", ["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--wal-segsize=\(segmentMegabytes)"])
            try append(
                "wal_level = replica\nmax_prepared_transactions = 5\nmax_wal_senders = 10\nlisten_addresses = ''\nmin_wal_size = \(2 * segmentMegabytes)MB\nmax_wal_size = \(4 * segmentMegabytes)MB\ntrack_commit_timestamp = on\n"
            )
        }
        try append("port = \(port)\nunix_socket_directories = '\(directory.path)'\n")
        try await start()
    }

    private func append(_ text: String) throws {
        try Descriptor(data + "/postgresql.conf", O_WRONLY | O_APPEND).write(Array(text.utf8))
    }

    func start() async throws { try await run("pg_ctl", ["start", "-D", data, "-w", "-t", "120", "-l", directory.path + "/log"]) }
    func stop(_ mode: String = "fast") async throws { try await run("pg_ctl", ["stop", "-D", data, "-w", "-t", "120", "-m", mode]) }

    @discardableResult
    func run(_ program: String, _ arguments: [String]) async throws -> String {
        var child = Subprocess(["\(bindir)/\(program)"] + arguments, user: Self.user)
        child.keep = 64 << 20
        let result = try await child.run()
        guard result.status == 0 else { throw ArchiveError(.inputOutput, "\(program) ended with \(result.status): \(result.errors) \(result.output)") }
        return result.output
    }

    @discardableResult
    func sql(_ commands: String...) async throws -> String {
        try await run(
            "psql", ["-h", directory.path, "-p", "\(port)", "-U", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1"] + commands.flatMap { ["-c", $0] } + ["postgres"])
    }

    /// Work of many kinds, in WAL of a few segments.
    func work(_ name: String, rows: Int = 3000) async throws {
        try await sql("CREATE TABLE \(name)(n int PRIMARY KEY, t text)", "INSERT INTO \(name) SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, \(rows)) n")
        try await sql("BEGIN; INSERT INTO \(name) VALUES (-1, 'a'); SAVEPOINT s; INSERT INTO \(name) VALUES (-2, 'b'); RELEASE s; COMMIT")
        try await sql("BEGIN; INSERT INTO \(name) VALUES (-3, 'c'); ROLLBACK")
        try await sql("BEGIN; INSERT INTO \(name) VALUES (-4, 'd'); PREPARE TRANSACTION '\(name)'", "COMMIT PREPARED '\(name)'")
        try await sql("BEGIN; INSERT INTO \(name) VALUES (-5, 'e'); PREPARE TRANSACTION '\(name)'", "ROLLBACK PREPARED '\(name)'")
        try await sql("SELECT pg_create_restore_point('point-\(name)')", "SELECT pg_switch_wal()", "CREATE TABLE \(name)_gone(n int)", "DROP TABLE \(name)_gone")
    }

    deinit {
        // Not waited for on success paths that stopped it already.
        let words = ["\(bindir)/pg_ctl", "stop", "-D", data, "-m", "immediate", "-w"]
        if Files.exists(data + "/postmaster.pid") {
            do { _ = try Subprocess(words, user: Self.user).runBlocking() } catch { print("left running: \(data): \(error)") }
        }
    }
}

/// Waits for something that has to become true, generously.
func eventually(_ what: String, seconds: Double = 300, _ condition: () async throws -> Bool) async throws {
    let start = now()
    while try await !condition() {
        guard now() - start < seconds else { throw ArchiveError(.interrupted, "waited \(seconds) s for \(what)") }
        try await Task.sleep(for: .milliseconds(20))
    }
}
