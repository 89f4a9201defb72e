import ArchiveCore
import Glibc
import Runtime

/// Turns signals into what a command does with them.
enum Signals {
    /// Where the handler writes a signal's number, and where `watch` reads it.
    private static let pipe: (read: Int32, write: Int32) = {
        var ends: [Int32] = [-1, -1]
        precondition(Glibc.pipe(&ends) == 0, "the system refused a pipe: error \(errno)")
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }()

    /// Writing to a closed pipe is an error like any other. First thing in the program.
    static func ignorePipes() { signal(SIGPIPE, SIG_IGN) }

    /// SIGHUP means nothing yet: there is nothing that could be read again.
    static func ignoreHangUp() { signal(SIGHUP, SIG_IGN) }

    /// Calls `body` on a thread of its own with each SIGINT and SIGTERM, and how many came before it.
    ///
    /// A handler and not `sigwait`: the main thread of a Swift program with an asynchronous `main` waits in `dispatch_main`, which lets
    /// every signal through there, whatever was blocked before.
    ///
    /// - Parameter hangUp: called with each SIGHUP, on the same thread; `nil`: SIGHUP stays what it was.
    static func watch(hangUp: (@Sendable () -> Void)? = nil, _ body: @escaping @Sendable (_ signal: Int32, _ before: Int) -> Void) {
        let source = pipe.read  // made here, not in the handler
        startThread {
            var before = 0
            while true {
                var number: UInt8 = 0
                guard read(source, &number, 1) == 1 else { continue }
                if Int32(number) == SIGHUP {
                    hangUp?()
                    continue
                }
                body(Int32(number), before)
                before += 1
            }
        }
        for number in [SIGINT, SIGTERM] + (hangUp == nil ? [] : [SIGHUP]) {
            signal(number) { number in
                let saved = errno
                var byte = UInt8(truncatingIfNeeded: number)
                _ = write(Signals.pipe.write, &byte, 1)
                errno = saved
            }
        }
    }
}
