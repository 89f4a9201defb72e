import ArchiveCore
import CSystem
import Glibc
import Synchronization

/// Runs another program and collects what it prints. Ends the child when the task is cancelled.
public struct Subprocess: Sendable {
    public var arguments: [String]
    /// `nil`: our own environment.
    public var environment: [String]?
    /// Numeric user and group to become, when we are root; `nil`: stay who we are.
    public var user: (uid: UInt32, gid: UInt32)?
    /// At most so many bytes of each stream are kept, the last ones.
    public var keep = 1 << 20
    /// What it reads from standard input; empty: nothing at all. Whoever gives it something ignores SIGPIPE: it may end before it has read all.
    public var input: [UInt8] = []
    /// Seconds after which it and all that it started is killed; `nil`: never. With a limit it leads a process group of its own.
    public var limit: Double?

    public struct Result: Sendable {
        /// Exit status, or 128 + the signal that ended it.
        public var status: Int32
        public var output: String
        public var errors: String
        /// Whether `limit` was over.
        public var wasTooSlow = false
    }

    /// - Parameter arguments: the program, as a path or looked up in `PATH`, and what it is given.
    public init(_ arguments: [String], environment: [String]? = nil, user: (uid: UInt32, gid: UInt32)? = nil) {
        self.arguments = arguments
        self.environment = environment
        self.user = user
    }

    /// - Throws: `.inputOutput` when the program cannot be started, `CancellationError`.
    public func run() async throws -> Result {
        // The cancellation may come before the child is there: whichever is second ends it.
        let child = Mutex<(pid: pid_t, cancelled: Bool)>((0, false))
        let result = try await withTaskCancellationHandler {
            try await blocking {
                try self.runBlocking { pid in
                    child.withLock {
                        $0.pid = pid
                        if pid > 0 && $0.cancelled { kill(pid, SIGTERM) }
                    }
                }
            }
        } onCancel: {
            child.withLock {
                $0.cancelled = true
                if $0.pid > 0 { kill($0.pid, SIGTERM) }
            }
        }
        try Task.checkCancellation()
        return result
    }

    /// The same on the calling thread. `started` hears the child's id, and 0 just before it is reaped.
    public func runBlocking(started: (pid_t) -> Void = { _ in }) throws -> Result {
        var command = arguments
        if let user, geteuid() == 0 {
            command = ["setpriv", "--reuid=\(user.uid)", "--regid=\(user.gid)", "--clear-groups", "--"] + command
        }
        var out: [Int32] = [0, 0]
        var err: [Int32] = [0, 0]
        guard tidemark_pipe2(&out, O_CLOEXEC) == 0 else { throw ArchiveError(.inputOutput, "No pipe could be made: error \(errno).") }
        guard tidemark_pipe2(&err, O_CLOEXEC) == 0 else {
            close(out[0])
            close(out[1])
            throw ArchiveError(.inputOutput, "No pipe could be made: error \(errno).")
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var feed: [Int32] = [-1, -1]
        if input.isEmpty { posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) } else {
            guard tidemark_pipe2(&feed, O_CLOEXEC) == 0 else {
                for end in out + err { close(end) }
                throw ArchiveError(.inputOutput, "No pipe could be made: error \(errno).")
            }
            posix_spawn_file_actions_adddup2(&actions, feed[0], 0)
            _ = fcntl(feed[1], F_SETFL, O_NONBLOCK)
        }
        posix_spawn_file_actions_adddup2(&actions, out[1], 1)
        posix_spawn_file_actions_adddup2(&actions, err[1], 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (limit == nil ? 0 : POSIX_SPAWN_SETPGROUP)))
        var argv = command.map { strdup($0) } + [nil]
        var envp = environment.map { $0.map { strdup($0) } + [nil] }
        defer {
            for p in argv { free(p) }
            for p in envp ?? [] { free(p) }
        }
        var pid: pid_t = 0
        let code =
            if envp != nil { posix_spawnp(&pid, command[0], &actions, &attributes, &argv, &envp!) } else {
                posix_spawnp(&pid, command[0], &actions, &attributes, &argv, Glibc.environ)
            }
        close(out[1])
        close(err[1])
        if feed[0] >= 0 { close(feed[0]) }
        defer {
            close(out[0])
            close(err[0])
            if feed[1] >= 0 { close(feed[1]) }
        }
        guard code == 0 else {
            throw ArchiveError(.inputOutput, "Could not start '\(command[0])': \(String(cString: strerror(code))).")
        }
        started(pid)
        var kept: [[UInt8]] = [[], []]
        var open = [out[0], err[0]].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) } + [pollfd(fd: feed[1], events: Int16(POLLOUT), revents: 0)]
        var given = 0
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let end = limit.map { ContinuousClock.now + .seconds($0) }
        var wasTooSlow = false
        while open[..<2].contains(where: { $0.fd >= 0 }) {
            var patience: Int32 = -1
            if let end, !wasTooSlow {
                let left = end - ContinuousClock.now
                if left <= .zero {
                    wasTooSlow = true
                    kill(-pid, SIGKILL)
                } else {
                    patience = Int32(min(3_600_000, left / .milliseconds(1) + 1))
                }
            }
            guard poll(&open, 3, patience) >= 0 || errno == EINTR else { break }
            for i in 0..<2 where open[i].fd >= 0 && open[i].revents != 0 {
                let n = read(open[i].fd, &buffer, buffer.count)
                if n > 0 {
                    kept[i].append(contentsOf: buffer[0..<n])
                    if kept[i].count > 2 * keep { kept[i].removeFirst(kept[i].count - keep) }
                } else if n == 0 || errno != EINTR {
                    open[i].fd = -1
                }
            }
            if open[2].fd >= 0 && open[2].revents != 0 {
                let n = input[given...].withUnsafeBytes { write(feed[1], $0.baseAddress, $0.count) }
                if n > 0 { given += n }
                if given == input.count || n < 0 && errno != EINTR && errno != EAGAIN {
                    close(feed[1])
                    feed[1] = -1
                    open[2].fd = -1
                }
            }
        }
        // Wait without reaping first, so that the id stays ours until nobody can signal it any more.
        var info = siginfo_t()
        if let end, !wasTooSlow {
            // It may have closed its output and go on.
            while waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT | WNOHANG) == 0, info.si_signo == 0, ContinuousClock.now < end { usleep(10_000) }
            wasTooSlow = info.si_signo == 0
        }
        // The group is ours as long as its leader is not reaped: what was left in the background ends with it.
        if limit != nil { kill(-pid, SIGKILL) }
        while waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR {}
        started(0)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        let exit = status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
        return Result(
            status: exit, output: String(decoding: kept[0].suffix(keep), as: UTF8.self),
            errors: String(decoding: kept[1].suffix(keep), as: UTF8.self), wasTooSlow: wasTooSlow)
    }
}
