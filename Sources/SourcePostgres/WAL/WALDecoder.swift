import ArchiveCore
import Glibc

/// Checks WAL as it streams by, and picks out what the commit index needs.
///
/// It is fed with contiguous bytes from the beginning of a segment on, in portions of any size. A record that began before the first
/// segment is passed over unchecked; of every other record the CRC and the link to the record before are checked.
struct WALDecoder {
    let timeline: UInt32
    let segmentSize: UInt64
    /// Compared with the first page of every segment, when known.
    let systemID: UInt64?
    /// The first position not fed yet.
    private(set) var position: UInt64
    /// Events of records that were completed since the caller last emptied this.
    var events: [LogEvent] = []
    /// Where the last complete record begins.
    private(set) var lastRecord: UInt64?
    /// The first position after it.
    private(set) var lastRecordEnd: UInt64?
    private(set) var recordCount: UInt64 = 0
    private(set) var major = 0

    private enum State {
        /// At a multiple of 8 a record begins.
        case between
        /// Inside the record at `recordStart`.
        case inside
        /// Inside a record that began before the first segment.
        case passing(remaining: UInt64)
        /// Behind a switch record: zeros to the end of the segment.
        case switched
    }
    private var state = State.between
    private var header: [UInt8] = []
    private var pageTimeline: UInt32 = 0
    private var magic: UInt16 = 0
    private var fresh = true
    private var recordStart: UInt64 = 0
    private var recordLength: UInt64 = 0
    private var filled: UInt64 = 0
    /// The record's header, as far as it is there, and what was read of the rest.
    private var kept: [UInt8] = []
    private var content: TransactionRecord?
    private var crc = CRC32C()

    /// Whether everything fed so far belongs to a record that began before.
    var isPassing: Bool { if case .passing = state { true } else { false } }
    /// Whether the first byte fed belongs to such a record.
    private(set) var beganInside = false

    /// - Precondition: `start` is the beginning of a segment.
    init(start: UInt64, timeline: UInt32, segmentSize: UInt64, systemID: UInt64?) {
        precondition(start % segmentSize == 0)
        self.timeline = timeline
        self.segmentSize = segmentSize
        self.systemID = systemID
        position = start
        header.reserveCapacity(WALFormat.longHeader)
    }

    /// Checks the next bytes of the log. After an error the decoder is of no further use.
    mutating func feed(_ bytes: UnsafeRawBufferPointer) throws {
        var at = 0
        while at < bytes.count {
            let inPage = Int(position & (WALFormat.pageSize - 1))
            let headerSize = (position - UInt64(inPage)) & (segmentSize - 1) == 0 ? WALFormat.longHeader : WALFormat.shortHeader
            if inPage < headerSize {
                at += try gatherHeader(bytes, from: at, size: headerSize)
                continue
            }
            let available = min(bytes.count - at, Int(WALFormat.pageSize) - inPage)
            let window = UnsafeRawBufferPointer(rebasing: bytes[at..<at + available])
            at += try consume(window)
        }
    }

    /// Takes bytes of one page, behind its header. - Returns: how many.
    @inline(__always)
    private mutating func consume(_ window: UnsafeRawBufferPointer) throws -> Int {
        switch state {
        case .between:
            let padding = Int(WALFormat.aligned(position) - position)
            if padding > 0 {
                let n = min(padding, window.count)
                position += UInt64(n)
                return n
            }
            recordStart = position
            filled = 0
            recordLength = 0
            if window.count >= WALFormat.recordHeader {
                let length = UInt64(window.number(0, as: UInt32.self))
                if length >= WALFormat.recordHeader, length <= window.count {
                    try complete(UnsafeRawBufferPointer(rebasing: window[0..<Int(length)]), length: length)
                    return Int(length)
                }
            }
            kept.removeAll(keepingCapacity: true)
            content = nil
            crc = CRC32C()
            state = .inside
            return try gather(window)
        case .inside: return try gather(window)
        case .passing(let remaining):
            let n = min(Int(remaining), window.count)
            position += UInt64(n)
            state = Int(remaining) == n ? .between : .passing(remaining: remaining - UInt64(n))
            return n
        case .switched:
            guard isZero(window) else {
                throw WALFormat.damaged(
                    position + UInt64(window.prefix { $0 == 0 }.count), "the rest of a segment behind a switch is not empty")
            }
            position += UInt64(window.count)
            if position & (segmentSize - 1) == 0 { state = .between }
            return window.count
        }
    }

