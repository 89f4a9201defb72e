/// A position in the log of one Gitaly partition: 13 digits of base 36, `0-9a-z`, so that text order is numeric order.
public struct PartitionLSN: RawRepresentable, Hashable, Comparable, Sendable, LosslessStringConvertible {
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// - Returns: `nil` unless `text` is exactly 13 lower-case base-36 digits that fit 64 bits.
    public init?(_ text: String) {
        let digits = text.utf8
        guard digits.count == 13, digits.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x7A).contains($0) }),
            let value = UInt64(text, radix: 36)
        else { return nil }
        rawValue = value
    }

    public var description: String {
        let digits = String(rawValue, radix: 36)
        return String(repeating: "0", count: 13 - digits.count) + digits
    }

    public static func < (a: PartitionLSN, b: PartitionLSN) -> Bool { a.rawValue < b.rawValue }
}
