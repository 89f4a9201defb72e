/// Why bytes could not be read as protobuf's wire format.
public struct WireError: Error, CustomStringConvertible, Sendable {
    /// Offset of the problem in the message that was read.
    public let offset: Int
    public let reason: String
    public var description: String { "byte \(offset): \(reason)" }

    public init(offset: Int, reason: String) {
        self.offset = offset
        self.reason = reason
    }
}

/// Reads protobuf's wire format field by field: https://protobuf.dev/programming-guides/encoding/.
///
/// Strict: a truncated field, a varint of more than ten bytes or 64 bits, field number 0 and groups are errors.
public struct WireReader {
    public enum Value {
        case number(UInt64)
        case bytes(ArraySlice<UInt8>)
        case fixed64(UInt64)
        case fixed32(UInt32)
    }

    private let bytes: ArraySlice<UInt8>
    private var position: Int

    public init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    public init(_ bytes: [UInt8]) { self.init(bytes[...]) }

    /// The next field, or `nil` at the end.
    public mutating func next() throws(WireError) -> (field: UInt32, value: Value)? {
        guard position < bytes.endIndex else { return nil }
        let tag = try varint()
        let field = tag >> 3
        guard field > 0, field <= 0x1FFF_FFFF else { throw error("field number \(field) is not allowed") }
        switch tag & 7 {
        case 0: return (UInt32(field), .number(try varint()))
        case 1: return (UInt32(field), .fixed64(try fixed(8)))
        case 2:
            let count = try varint()
            guard count <= UInt64(bytes.endIndex - position) else {
                throw error("field \(field) of \(count) bytes where \(bytes.endIndex - position) are left")
            }
            defer { position += Int(count) }
            return (UInt32(field), .bytes(bytes[position..<position + Int(count)]))
        case 5: return (UInt32(field), .fixed32(UInt32(try fixed(4))))
        default: throw error("wire type \(tag & 7) is not supported")
        }
    }

    /// A varint outside of any field, as in length-delimited streams.
    public mutating func varint() throws(WireError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            guard position < bytes.endIndex else { throw error("truncated varint") }
            let byte = bytes[position]
            position += 1
            guard shift < 63 || byte <= 1 else { throw error("varint wider than 64 bits") }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
    }

    public var isAtEnd: Bool { position == bytes.endIndex }

    private mutating func fixed(_ count: Int) throws(WireError) -> UInt64 {
        guard count <= bytes.endIndex - position else { throw error("truncated number") }
        var value: UInt64 = 0
        for i in (0..<count).reversed() { value = value << 8 | UInt64(bytes[position + i]) }
        position += count
        return value
    }

    private func error(_ reason: String) -> WireError { WireError(offset: position - bytes.startIndex, reason: reason) }
}

extension WireReader.Value {
    public func number(_ what: String) throws(WireError) -> UInt64 {
        guard case .number(let n) = self else { throw WireError(offset: 0, reason: "\(what) is not a varint") }
        return n
    }

    public func bytes(_ what: String) throws(WireError) -> ArraySlice<UInt8> {
        guard case .bytes(let b) = self else { throw WireError(offset: 0, reason: "\(what) is not a byte field") }
        return b
    }

    /// - Throws: `WireError` unless the bytes are UTF-8.
    public func text(_ what: String) throws(WireError) -> String {
        guard let text = String(validating: try bytes(what), as: UTF8.self) else {
            throw WireError(offset: 0, reason: "\(what) is not UTF-8")
        }
        return text
    }
}

/// Writes protobuf's wire format. Zero numbers and empty byte fields are left out, as proto3 does.
public struct WireWriter {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func varint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(value))
    }

    public mutating func number(_ field: UInt32, _ value: UInt64) {
        guard value != 0 else { return }
        varint(UInt64(field) << 3)
        varint(value)
    }

    /// A signed number, zig-zag encoded (protobuf's `sint64`).
    public mutating func signed(_ field: UInt32, _ value: Int64) {
        number(field, UInt64(bitPattern: value << 1 ^ value >> 63))
    }

    public mutating func data(_ field: UInt32, _ value: some Collection<UInt8>) {
        guard !value.isEmpty else { return }
        element(field, value)
    }

    public mutating func text(_ field: UInt32, _ value: String) { data(field, value.utf8) }

    /// A byte field that is written even when empty: an element of a repeated field.
    public mutating func element(_ field: UInt32, _ value: some Collection<UInt8>) {
        varint(UInt64(field) << 3 | 2)
        varint(UInt64(value.count))
        bytes.append(contentsOf: value)
    }

    /// The fields of another message, as if they had been written here.
    public mutating func append(_ other: WireWriter) { bytes += other.bytes }

    public mutating func message(_ field: UInt32, _ build: (inout WireWriter) -> Void) {
        var inner = WireWriter()
        build(&inner)
        element(field, inner.bytes)
    }
}

/// Undoes zig-zag encoding.
public func zigZag(_ value: UInt64) -> Int64 { Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1) }