    /// Takes a part of a record that does not lie in the window as a whole.
    private mutating func gather(_ window: UnsafeRawBufferPointer) throws -> Int {
        var taken = 0
        // The header first: its CRC counts last.
        if filled < WALFormat.recordHeader {
            taken = min(WALFormat.recordHeader - Int(filled), window.count)
            kept.append(contentsOf: window[0..<taken])
            filled += UInt64(taken)
            position += UInt64(taken)
            if recordLength == 0, filled >= 4 {
                recordLength = UInt64(kept.withUnsafeBytes { $0.number(0, as: UInt32.self) })
                guard recordLength >= WALFormat.recordHeader else {
                    throw WALFormat.damaged(recordStart, "a record has the impossible length \(recordLength)")
                }
            }
            guard filled >= WALFormat.recordHeader else { return taken }
            content = kept.withUnsafeBytes { TransactionRecord(header: $0, major: major) }
        }
        let n = min(Int(recordLength - filled), window.count - taken)
        if n > 0 {
            let part = UnsafeRawBufferPointer(rebasing: window[taken..<taken + n])
            crc.update(part)
            content?.feed(part)
            filled += UInt64(n)
            position += UInt64(n)
            taken += n
        }
        if filled == recordLength {
            let header = kept
            let found = content?.event(start: recordStart, end: WALFormat.aligned(position))
            try header.withUnsafeBytes { raw in try finish(raw, body: crc, event: found) }
        }
        return taken
    }

    @inline(__always)
    private mutating func complete(_ record: UnsafeRawBufferPointer, length: UInt64) throws {
        var body = CRC32C()
        body.update(UnsafeRawBufferPointer(rebasing: record[WALFormat.recordHeader...]))
        position += length
        let found = TransactionRecord.event(record, start: recordStart, end: WALFormat.aligned(position), major: major)
        try finish(record, body: body, event: found)
    }

    /// Checks a record that is there as a whole; `bytes` begin with its header, `event` is what it means if it is right.
    private mutating func finish(_ bytes: UnsafeRawBufferPointer, body: CRC32C, event: LogEvent?) throws {
        var sum = body
        sum.update(UnsafeRawBufferPointer(rebasing: bytes[0..<20]))
        let expected: UInt32 = bytes.number(20)
        guard sum.value == expected else {
            throw WALFormat.damaged(recordStart, "a record's CRC is \(hex(UInt64(sum.value), 8)) instead of \(hex(UInt64(expected), 8))")
        }
        let previous: UInt64 = bytes.number(8)
        if let lastRecord {
            guard previous == lastRecord else {
                throw WALFormat.damaged(
                    recordStart, "a record follows \(LSN(rawValue: previous)), but the one before begins at \(LSN(rawValue: lastRecord))")
            }
        } else if previous >= recordStart {
            throw WALFormat.damaged(recordStart, "a record says that it follows \(LSN(rawValue: previous))")
        }
        lastRecord = recordStart
        lastRecordEnd = WALFormat.aligned(position)
        recordCount += 1
        state = .between
        if let event { events.append(event) }
        if bytes[17] == WALFormat.resourceManagerXLog, bytes[16] & 0xF0 == WALFormat.infoSwitch {
            lastRecordEnd = (recordStart / segmentSize + 1) * segmentSize
            if position & (segmentSize - 1) != 0 { state = .switched }
        }
    }

    private mutating func gatherHeader(_ bytes: UnsafeRawBufferPointer, from at: Int, size: Int) throws -> Int {
        let n = min(size - header.count, bytes.count - at)
        header.append(contentsOf: bytes[at..<at + n])
        position += UInt64(n)
        guard header.count == size else { return n }
        let copy = header
        header.removeAll(keepingCapacity: true)
        try copy.withUnsafeBytes { raw in try checkHeader(raw, page: position - UInt64(size)) }
        return n
    }

