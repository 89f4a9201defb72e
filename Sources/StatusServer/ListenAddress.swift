import Glibc

/// An IP address and a port, written `127.0.0.1:9187` or `[::1]:9187`.
///
/// Names are none: whom one of them means may change, and with it who can ask.
public struct ListenAddress: Sendable, Hashable, CustomStringConvertible {
    /// As `inet_pton` reads it, without brackets.
    public let host: String
    public let isIPv6: Bool
    /// 0: any that is free.
    public let port: UInt16

    /// - Returns: `nil` for anything else.
    public init?(_ text: String) {
        guard let colon = text.utf8.lastIndex(of: UInt8(ascii: ":")) else { return nil }
        let digits = text[text.utf8.index(after: colon)...]
        guard (1...5).contains(digits.utf8.count), digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits) else { return nil }
        var host = text[..<colon]
        isIPv6 = host.hasPrefix("[") && host.hasSuffix("]")
        if isIPv6 { host = host.dropFirst().dropLast() }
        var address = in6_addr()
        guard host.utf8.count <= 45, inet_pton(isIPv6 ? AF_INET6 : AF_INET, String(host), &address) == 1 else { return nil }
        self.host = String(host)
        self.port = port
    }

    /// Whether only this machine can ask.
    public var isLoopback: Bool { isIPv6 ? host == "::1" || host.lowercased().hasPrefix("::ffff:127.") : host.hasPrefix("127.") }

    /// Whether it stands for all addresses of the machine.
    public var isAny: Bool {
        var address = in6_addr()
        inet_pton(isIPv6 ? AF_INET6 : AF_INET, host, &address)
        return withUnsafeBytes(of: &address) { $0.allSatisfy { $0 == 0 } }
    }

    public var description: String { isIPv6 ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// Where somebody on this machine asks what listens here.
    public var url: String { isAny ? "http://\(isIPv6 ? "[::1]" : "127.0.0.1"):\(port)" : "http://\(description)" }

    /// Calls `body` with the address as the system takes it.
    func withSocketAddress<T>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> T) -> T {
        if isIPv6 {
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            inet_pton(AF_INET6, host, &address.sin6_addr)
            return withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in6>.size)) }
            }
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        inet_pton(AF_INET, host, &address.sin_addr)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
    }
}
