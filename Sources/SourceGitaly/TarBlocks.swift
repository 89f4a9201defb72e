import ArchiveCore

/// Members of plain tars, as far as entries need them: directories and regular files with short names.
enum TarBlocks {
    struct Member {
        var name: String
        var isDirectory: Bool
        var mode: UInt32
        /// Whole seconds since 1970.
        var modified: Int64
        var content: ArraySlice<UInt8>
    }

    /// Appends one member; `name` has at most 100 bytes.
    static func append(_ name: String, isDirectory: Bool, mode: UInt32, modified: Int64, content: [UInt8], to output: inout [UInt8]) {
        precondition(name.utf8.count <= 100)
        var b = [UInt8](repeating: 0, count: 512)
        func put(_ bytes: some Collection<UInt8>, _ offset: Int) {
            var at = offset
            for byte in bytes {
                b[at] = byte
                at += 1
            }
        }
        func octal(_ value: UInt64, _ offset: Int, _ digits: Int) {
            var rest = value
            for at in stride(from: offset + digits - 1, through: offset, by: -1) {
                b[at] = 0x30 + UInt8(rest & 7)
                rest >>= 3
            }
        }
        put(name.utf8, 0)
        octal(UInt64(mode), 100, 7)
        octal(0, 108, 7)
        octal(0, 116, 7)
        octal(UInt64(content.count), 124, 11)
        octal(UInt64(max(0, modified)), 136, 11)
        put(repeatElement(0x20, count: 8), 148)
        b[156] = isDirectory ? 0x35 : 0x30
        put("ustar".utf8, 257)
        put("00".utf8, 263)
        octal(checksum(b[...]), 148, 6)
        b[154] = 0
        output += b
        output += content
        output += repeatElement(0, count: (512 - content.count % 512) % 512)
    }

    /// Reads every member of a tar; pax records that Go writes are understood for path, size and time.
    ///
    /// - Throws: `WireError` for anything truncated or of another type.
    static func members(of bytes: [UInt8]) throws(WireError) -> [Member] {
        var members: [Member] = []
        var at = 0
        var pax: [String: String] = [:]
        while at < bytes.count {
            guard at + 512 <= bytes.count else { throw WireError(offset: at, reason: "the tar ends inside a header") }
            let header = bytes[at..<at + 512]
            if header[at] == 0, header.allSatisfy({ $0 == 0 }) { break }
            func field(_ offset: Int, _ count: Int) -> ArraySlice<UInt8> { header[(at + offset)..<(at + offset + count)].prefix { $0 != 0 } }
            func octal(_ offset: Int, _ count: Int) throws(WireError) -> UInt64 {
                var value: UInt64 = 0
                var digits = 0
                for byte in field(offset, count) where byte != 0x20 {
                    guard (0x30...0x37).contains(byte), digits < 21 else { throw WireError(offset: at + offset, reason: "a number of a tar header is damaged") }
                    value = value << 3 | UInt64(byte - 0x30)
                    digits += 1
                }
                guard digits > 0 else { throw WireError(offset: at + offset, reason: "a number of a tar header is damaged") }
                return value
            }
            let sum = checksum(header)
            guard try octal(148, 8) == sum else { throw WireError(offset: at, reason: "a tar header's checksum is wrong") }
            var size = try octal(124, 12)
            if let text = pax["size"] {
                guard let value = UInt64(text) else { throw WireError(offset: at, reason: "a pax size is damaged") }
                size = value
            }
            let start = at + 512
            // The last block is filled up with zeros.
            guard size <= UInt64(bytes.count - start), Int(size) + (512 - Int(size) % 512) % 512 <= bytes.count - start else {
                throw WireError(offset: at, reason: "a member of \(size) bytes where \(bytes.count - start) are left")
            }
            let content = bytes[start..<start + Int(size)]
            let prefix = String(decoding: field(345, 155), as: UTF8.self)
            let name = pax["path"] ?? (prefix.isEmpty ? "" : prefix + "/") + String(decoding: field(0, 100), as: UTF8.self)
            let written = Int64(clamping: try octal(136, 12))
            let seconds = pax["mtime"].flatMap { Int64($0.prefix { $0 != "." }) } ?? written
            switch header[at + 156] {
            case 0x78: pax = try paxRecords(content)
            case 0x67: break
            case 0x30, 0, 0x35:
                members.append(
                    Member(
                        name: name, isDirectory: header[at + 156] == 0x35, mode: UInt32(truncatingIfNeeded: try octal(100, 8)),
                        modified: seconds, content: content))
                pax = [:]
            default: throw WireError(offset: at, reason: "a member of type \(header[at + 156]) does not belong here")
            }
            at = start + Int(size) + (512 - Int(size) % 512) % 512
        }
        return members
    }

    /// The sum of a header's bytes, with its own field taken as spaces.
    private static func checksum(_ header: ArraySlice<UInt8>) -> UInt64 {
        header.withUnsafeBufferPointer { bytes in
            var sum: UInt64 = 8 * 0x20
            for i in 0..<148 { sum += UInt64(bytes[i]) }
            for i in 156..<512 { sum += UInt64(bytes[i]) }
            return sum
        }
    }

    private static func paxRecords(_ content: ArraySlice<UInt8>) throws(WireError) -> [String: String] {
        var records: [String: String] = [:]
        var rest = content
        while !rest.isEmpty {
            guard let space = rest.firstIndex(of: 0x20), let length = Int(String(decoding: rest[..<space], as: UTF8.self)), length > space - rest.startIndex + 1,
                length <= rest.count
            else { throw WireError(offset: rest.startIndex, reason: "a pax record is damaged") }
            let record = String(decoding: rest[(space + 1)..<(rest.startIndex + length - 1)], as: UTF8.self)
            if let equals = record.firstIndex(of: "=") { records[String(record[..<equals])] = String(record[record.index(after: equals)...]) }
            rest = rest.dropFirst(length)
        }
        return records
    }
}
