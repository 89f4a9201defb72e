import ArchiveCore
import CMicrohttpd
import Glibc
import Runtime
import Sidecar
import Synchronization

/// An HTTP server on one address, with a thread of its own that needs nobody else's. No paths of the disk are behind it.
///
/// It takes so many connections, so many bytes of head, and so many seconds for each; whoever wants more is cut off.
public final class StatusServer: Sendable {
    static let maximumConnections: UInt32 = 64
    /// Bytes for a connection's request head and answer head together.
    static let memory = 16 << 10
    /// Seconds without a byte.
    static let idle: UInt32 = 10

    /// What the C library's callbacks are given; it outlives the daemon.
    fileprivate final class Context: Sendable {
        let answer: @Sendable (_ method: String, _ path: String) -> Answer
        /// Sockets and when they were accepted, in seconds of the steady clock. A socket is in here for as long as it is open.
        let open = Mutex<[Int32: Double]>([:])

        init(_ answer: @escaping @Sendable (String, String) -> Answer) { self.answer = answer }
    }

    /// Where it listens, with the port that it was given.
    public let address: ListenAddress
    private let context: Context
    private nonisolated(unsafe) let daemon: OpaquePointer  // only `stop` uses it, once
    private let stopped = Atomic(false)

    /// - Parameters:
    ///   - lifetime: seconds that a connection may last, whatever it does.
    ///   - answer: called on the server's thread; must not block.
    /// - Throws: `.inputOutput` when the address cannot be listened on.
    public init(_ address: ListenAddress, lifetime: Double = 30, answer: @escaping @Sendable (_ method: String, _ path: String) -> Answer) throws(ArchiveError) {
        let (listener, port) = try Self.listen(address)
        context = Context(answer)
        guard
            let daemon = tm_mhd_start(
                listener, answerRequest, noteConnection, Unmanaged.passUnretained(context).toOpaque(), Self.maximumConnections, Self.idle, Self.memory)
        else {
            close(listener)
            throw ArchiveError(.inputOutput, "The status server could not be started on \(address): error \(errno).", remedy: "See whether the process may start threads.")
        }
        self.daemon = daemon
        guard let bound = ListenAddress(address.isIPv6 ? "[\(address.host)]:\(port)" : "\(address.host):\(port)") else {
            preconditionFailure("an address with another port is one")
        }
        self.address = bound
        startThread { [weak self] in
            while let server = self, !server.stopped.load(ordering: .relaxed) {
                server.cutOff(olderThan: lifetime)
                usleep(useconds_t(min(1, lifetime / 4) * 1e6))
            }
        }
    }

    deinit { stop() }

    /// Ends all connections and listens no more. Waits for the server's thread: not to be called from `async` code.
    public func stop() {
        guard !stopped.exchange(true, ordering: .acquiringAndReleasing) else { return }
        MHD_stop_daemon(daemon)
    }

    /// A client that sends a byte now and then is never idle: what is too old is shut down, and the server's thread sees that as the end.
    private func cutOff(olderThan lifetime: Double) {
        let limit = Self.steady() - lifetime
        context.open.withLock { open in
            for (socket, since) in open where since < limit { shutdown(socket, Int32(SHUT_RDWR)) }
        }
    }

    fileprivate static func steady() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private static func listen(_ address: ListenAddress) throws(ArchiveError) -> (socket: Int32, port: UInt16) {
        let listener = socket(address.isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        var one: Int32 = 1
        if listener >= 0 {
            setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
            if address.isIPv6 { setsockopt(listener, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, socklen_t(MemoryLayout<Int32>.size)) }
        }
        guard listener >= 0, address.withSocketAddress({ bind(listener, $0, $1) }) == 0, Glibc.listen(listener, 64) == 0 else {
            let code = errno
            if listener >= 0 { close(listener) }
            throw refusal(address, code)
        }
        var bound = sockaddr_in6()
        var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
        _ = withUnsafeMutablePointer(to: &bound) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(listener, $0, &size) } }
        // The port stands at the same place in both families.
        return (listener, UInt16(bigEndian: bound.sin6_port))
    }

    private static func refusal(_ address: ListenAddress, _ code: Int32) -> ArchiveError {
        let remedy =
            switch code {
            case EADDRINUSE: "Another program listens there, maybe another agent: stop it, or name another port with 'listen'."
            case EADDRNOTAVAIL: "This machine has no such address: correct 'listen'."
            case EACCES, EPERM: "Ports below 1024 are root's: name a higher one with 'listen'."
            default: "Correct 'listen'."
            }
        return ArchiveError(.inputOutput, "The status server cannot listen on \(address): \(String(cString: strerror(code))).", remedy: remedy)
    }
}

/// MHD_AccessHandlerCallback: answered at once with the head; a body is never read, and the connection ends with the answer.
private func answerRequest(
    _ context: UnsafeMutableRawPointer?, _ connection: OpaquePointer?, _ url: UnsafePointer<CChar>?, _ method: UnsafePointer<CChar>?, _: UnsafePointer<CChar>?,
    _: UnsafePointer<CChar>?, _: UnsafeMutablePointer<Int>?, _: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> MHD_Result {
    guard let context, let connection, let url, let method else { return .NO }
    let answer = Unmanaged<StatusServer.Context>.fromOpaque(context).takeUnretainedValue().answer(String(cString: method), String(cString: url))
    let response = answer.body.withUnsafeBytes {
        MHD_create_response_from_buffer($0.count, UnsafeMutableRawPointer(mutating: $0.baseAddress), .RESPMEM_MUST_COPY)
    }
    guard let response else { return .NO }
    defer { MHD_destroy_response(response) }
    MHD_add_response_header(response, "Content-Type", answer.type)
    MHD_add_response_header(response, "Cache-Control", "no-store")
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff")
    MHD_add_response_header(response, "Connection", "close")
    if let allow = answer.allow { MHD_add_response_header(response, "Allow", allow) }
    return MHD_queue_response(connection, UInt32(answer.status), response)
}

/// MHD_NotifyConnectionCallback: told of a connection before its first byte, and of its end before its socket is closed.
private func noteConnection(
    _ context: UnsafeMutableRawPointer?, _ connection: OpaquePointer?, _: UnsafeMutablePointer<UnsafeMutableRawPointer?>?, _ code: MHD_ConnectionNotificationCode
) {
    guard let context, let connection else { return }
    let socket = tm_mhd_socket(connection)
    Unmanaged<StatusServer.Context>.fromOpaque(context).takeUnretainedValue().open.withLock {
        $0[socket] = code == .CONNECTION_NOTIFY_STARTED ? StatusServer.steady() : nil
    }
}
