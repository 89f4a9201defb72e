/// The name of an object in an archive: parts of `A–Z a–z 0–9 . _ - + @ =` joined by `/`; no part is empty, `.` or `..`.
public struct ObjectKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// No object is larger: 1 GiB of WAL that does not compress, and a little.
    public static let maximumSize = (1 << 30) + (1 << 24)
    public let path: String

    /// Bytes that an object of this name has at most, so that an answer without an end is not collected as if it were a segment:
    /// 1 MiB for the archive's identity and the small records of sources, watermarks, leases and probes; 64 MiB for other records; else `maximumSize`,
    /// as also for the record of a base, which names every part of it.
    public var largestSize: Int {
        if path == "tidemark.json" || ["sources/", "watermarks/", "leases/", "probe/"].contains(where: path.hasPrefix) { return 1 << 20 }
        return path.hasSuffix(".json") && !path.hasPrefix("bases/") ? 64 << 20 : Self.maximumSize
    }

    /// - Returns: `nil` when `path` breaks the rules above or is longer than 900 bytes.
    public init?(_ path: String) {
        var path = path
        guard path.utf8.count <= 900, path.withUTF8(isKey) else { return nil }
        self.path = path
    }

    /// A key built by our own code from parts already checked.
    ///
    /// - Precondition: `path` is a key.
    public init(known path: String) {
        guard let key = ObjectKey(path) else { preconditionFailure("not an object key: \(path)") }
        self = key
    }

    public var description: String { path }
    /// Byte order, which is also the order in which stores list.
    public static func < (a: ObjectKey, b: ObjectKey) -> Bool { a.path.utf8.lexicographicallyPrecedes(b.path.utf8) }
}

private func isKey(_ path: UnsafeBufferPointer<UInt8>) -> Bool {
    // Bytes of the part so far, and whether all of them were dots.
    var length = 0
    var isDots = true
    for byte in path {
        switch byte {
        case UInt8(ascii: "/"):
            if length == 0 || length > 200 || isDots && length <= 2 { return false }
            length = 0
            isDots = true
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "@"), UInt8(ascii: "="):
            length += 1
            isDots = false
        case UInt8(ascii: "."): length += 1
        default: return false
        }
    }
    return !(length == 0 || length > 200 || isDots && length <= 2)
}
