import ArchiveCore

/// Writes WAL as a server would: records over pages and segments, with their CRCs.
struct WALBuilder {
    static let magics: [Int: UInt16] = [13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118]

    let start: UInt64
    let segmentSize: UInt64
    let timeline: UInt32
    let system: UInt64
    let major: Int
    private(set) var bytes: [UInt8] = []
    private var previous: UInt64 = 0

    var position: UInt64 { start + UInt64(bytes.count) }

    init(start: UInt64 = 1 << 20, segmentSize: UInt64 = 1 << 20, timeline: UInt32 = 1, system: UInt64 = 77, major: Int = 15) {
        self.start = start
        self.segmentSize = segmentSize
        self.timeline = timeline
        self.system = system
        self.major = major
    }

    /// Writes one record. - Returns: where it begins.
    @discardableResult
    mutating func append(manager: UInt8, info: UInt8, xid: UInt32 = 0, _ data: [UInt8], before: [UInt8] = []) -> UInt64 {
        let body = before + (data.isEmpty ? [] : data.count < 256 ? [255, UInt8(data.count)] : [254] + little(UInt32(data.count))) + data
        openPage(remaining: 0)
        let lsn = position
        let record = Self.record(manager: manager, info: info, xid: xid, previous: previous, body)
        previous = lsn
        var written = 0
        while written < record.count {
            openPage(remaining: written == 0 ? 0 : record.count - written)
            let n = min(record.count - written, Int(8192 - position % 8192))
            bytes += record[written..<written + n]
            written += n
        }
        bytes += [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8)
        return lsn
    }

    static func record(manager: UInt8, info: UInt8, xid: UInt32, previous: UInt64, _ body: [UInt8]) -> [UInt8] {
        let header = little(UInt32(24 + body.count)) + little(xid) + little(previous) + [info, manager, 0, 0]
        var crc = CRC32C()
        crc.update(body)
        crc.update(header)
        return header + little(crc.value) + body
    }

    /// Fills the segment as `pg_switch_wal()` does.
    mutating func switchSegment() {
        append(manager: 0, info: 0x40, [])
        bytes += [UInt8](repeating: 0, count: Int((segmentSize - position % segmentSize) % segmentSize))
    }

    private mutating func openPage(remaining: Int) {
        guard position % 8192 == 0 else { return }
        let isLong = position % segmentSize == 0
        let flags: UInt16 = (remaining > 0 ? 1 : 0) | (isLong ? 2 : 0)
        let header = little(Self.magics[major] ?? 0) + little(flags) + little(timeline) + little(position) + little(UInt32(remaining)) + little(UInt32(0))
        bytes += header + (isLong ? little(system) + little(UInt32(segmentSize)) + little(UInt32(8192)) : [])
    }

    /// The whole segments so far, by name.
    var segments: [(name: PieceName, content: [UInt8])] {
        let size = SegmentSize(bytes: segmentSize)!
        return stride(from: 0, to: bytes.count - bytes.count % Int(segmentSize), by: Int(segmentSize)).map { at in
            let name = SegmentName(timeline: TimelineID(rawValue: timeline)!, containing: LSN(rawValue: start + UInt64(at)), size: size)
            return (PieceName(branch: timeline, name: name.description), Array(bytes[at..<at + Int(segmentSize)]))
        }
    }
}

func little<T: FixedWidthInteger>(_ value: T) -> [UInt8] { withUnsafeBytes(of: value.littleEndian) { Array($0) } }

/// What a commit or abort can carry.
struct Ending {
    var time: Int64 = 1_000_000
    var database = false
    var subtransactions: [UInt32] = []
    var relations: [(UInt32, UInt32, UInt32)] = []
    var statistics = 0
    var invalidations = 0
    var prepared: UInt32?
    var origin: Int64?

    /// The record's main data, and the bit of its info that says whether there is more than the time.
    func encoded(major: Int) -> (info: UInt8, data: [UInt8]) {
        var flags: UInt32 = 0
        var rest: [UInt8] = []
        func array(_ flag: UInt32, _ count: Int, _ content: [UInt8]) {
            guard count > 0 else { return }
            flags |= flag
            rest += little(UInt32(count)) + content
        }
        if database {
            flags |= 1
            rest += little(UInt32(5)) + little(UInt32(1663))
        }
        array(2, subtransactions.count, subtransactions.withUnsafeBytes { Array($0) })
        array(4, relations.count, relations.flatMap { little($0.0) + little($0.1) + little($0.2) })
        array(256, statistics, [UInt8](repeating: 9, count: statistics * (major >= 18 ? 16 : 12)))
        array(8, invalidations, [UInt8](repeating: 8, count: invalidations * 16))
        if let prepared {
            flags |= 16
            rest += little(prepared)
        }
        if let origin {
            flags |= 32
            rest += little(UInt64(0x1234)) + little(origin)
        }
        return flags == 0 ? (0, little(time)) : (0x80, little(time) + little(flags) + rest)
    }
}

/// `xl_logical_message`.
func logicalMessage(_ prefix: [UInt8], _ message: [UInt8], transactional: Bool = false, prefixSize: UInt64? = nil, messageSize: UInt64? = nil) -> [UInt8] {
    little(UInt32(5)) + [transactional ? 1 : 0, 0, 0, 0] + little(prefixSize ?? UInt64(prefix.count)) + little(messageSize ?? UInt64(message.count)) + prefix
        + message
}
