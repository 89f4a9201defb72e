import Glibc

/// What the system says about this host. Everything here may block.
enum OwnHost {
    /// The address that a connection to a server would come from; nothing is sent. `nil`: its name is not known here, or no way leads to it.
    ///
    /// Calls `getaddrinfo`, `connect` on a datagram socket, and `getsockname`.
    static func address(toward server: String, port: String) -> String? {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(server, port, &hints, &list) == 0, let list else { return nil }
        defer { freeaddrinfo(list) }
        let handle = socket(list.pointee.ai_family, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard handle >= 0 else { return nil }
        defer { close(handle) }
        guard connect(handle, list.pointee.ai_addr, list.pointee.ai_addrlen) == 0 else { return nil }
        var own = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        var name = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        let result = withUnsafeMutablePointer(to: &own) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                getsockname(handle, address, &length) == 0 && getnameinfo(address, length, &name, socklen_t(name.count), nil, 0, NI_NUMERICHOST) == 0
            }
        }
        guard result else { return nil }
        // A link-local address has its interface behind it.
        return String(decoding: name.prefix { $0 != 0 && $0 != 0x25 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The account that a file belongs to; `nil`: there is no such file, or nobody of that number.
    static func owner(of path: String) -> String? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return name(of: status.st_uid)
    }

    /// Calls `getpwuid_r`.
    static func name(of user: uid_t) -> String? {
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var space = [CChar](repeating: 0, count: 16 << 10)
        return space.withUnsafeMutableBufferPointer { buffer in
            guard let place = buffer.baseAddress, getpwuid_r(user, &entry, place, buffer.count, &found) == 0, found != nil else { return nil }
            return entry.pw_name.map { String(cString: $0) }
        }
    }
}
