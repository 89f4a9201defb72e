import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization

/// Runs a server on a laid-out base until it has reached its target and was promoted, and stops it cleanly.
struct Recovery: Sendable {
    let job: RestoreJob
    let programs: Programs
    let user: (uid: UInt32, gid: UInt32)?
    let feeder: SegmentFeeder
    let target: LSN
    let timeline: UInt32

    private var data: String { job.directory }
    private var log: String { "\(feeder.directory)/server.log" }

    func run() async throws {
        try await blocking { [self] in
            let signal = data + "/recovery.signal"
            try Files.writeDurably([], to: signal)
            if let user, chown(signal, user.uid, user.gid) != 0 { throw ArchiveError.system("give its owner to", signal) }
        }
        let sockets = try await blocking { [self] in try socketDirectory() }
        do {
            let files = try await feeder.prepare()
            try await withThrowingTaskGroup(of: Bool.self) { group in
                group.addTask {
                    try await feeder.run(files)
                    return false
                }
                group.addTask {
                    try await serve(sockets)
                    return true
                }
                // The feeder may end first; the server decides when it is over.
                while let isServer = try await group.next() { if isServer { break } }
                group.cancelAll()
            }
        } catch {
            try await stopWhateverHappens()
            try await blocking { try Files.removeTree(sockets) }
            throw error
        }
        try await blocking { try Files.removeTree(sockets) }
    }

    /// A short path, since a socket's name has little room.
    private func socketDirectory() throws -> String {
        let path = "/tmp/tidemark-\(hex(UInt64.random(in: 0...UInt64(UInt32.max)), 8))"
        try Files.makeDirectory(path)
        if let user, chown(path, user.uid, user.gid) != 0 { throw ArchiveError.system("give its owner to", path) }
        return path
    }

    private func serve(_ sockets: String) async throws {
        var settings: [(String, String)] = [
            // What the base's own configuration may still name goes first: PostgreSQL refuses to clear it once a target is set.
            ("recovery_target_time", ""), ("recovery_target_xid", ""), ("recovery_target_name", ""), ("recovery_target", ""),
            ("restore_command", feeder.restoreCommand), ("recovery_target_lsn", "\(target)"), ("recovery_target_inclusive", "on"),
            ("recovery_target_timeline", "\(timeline)"), ("recovery_target_action", "promote"), ("listen_addresses", ""),
            ("unix_socket_directories", sockets), ("archive_mode", "off"), ("hot_standby", "off"), ("fsync", "off"), ("ssl", "off"),
            ("logging_collector", "off"), ("log_destination", "stderr"), ("log_min_messages", "log"), ("lc_messages", "C"),
            ("primary_conninfo", ""), ("max_wal_size", "10GB"), ("synchronous_standby_names", ""),
        ]
        for (name, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] where Files.exists("\(data)/\(file)") {
            settings.append((name, "\(data)/\(file)"))
        }
        let words = ["postgres", "-D", data].map { $0 == "postgres" ? "\(programs.directory)/postgres" : $0 }
            + settings.flatMap { ["-c", "\($0.0)=\($0.1)"] }
        // The server's own log is its standard error, kept in a file until we have read it.
        let shell = "umask 077; exec \"$@\" >>\(quotedForShell(log)) 2>&1"
        let child = Subprocess(["sh", "-c", shell, "sh"] + words, user: user)
        let server = Task { try await child.run() }
        try await withTaskCancellationHandler {
            try await waitForPromotion(server)
            try await stop()
            let result = try await server.value
            guard result.status == 0 else { throw failure("PostgreSQL ended with status \(result.status) after it was promoted") }
        } onCancel: {
            server.cancel()
        }
        let state = try await controlState()
        guard state == "shut down" else { throw failure("PostgreSQL was not stopped cleanly: its state is '\(state)'") }
        // The target must have been reached, not overrun.
        let text = serverLog()
        guard text.contains("recovery stopping after WAL location") || text.contains("recovery stopping before WAL location") else {
            throw failure("PostgreSQL did not stop at \(target)")
        }
    }

    private func waitForPromotion(_ server: Task<Subprocess.Result, any Error>) async throws {
        let ended = EndFlag()
        let watcher = Task {
            // Whether and why it failed is told by its log.
            _ = await server.result
            ended.set()
        }
        defer { watcher.cancel() }
        var last: Moment?
        while true {
            try Task.checkCancellation()
            if try await controlState() == "in production", serverLog().contains("database system is ready to accept connections") { return }
            if ended.isSet {
                // What came before the server could write to its log, such as a directory that its user cannot reach.
                let errors = try await server.value.errors.split(separator: "\n").joined(separator: " | ")
                throw failure("PostgreSQL ended before it reached \(target)\(errors.isEmpty ? "" : " (\(errors))")")
            }
            if last.map({ now() - $0 > 1 }) ?? true {
                last = now()
                job.progress("recovery", position(), target.rawValue)
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// The newest segment that the server has asked for.
    private func position() -> UInt64 {
        guard let line = serverLog().split(separator: "\n").last(where: { $0.contains("restored log file \"") }),
            let name = line.split(separator: "\"").dropFirst().first, let size = job.incarnation.facts["segment-size"].flatMap(UInt64.init).flatMap(SegmentSize.init(bytes:)),
            let segment = SegmentName(String(name), size: size)
        else { return 0 }
        return min(segment.start.rawValue, target.rawValue)
    }

    private func stop() async throws {
        let result = try await Subprocess(["\(programs.directory)/pg_ctl", "stop", "-D", data, "-m", "fast", "-w", "-t", "600"], user: user).run()
        guard result.status == 0 else { throw failure("PostgreSQL could not be stopped: \(result.errors)") }
    }

    /// After a failure or an interruption: nothing that we started keeps running.
    private func stopWhateverHappens() async throws {
        let words = ["\(programs.directory)/pg_ctl", "stop", "-D", data, "-m", "immediate", "-w", "-t", "60"]
        let (user, pidFile) = (user, data + "/postmaster.pid")
        // Not a child of the cancelled task.
        try await blocking { if Files.exists(pidFile) { _ = try Runtime.Subprocess(words, user: user).runBlocking() } }
    }

    private func controlState() async throws -> String {
        let words = ["\(programs.directory)/pg_controldata", "-D", data]
        var child = Subprocess(words, user: user)
        child.environment = ["LC_ALL=C", "PATH=/usr/bin:/bin"]
        let result = try await child.run()
        for line in result.output.split(separator: "\n") where line.hasPrefix("Database cluster state:") {
            return String(line.dropFirst("Database cluster state:".count).drop { $0 == " " })
        }
        return ""
    }

    private func serverLog() -> String {
        guard Files.exists(log), let bytes = try? Files.read(log) else { return "" }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func failure(_ what: String) -> ArchiveError {
        let log = serverLog().split(separator: "\n")
        // What follows the reason is of less use than what came before it.
        let end = log.lastIndex { $0.contains("FATAL:") || $0.contains("PANIC:") }.map { $0 + 1 } ?? log.count
        let lines = log[..<end].suffix(6).joined(separator: " | ")
        return ArchiveError(
            .recoveryFailed, "\(what). PostgreSQL's last words: \(lines)",
            remedy: "Nothing was left behind. If the log names a setting, restore with --recover none and start it by hand.")
    }
}

private func quotedForShell(_ text: String) -> String { "'" + text.replacing("'", with: "'\\''") + "'" }

/// Set once, read often.
private final class EndFlag: Sendable {
    private let value = Atomic(false)
    func set() { value.store(true, ordering: .relaxed) }
    var isSet: Bool { value.load(ordering: .relaxed) }
}
