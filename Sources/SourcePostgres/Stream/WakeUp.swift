import ArchiveCore
import CLibpq
import Glibc

/// A descriptor that another thread can make readable. Calls `eventfd`.
final class WakeUp: Sendable {
    let descriptor: Int32

    init() throws {
        descriptor = tidemark_eventfd()
        guard descriptor >= 0 else { throw ArchiveError(.inputOutput, "The system refused an event descriptor: error \(errno).") }
    }

    deinit { Glibc.close(descriptor) }

    func signal() {
        var one: UInt64 = 1
        _ = write(descriptor, &one, 8)  // fails only when it is readable already
    }
}
