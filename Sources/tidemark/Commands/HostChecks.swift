import ArchiveCore
import DurableIO
import Glibc
import Source
import Store

/// What this host has to offer an agent.
enum HostChecks {
    /// Free space below which it is told, in bytes: 64 segments of WAL.
    static let space: UInt64 = 1 << 30

    /// Blocks: looks at directories, and binds the status server's address for a moment.
    static func findings(_ configuration: Configuration) -> [Finding] {
        var found = directory(configuration.state, what: "the state directory", remedy: "Make it for the account that the agent runs as; `tidemark check --print-setup` tells how.")
        found.append(roomLeft(configuration.state))
        for url in [configuration.archive] + configuration.copies {
            // A URL that is none was refused with the configuration.
            guard case .file(let path)? = try? StoreLocation(url) else { continue }
            found += permissions(path)
            found.append(roomLeft(path))
        }
        if let listen = configuration.listen { found += address("\(listen)") }
        let isScheduled = configuration.sources.contains { $0.base != nil }
        found.append(
            isScheduled
                ? Finding(.ok, "agent", "bases are taken by schedule")
                : Finding(
                    .warning, "agent", "no bases are scheduled: a restore takes ever longer, and everything is kept",
                    remedy: "Set 'base: { schedule: \"0 2 * * *\" }', or run `tidemark backup` from a timer."))
        return found
    }

    /// Whether a directory is there and its owner, this account, can write into it; or could be made.
    static func directory(_ path: String, what: String, remedy: String) -> [Finding] {
        var place = path
        while !Files.exists(place), place != "/" { place = Files.parent(of: place) }
        guard access(place, W_OK | X_OK) == 0 else {
            return [Finding(.failure, "agent", "\(what) '\(path)' cannot be \(place == path ? "written" : "made"): \(String(cString: strerror(errno)))", remedy: remedy)]
        }
        return [Finding(.ok, "agent", place == path ? "\(what) '\(path)' can be written" : "\(what) '\(path)' is made when the agent starts")] + permissions(path)
    }

    /// Others who may write there could replace what is archived or spooled.
    static func permissions(_ path: String) -> [Finding] {
        var status = stat()
        guard stat(path, &status) == 0, status.st_mode & 0o002 != 0 else { return [] }
        return [Finding(.warning, "agent", "everybody may write into '\(path)'", remedy: "chmod o-w \(shellQuoted(path))")]
    }

    private static func roomLeft(_ path: String) -> Finding {
        var place = path
        while !Files.exists(place), place != "/" { place = Files.parent(of: place) }
        var status = statvfs()
        guard statvfs(place, &status) == 0 else {
            return Finding(
                .warning, "agent", "how much room '\(place)' has was not told: \(String(cString: strerror(errno)))", remedy: "Look at it with df, and let this account enter the directories above it.")
        }
        return room(path, free: UInt64(status.f_bavail) * UInt64(status.f_frsize), total: UInt64(status.f_blocks) * UInt64(status.f_frsize), wanted: space)
    }

    /// Sizes in bytes.
    static func room(_ path: String, free: UInt64, total: UInt64, wanted: UInt64) -> Finding {
        let text = "'\(path)' has \(Output.bytes(free)) of \(Output.bytes(total)) left"
        if free < wanted / 8 { return Finding(.failure, "agent", "\(text): no room for \(wanted >> 27) segments of WAL", remedy: "Free some of it, or move it to a larger disk.") }
        if free < wanted || free < total / 20 { return Finding(.warning, "agent", text, remedy: "Free some of it, or move it to a larger disk, before it is full.") }
        return Finding(.ok, "agent", text)
    }

    /// Whether the status server's address is this host's and free.
    static func address(_ listen: String) -> [Finding] {
        guard let colon = listen.lastIndex(of: ":") else { return [] }
        var name = String(listen[..<colon])
        if name.hasPrefix("["), name.hasSuffix("]") { name = String(name.dropFirst().dropLast()) }
        var hints = addrinfo()
        hints.ai_flags = AI_PASSIVE
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(name, String(listen[listen.index(after: colon)...]), &hints, &list) == 0, let list else {
            return [Finding(.failure, "agent", "'listen' is '\(listen)', and that name is not known", remedy: "Write an address of this host, such as 127.0.0.1:9187.")]
        }
        defer { freeaddrinfo(list) }
        var found: [Finding] = []
        let handle = socket(list.pointee.ai_family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard handle >= 0 else { return [Finding(.failure, "agent", "no socket for '\(listen)': \(String(cString: strerror(errno)))", remedy: "Write an address of this host.")] }
        defer { close(handle) }
        var yes: Int32 = 1
        setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        if bind(handle, list.pointee.ai_addr, list.pointee.ai_addrlen) == 0 {
            found.append(Finding(.ok, "agent", "'\(listen)' is free for the status server"))
        } else if errno == EADDRINUSE {
            found.append(
                Finding(.warning, "agent", "'\(listen)' is in use: right when that is the agent", remedy: "Otherwise choose another port with 'listen'; `tidemark status` tells whether the agent answers there."))
        } else {
            found.append(Finding(.failure, "agent", "'\(listen)' cannot be listened on: \(String(cString: strerror(errno)))", remedy: "Write an address of this host and a port above 1023."))
        }
        return found
    }
}
