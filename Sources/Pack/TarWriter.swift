import ArchiveCore

/// Headers of the tar format of POSIX.1-2001 (ustar, with pax records where a value does not fit).
public enum TarWriter {
    public static let blockSize = 512

    /// The header blocks of one entry, to be followed by its content and `padding(after:)`.
    public static func header(_ entry: TreeEntry) -> [UInt8] {
        var path = entry.path
        if entry.kind == .directory { path.append(UInt8(ascii: "/")) }
        var records: [UInt8] = []
        if path.count > 100 { records += record("path", path) }
        if entry.target.count > 100 { records += record("linkpath", entry.target) }
        if entry.size > 0o77777777777 { records += record("size", Array(String(entry.size).utf8)) }
        var output: [UInt8] = []
        if !records.isEmpty {
            output += block(path: Array("PaxHeader".utf8), mode: 0o600, size: UInt64(records.count), type: "x", target: [], entry: entry)
            output += records
            output += padding(after: UInt64(records.count))
        }
        let type: Unicode.Scalar = switch entry.kind { case .file: "0"; case .directory: "5"; case .symlink: "2" }
        return output + block(path: path, mode: entry.mode, size: entry.size, type: type, target: entry.target, entry: entry)
    }

    /// Zeros that fill the last block of a content of `size` bytes.
    public static func padding(after size: UInt64) -> [UInt8] {
        [UInt8](repeating: 0, count: Int((512 - size % 512) % 512))
    }

    /// The two blocks that end a tar.
    public static let end = [UInt8](repeating: 0, count: 1024)

    private static func block(
        path: [UInt8], mode: UInt32, size: UInt64, type: Unicode.Scalar, target: [UInt8], entry: TreeEntry
    ) -> [UInt8] {
        var b = [UInt8](repeating: 0, count: 512)
        func put(_ bytes: some Collection<UInt8>, at offset: Int, limit: Int) {
            for (i, byte) in bytes.prefix(limit).enumerated() { b[offset + i] = byte }
        }
        func octal(_ value: UInt64, at offset: Int, digits: Int) {
            let text = String(min(value, (1 << (3 * UInt64(digits))) - 1), radix: 8)
            put((String(repeating: "0", count: max(0, digits - text.count)) + text).utf8, at: offset, limit: digits)
        }
        put(path, at: 0, limit: 100)
        octal(UInt64(mode), at: 100, digits: 7)
        octal(UInt64(entry.owner), at: 108, digits: 7)
        octal(UInt64(entry.group), at: 116, digits: 7)
        octal(size, at: 124, digits: 11)
        octal(UInt64(max(0, entry.modified.rawValue / 1_000_000_000)), at: 136, digits: 11)
        put(repeatElement(0x20, count: 8), at: 148, limit: 8)
        b[156] = UInt8(ascii: type)
        put(target, at: 157, limit: 100)
        put("ustar".utf8, at: 257, limit: 5)
        put("00".utf8, at: 263, limit: 2)
        let sum = b.reduce(0) { $0 + Int($1) }
        octal(UInt64(sum), at: 148, digits: 6)
        b[154] = 0
        b[155] = 0x20
        return b
    }

    /// `<length> <key>=<value>\n`, the length counting itself.
    private static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
        let body = key.utf8.count + value.count + 3
        var length = body + String(body).utf8.count
        while body + String(length).utf8.count != length { length = body + String(length).utf8.count }
        return Array("\(length) \(key)=".utf8) + value + [0x0A]
    }
}
