import ArchiveCore
import Glibc
import Runtime

/// Turns signals into what a command does with them. `block` comes first thing in the program, before any thread.
enum Signals {
    /// From now on signals wait until `watch` takes them; writing to a closed pipe is an error like any other.
    static func block() {
        signal(SIGPIPE, SIG_IGN)
        var set = watched()
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Calls `handler` on a thread of its own with each SIGINT and SIGTERM, and how many came before it.
    static func watch(_ handler: @escaping @Sendable (_ signal: Int32, _ before: Int) -> Void) {
        startThread {
            var set = watched()
            var before = 0
            while true {
                var number: Int32 = 0
                guard sigwait(&set, &number) == 0 else { continue }
                handler(number, before)
                before += 1
            }
        }
    }

    private static func watched() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGINT)
        sigaddset(&set, SIGTERM)
        return set
    }
}
