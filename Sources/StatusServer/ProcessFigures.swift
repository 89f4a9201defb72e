import Glibc

/// What a process uses, as `/proc` tells it (proc(5)); what cannot be read is `nil`.
public struct ProcessFigures: Sendable, Hashable {
    /// User and system time, in seconds.
    public var cpuSeconds: Double?
    public var residentBytes: UInt64?
    public var virtualBytes: UInt64?
    public var openFiles: UInt64?
    public var maximumFiles: UInt64?
    public var threads: UInt64?
    /// Seconds since 1970.
    public var startTime: Double?

    public init() {}

    /// - Parameters:
    ///   - stat: the text of `/proc/self/stat`; the name in it may hold anything.
    ///   - bootTime: `btime` of `/proc/stat`, in seconds since 1970.
    ///   - ticks: clock ticks a second.
    ///   - page: bytes of a page.
    public init(stat: String, bootTime: Double?, ticks: Double, page: UInt64) {
        guard let end = stat.lastIndex(of: ")") else { return }
        // Field 3, the state, is the first behind the name.
        let fields = stat[stat.index(after: end)...].split(whereSeparator: \.isWhitespace)
        func field(_ number: Int) -> UInt64? { number - 3 < fields.count ? UInt64(fields[number - 3]) : nil }
        if let user = field(14), let system = field(15) { cpuSeconds = (Double(user) + Double(system)) / ticks }
        threads = field(20)
        if let bootTime, let start = field(22) { startTime = bootTime + Double(start) / ticks }
        virtualBytes = field(23)
        residentBytes = field(24).map { $0.multipliedReportingOverflow(by: page).partialValue }
    }

    /// Of this process, now. Calls `open`, `readdir`, `getrlimit`.
    public static func current() -> ProcessFigures {
        let boot = read("/proc/stat").split(separator: "\n").first { $0.hasPrefix("btime ") }.flatMap { Double($0.dropFirst(6)) }
        var figures = ProcessFigures(
            stat: read("/proc/self/stat"), bootTime: boot, ticks: Double(sysconf(Int32(_SC_CLK_TCK))), page: UInt64(sysconf(Int32(_SC_PAGESIZE))))
        if let folder = opendir("/proc/self/fd") {
            defer { closedir(folder) }
            var count: UInt64 = 0
            while readdir(folder) != nil { count += 1 }
            // Without `.`, `..` and the folder itself.
            figures.openFiles = count >= 3 ? count - 3 : nil
        }
        var limit = rlimit()
        if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 { figures.maximumFiles = UInt64(limit.rlim_cur) }
        return figures
    }

    private static func read(_ path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while text.count < 4 << 20 {
            let n = Glibc.read(descriptor, &buffer, buffer.count)
            guard n > 0 else { break }
            text += buffer[..<n]
        }
        return String(decoding: text, as: UTF8.self)
    }
}