    private mutating func checkHeader(_ h: UnsafeRawBufferPointer, page: UInt64) throws {
        if case .switched = state, h.allSatisfy({ $0 == 0 }) { return }
        let magic: UInt16 = h.number(0)
        let flags: UInt16 = h.number(2)
        if self.magic == 0 {
            guard let major = WALFormat.majors[magic] else {
                if magic > 0xD118, magic < 0xD180 {
                    throw ArchiveError(
                        .sourceUnsupported,
                        "The WAL at \(LSN(rawValue: page)) has page magic \(hex(UInt64(magic))), of a PostgreSQL newer than 18.",
                        remedy: "Use a Tidemark that knows this version.")
                }
                throw WALFormat.damaged(page, "the page magic is \(hex(UInt64(magic), 4))")
            }
            self.magic = magic
            self.major = major
        }
        guard magic == self.magic else {
            throw WALFormat.damaged(page, "the page magic is \(hex(UInt64(magic), 4)) instead of \(hex(UInt64(self.magic), 4))")
        }
        let isLong = h.count == WALFormat.longHeader
        guard flags & ~WALFormat.knownFlags == 0, (flags & WALFormat.hasLongHeader != 0) == isLong else {
            throw WALFormat.damaged(page, "the page's flags are \(hex(UInt64(flags), 4))")
        }
        let address: UInt64 = h.number(8)
        guard address == page else { throw WALFormat.damaged(page, "the page says that it belongs at \(LSN(rawValue: address))") }
        let tli: UInt32 = h.number(4)
        guard tli > 0, tli <= timeline, tli >= pageTimeline else {
            throw WALFormat.damaged(page, "the page is of timeline \(tli), after \(pageTimeline), in the log of timeline \(timeline)")
        }
        pageTimeline = tli
        if isLong {
            let system: UInt64 = h.number(24)
            if let systemID, system != systemID {
                throw ArchiveError(
                    .twoHistories,
                    "The WAL at \(LSN(rawValue: page)) is of the cluster with system identifier \(system) instead of \(systemID).")
            }
            let size: UInt32 = h.number(32)
            let block: UInt32 = h.number(36)
            guard size == segmentSize, block == WALFormat.pageSize else {
                throw WALFormat.damaged(page, "segment size \(size) and block size \(block) instead of \(segmentSize) and 8192")
            }
        }
        try checkContinuation(flags: flags, remaining: UInt64(h.number(16, as: UInt32.self)), page: page)
        fresh = false
    }

    /// Compares what the page says about its first record with what came before.
    private mutating func checkContinuation(flags: UInt16, remaining: UInt64, page: UInt64) throws {
        let continues = flags & WALFormat.firstIsContinuation != 0
        guard continues == (remaining > 0) else {
            throw WALFormat.damaged(page, "the page continues a record with \(remaining) bytes and flags \(hex(UInt64(flags), 4))")
        }
        if flags & WALFormat.firstIsOverwrite != 0 {
            // The server crashed within a record and gave up its beginning.
            if continues { throw WALFormat.damaged(page, "the page both continues and abandons a record") }
            state = .between
            return
        }
        let expected: UInt64
        switch state {
        case .between: expected = 0
        case .inside: expected = recordLength - filled
        case .passing(let left): expected = left
        case .switched: return
        }
        if fresh {
            if remaining > 0 {
                state = .passing(remaining: remaining)
                beganInside = true
            }
        } else if remaining != expected {
            throw WALFormat.damaged(page, "the page continues a record with \(remaining) bytes where \(expected) are left")
        }
    }
}

/// Whether all bytes are 0: the first one is, and each is as the one before it. Calls `memcmp`.
private func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let start = bytes.baseAddress, bytes.count > 0 else { return true }
    return bytes[0] == 0 && memcmp(start, start + 1, bytes.count - 1) == 0
}
