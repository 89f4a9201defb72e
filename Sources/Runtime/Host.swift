import Glibc

/// What this machine calls itself; `unknown` where it cannot say. Calls `gethostname`.
public func hostName() -> String {
    // One byte stays 0, also behind a name that was cut.
    var name = [CChar](repeating: 0, count: 256)
    guard gethostname(&name, name.count - 1) == 0 else { return "unknown" }
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
