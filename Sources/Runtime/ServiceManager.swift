import ArchiveCore
import Glibc

/// What a service tells the manager that started it, by the protocol of systemd's `sd_notify(3)`.
public struct ServiceManager: Sendable {
    /// As in `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    public let socket: String
    /// Seconds within which the manager wants to hear that the service lives; `nil`: it does not ask.
    public let watchdog: Double?

    /// - Parameters:
    ///   - environment: looks up `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///   - process: this process's id; a watchdog that is meant for another is none.
    /// - Returns: `nil` where nobody wants to be told, or over another kind of socket.
    public init?(process: Int32 = getpid(), environment: (String) -> String?) {
        guard let socket = environment("NOTIFY_SOCKET"), Self.address(socket) != nil else { return nil }
        self.socket = socket
        let isMeant = environment("WATCHDOG_PID").map { Int32($0) == process } ?? true
        watchdog = isMeant ? environment("WATCHDOG_USEC").flatMap(UInt64.init).flatMap { $0 > 0 ? Double($0) / 1e6 : nil } : nil
    }

    /// Sends assignments such as `READY=1`, one a line, in one datagram. Waits a second at most.
    ///
    /// Calls `sendto`.
    ///
    /// - Throws: `.inputOutput`.
    public func notify(_ assignments: String) throws(ArchiveError) {
        guard let (place, length) = Self.address(socket) else { return }
        var address = place
        let handle = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard handle >= 0 else { throw failed(errno) }
        defer { close(handle) }
        var patience = timeval(tv_sec: 1, tv_usec: 0)
        setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let bytes = Array(assignments.utf8)
        let sent = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { sendto(handle, bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, length) }
        }
        guard sent == bytes.count else { throw failed(errno) }
    }

    private func failed(_ error: Int32) -> ArchiveError {
        ArchiveError(
            .inputOutput, "The service manager could not be told anything at '\(socket)': \(String(cString: strerror(error))).",
            remedy: "Start tidemark by systemd, or without NOTIFY_SOCKET.")
    }

    /// `nil` for what is neither an absolute path nor an abstract name, or is too long.
    static func address(_ name: String) -> (sockaddr_un, socklen_t)? {
        let bytes = Array(name.utf8)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard bytes.count > 1, bytes.count < MemoryLayout.size(ofValue: address.sun_path), bytes[0] == 0x2F || bytes[0] == 0x40 else { return nil }
        withUnsafeMutableBytes(of: &address.sun_path) { path in
            path.copyBytes(from: bytes)
            if bytes[0] == 0x40 { path[0] = 0 }
        }
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        // An abstract name is as long as the address says; a path ends in a zero.
        return (address, socklen_t(offset + bytes.count + (bytes[0] == 0x40 ? 0 : 1)))
    }
}

/// `CLOCK_MONOTONIC` in microseconds, as `MONOTONIC_USEC=` wants it.
public func monotonicMicroseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
}
