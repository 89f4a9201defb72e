import ArchiveCore
import Glibc
import Runtime
import Synchronization

/// Listens on a free port of 127.0.0.1 and runs each connection on a thread of its own, until it is stopped.
public final class LoopbackServer: Sendable {
    public let port: Int
    private let listener: Int32
    /// Descriptors that are open, so that `stop` can end what waits on them.
    private let open: Mutex<(connections: Set<Int32>, stopped: Bool)>
    private let accepted = Atomic<Int>(0)

    /// - Throws: `.inputOutput`.
    public init(_ serve: @escaping @Sendable (LoopbackConnection) -> Void) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = LoopbackConnection.address(port: 0)
        let length = socklen_t(MemoryLayout<sockaddr_in>.size)
        var size = length
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) == 0 && listen(listener, 256) == 0 && getsockname(listener, $0, &size) == 0
            }
        }
        guard bound else { throw ArchiveError(.inputOutput, "No port of 127.0.0.1 could be listened on: error \(errno).") }
        port = Int(UInt16(bigEndian: address.sin_port))
        self.listener = listener
        open = Mutex(([], false))
        startThread { [self] in
            while true {
                let descriptor = accept(listener, nil, nil)
                guard descriptor >= 0 else {
                    if errno == EINTR || errno == ECONNABORTED { continue }
                    break
                }
                _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
                accepted.add(1, ordering: .relaxed)
                let isWanted = open.withLock { open in open.stopped ? false : open.connections.insert(descriptor).inserted }
                guard isWanted else {
                    close(descriptor)
                    continue
                }
                startThread {
                    let connection = LoopbackConnection(descriptor)
                    serve(connection)
                    _ = self.open.withLock { $0.connections.remove(descriptor) }
                    connection.close()
                }
            }
            close(listener)
        }
    }

    /// Connections that were accepted since the start.
    public var connections: Int { accepted.load(ordering: .relaxed) }

    /// Ends all connections and listens no more.
    public func stop() {
        open.withLock { open in
            open.stopped = true
            for descriptor in open.connections { shutdown(descriptor, Int32(SHUT_RDWR)) }
        }
        shutdown(listener, Int32(SHUT_RDWR))
    }
}

/// One end of a TCP connection, for one thread.
public final class LoopbackConnection {
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var taken = 0

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// Connects to a port of 127.0.0.1; `nil` when nobody listens.
    public init?(port: Int) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = Self.address(port: port)
        let done = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        guard done == 0 else {
            Glibc.close(descriptor)
            return nil
        }
    }

    static func address(port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    /// Waits for at least one byte; `nil` at the end.
    public func read(atMost limit: Int) -> [UInt8]? {
        if taken == buffer.count {
            taken = 0
            buffer = [UInt8](unsafeUninitializedCapacity: 1 << 16) { bytes, count in
                count = max(0, recv(descriptor, bytes.baseAddress, bytes.count, 0))
            }
            if buffer.isEmpty { return nil }
        }
        let end = min(buffer.count, taken + limit)
        defer { taken = end }
        return Array(buffer[taken..<end])
    }

    /// - Returns: `nil` when the connection ends first.
    public func read(exactly count: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            guard let some = read(atMost: count - bytes.count) else { return nil }
            bytes += some
        }
        return bytes
    }

    /// A line with its end, at most 64 KiB.
    public func line() -> [UInt8]? {
        var line: [UInt8] = []
        while line.last != 10, line.count < 1 << 16 {
            guard let byte = read(atMost: 1) else { return nil }
            line += byte
        }
        return line
    }

    /// - Returns: `false` when the other side is gone.
    @discardableResult
    public func write(_ bytes: some Collection<UInt8>) -> Bool {
        let bytes = Array(bytes)
        var sent = 0
        while sent < bytes.count {
            let n = bytes.withUnsafeBytes { send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
            guard n > 0 else { return false }
            sent += n
        }
        return true
    }

    /// Waits until the other side ends the connection, or `LoopbackServer.stop` does.
    public func waitForEnd() { while read(atMost: 1 << 16) != nil {} }

    func close() { Glibc.close(descriptor) }
}
