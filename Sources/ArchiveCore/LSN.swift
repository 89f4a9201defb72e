/// A byte position in PostgreSQL's write-ahead log, written `16/B374D848`.
public struct LSN: RawRepresentable, Hashable, Comparable, Sendable, LosslessStringConvertible, Codable {
    /// Bytes since the beginning of the log.
    public let rawValue: UInt64

    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// - Returns: `nil` unless `text` is two runs of 1 to 8 hexadecimal digits around one `/`.
    public init?(_ text: String) {
        let halves = text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard halves.count == 2, let high = UInt32(hexDigits: halves[0]), let low = UInt32(hexDigits: halves[1])
        else { return nil }
        rawValue = UInt64(high) << 32 | UInt64(low)
    }

    public var description: String { "\(hex(rawValue >> 32))/\(hex(rawValue & 0xFFFF_FFFF))" }

    public static func < (a: LSN, b: LSN) -> Bool { a.rawValue < b.rawValue }
    public static func + (a: LSN, bytes: UInt64) -> LSN { LSN(rawValue: a.rawValue + bytes) }
}

/// A PostgreSQL timeline, 1 or more.
public struct TimelineID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible, Codable {
    public let rawValue: UInt32

    /// - Returns: `nil` for 0.
    public init?(rawValue: UInt32) {
        guard rawValue > 0 else { return nil }
        self.rawValue = rawValue
    }

    public var description: String { String(rawValue) }
    public static func < (a: TimelineID, b: TimelineID) -> Bool { a.rawValue < b.rawValue }
}

/// The size of a WAL segment, a power of two from 1 MiB to 1 GiB.
public struct SegmentSize: Hashable, Sendable, Codable {
    public let bytes: UInt64

    /// - Returns: `nil` unless `bytes` is a power of two from 1 MiB to 1 GiB.
    public init?(bytes: UInt64) {
        guard bytes >= 1 << 20, bytes <= 1 << 30, bytes & (bytes - 1) == 0 else { return nil }
        self.bytes = bytes
    }

    /// Segments in 4 GiB of log: the range of a segment name's last part.
    var perLogID: UInt64 { 0x1_0000_0000 / bytes }
}

/// The 24 hexadecimal digits by which PostgreSQL names a segment. They mean a position only together with a segment size.
public struct SegmentName: Hashable, Sendable, CustomStringConvertible {
    public let timeline: TimelineID
    /// Number of the segment since the beginning of the log.
    public let index: UInt64
    public let size: SegmentSize

    /// The segment of `timeline` that contains `lsn`.
    public init(timeline: TimelineID, containing lsn: LSN, size: SegmentSize) {
        self.timeline = timeline
        self.size = size
        index = lsn.rawValue / size.bytes
    }

    /// - Returns: `nil` unless `text` is 24 upper-case hexadecimal digits that name a segment of this size.
    public init?(_ text: String, size: SegmentSize) {
        let digits = Array(text.utf8)
        guard digits.count == 24, !digits.contains(where: { $0 >= UInt8(ascii: "a") }),
            let raw = UInt32(hexDigits: digits[0..<8]), let timeline = TimelineID(rawValue: raw),
            let log = UInt32(hexDigits: digits[8..<16]), let segment = UInt32(hexDigits: digits[16..<24]),
            UInt64(segment) < size.perLogID
        else { return nil }
        self.timeline = timeline
        self.size = size
        index = UInt64(log) * size.perLogID + UInt64(segment)
    }

    public var start: LSN { LSN(rawValue: index * size.bytes) }
    /// The first position after the segment.
    public var end: LSN { LSN(rawValue: (index + 1) * size.bytes) }
    public var next: SegmentName { SegmentName(timeline: timeline, containing: end, size: size) }

    public var description: String {
        hex(UInt64(timeline.rawValue), 8) + hex(index / size.perLogID, 8) + hex(index % size.perLogID, 8)
    }
}

/// `value` in upper-case hexadecimal, padded with zeros to `width`.
public func hex(_ value: UInt64, _ width: Int = 1) -> String {
    let digits = String(value, radix: 16, uppercase: true)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
}

extension UInt32 {
    /// - Returns: `nil` unless `digits` is 1 to 8 hexadecimal digits and nothing else.
    public init?(hexDigits digits: some Collection<UInt8>) {
        guard (1...8).contains(digits.count) else { return nil }
        var value: UInt32 = 0
        for digit in digits {
            switch digit {
            case 0x30...0x39: value = value << 4 | UInt32(digit - 0x30)
            case 0x41...0x46: value = value << 4 | UInt32(digit - 0x41 + 10)
            case 0x61...0x66: value = value << 4 | UInt32(digit - 0x61 + 10)
            default: return nil
            }
        }
        self = value
    }
}
