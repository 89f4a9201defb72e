import ArchiveCore

/// What the commit index wants of one record, read as the record's bytes go by: however large it is, little of it is kept.
///
/// It believes nothing that the record says about itself: whatever does not fit into the record ends the reading, and what was found
/// until then counts.
struct TransactionRecord {
    /// Dropped relations that are named at most; all of them are counted.
    static let namedRelations = 32
    /// Bytes of the longest message that can be a fence.
    private static let longestFence = 256
    private static let fencePrefix = Array("tidemark\0".utf8)
    private static let fenceWord = Array("fence ".utf8)

    private static let hasInfo: UInt8 = 0x80
    private static let hasDatabase: UInt32 = 1
    private static let hasSubtransactions: UInt32 = 2
    private static let hasRelations: UInt32 = 4
    private static let hasInvalidations: UInt32 = 8
    private static let hasTwoPhase: UInt32 = 16
    private static let hasDroppedStatistics: UInt32 = 256
    private static let order: [(UInt32, Part)] = [
        (hasSubtransactions, .subtransactions), (hasRelations, .relations), (hasDroppedStatistics, .statistics),
        (hasInvalidations, .invalidations), (hasTwoPhase, .twoPhase),
    ]

    private enum Part {
        case blockID, shortLength, longLength
        case restorePoint, prepare, time, flags
        case subtransactions, relations, relationNames, statistics, invalidations, twoPhase
        case messageHead, message
    }

    private let info: UInt8
    private let manager: UInt8
    private let major: Int
    private var part = Part.blockID
    /// Bytes to pass over, and then to be given to `take` together; 0 when nothing more is of interest.
    private var skipping = 0
    private var wanted = 1
    private var gathered: [UInt8] = []
    /// Bytes of the main data that are not spoken for; before it begins there is no limit.
    private var left = Int.max
    private var sections: UInt32 = 0
    private var relationCount = 0

    private var kind: LogEvent.Kind?
    private var time = Moment(rawValue: 0)
    private var number: UInt64
    private var flags: LogEvent.Flags = []
    private var subject = ""
    private var details: [String] = []

    /// - Parameter header: at least the 24 bytes that every record begins with.
    /// - Returns: `nil` when the record is of no interest.
    init?(header: UnsafeRawBufferPointer, major: Int) {
        guard Self.isOfInterest(info: header[16], manager: header[17]) else { return nil }
        info = header[16]
        manager = header[17]
        self.major = major
        number = UInt64(header.number(4, as: UInt32.self))
    }

    @inline(__always)
    private static func isOfInterest(info: UInt8, manager: UInt8) -> Bool {
        switch manager {
        case WALFormat.resourceManagerXLog: info & 0xF0 == WALFormat.infoRestorePoint
        case WALFormat.resourceManagerTransaction: info & 0x70 <= 0x40
        case WALFormat.resourceManagerMessage: info & 0xF0 == WALFormat.infoMessage
        default: false
        }
    }

    /// The event of a record that is there as a whole, or `nil` when it is of no interest.
    static func event(_ bytes: UnsafeRawBufferPointer, start: UInt64, end: UInt64, major: Int) -> LogEvent? {
        // Nearly every record ends here.
        guard isOfInterest(info: bytes[16], manager: bytes[17]), var record = TransactionRecord(header: bytes, major: major) else { return nil }
        record.feed(UnsafeRawBufferPointer(rebasing: bytes[WALFormat.recordHeader...]))
        return record.event(start: start, end: end)
    }

    /// What was found, or `nil` when the record turned out to be of no interest.
    func event(start: UInt64, end: UInt64) -> LogEvent? {
        kind.map {
            LogEvent(span: 0, start: start, end: end, time: time, kind: $0, flags: flags, number: number, subject: subject, details: details)
        }
    }

    /// Takes the next bytes behind the record's header.
    mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        var at = 0
        while at < bytes.count, wanted > 0 {
            if skipping > 0 {
                let n = min(skipping, bytes.count - at)
                skipping -= n
                at += n
            } else if gathered.isEmpty, bytes.count - at >= wanted {
                let n = wanted
                take(UnsafeRawBufferPointer(rebasing: bytes[at..<at + n]))
                at += n
            } else {
                let n = min(wanted - gathered.count, bytes.count - at)
                gathered.append(contentsOf: bytes[at..<at + n])
                at += n
                guard gathered.count == wanted else { continue }
                let whole = gathered
                gathered.removeAll(keepingCapacity: true)
                whole.withUnsafeBytes { take($0) }
            }
        }
    }

    /// Goes on with `count` bytes of main data, or ends where the record has fewer.
    private mutating func want(_ next: Part, _ count: Int) {
        guard wanted > 0, count > 0, count <= left else { return end() }
        left -= count
        part = next
        wanted = count
    }

    private mutating func skip(_ count: Int) {
        guard count <= left else { return end() }
        left -= count
        skipping += count
    }

    private mutating func end() {
        wanted = 0
        skipping = 0
    }

    private mutating func take(_ bytes: UnsafeRawBufferPointer) {
        switch part {
        case .blockID:
            switch bytes[0] {
            case 255: want(.shortLength, 1)
            case 254: want(.longLength, 4)
            case 253:
                skip(2)
                want(.blockID, 1)
            case 252:
                skip(4)
                want(.blockID, 1)
            default: end()
            }
        case .shortLength: begin(mainData: Int(bytes[0]))
        case .longLength: begin(mainData: Int(bytes.number(0, as: UInt32.self)))
        case .restorePoint:
            kind = .restorePoint
            time = Moment(postgresMicroseconds: bytes.number(0))
            subject = String(decoding: bytes[8...].prefix { $0 != 0 }, as: UTF8.self)
            end()
        case .prepare:
            kind = .prepare
            number = UInt64(bytes.number(8, as: UInt32.self))
            time = Moment(postgresMicroseconds: bytes.number(16))
            end()
        case .time:
            // A replication origin has a time of its own, which is not this server's.
            kind = info & 0x70 == 0x00 || info & 0x70 == 0x30 ? .commit : .abort
            time = Moment(postgresMicroseconds: bytes.number(0))
            if info & Self.hasInfo != 0 { want(.flags, 4) } else { end() }
        case .flags:
            sections = bytes.number(0)
            if sections & Self.hasDatabase != 0 { skip(8) }
            nextSection()
        case .subtransactions: pass(bytes, of: 4)
        case .relations:
            relationCount = Int(bytes.number(0, as: UInt32.self))
            guard kind == .commit else { return pass(bytes, of: 12) }
            guard relationCount > 0, relationCount * 12 <= left else { return pass(bytes, of: 12) }
            flags.insert(.drops)
            details = [String(relationCount)]
            want(.relationNames, min(relationCount, Self.namedRelations) * 12)
        case .relationNames:
            for i in stride(from: 0, to: bytes.count, by: 12) {
                let (space, database, number): (UInt32, UInt32, UInt32) = (bytes.number(i), bytes.number(i + 4), bytes.number(i + 8))
                details.append("\(space)/\(database)/\(number)")
            }
            skip(relationCount * 12 - bytes.count)
            nextSection()
        case .statistics: pass(bytes, of: major >= 18 ? 16 : 12)
        case .invalidations: pass(bytes, of: 16)
        case .twoPhase:
            number = UInt64(bytes.number(0, as: UInt32.self))
            end()
        case .messageHead:
            let prefix: UInt64 = bytes.number(8)
            let message: UInt64 = bytes.number(16)
            guard prefix == Self.fencePrefix.count, message <= Self.longestFence else { return end() }
            want(.message, Int(prefix + message))
        case .message:
            if bytes.starts(with: Self.fencePrefix) { takeFence(bytes[Self.fencePrefix.count...]) }
            end()
        }
    }

    private mutating func begin(mainData length: Int) {
        left = length
        switch (manager, info & 0x70) {
        case (WALFormat.resourceManagerXLog, _): if length > 8 { want(.restorePoint, min(length, 8 + 64)) } else { end() }
        case (WALFormat.resourceManagerMessage, _): want(.messageHead, 24)
        case (_, 0x10): want(.prepare, 24)
        default: want(.time, 8)
        }
    }

    /// Passes over an array whose count was read.
    private mutating func pass(_ count: UnsafeRawBufferPointer, of size: Int) {
        skip(Int(count.number(0, as: UInt32.self)) * size)
        nextSection()
    }

    /// The optional parts of a commit or abort, in the order in which they stand.
    private mutating func nextSection() {
        for (flag, next) in Self.order where sections & flag != 0 {
            sections &= ~flag
            return want(next, 4)
        }
        end()
    }

    /// `fence <id> <hex digest>` and nothing else.
    private mutating func takeFence(_ text: Slice<UnsafeRawBufferPointer>) {
        guard text.starts(with: Self.fenceWord) else { return }
        let words = text.dropFirst(Self.fenceWord.count).split(separator: 0x20, omittingEmptySubsequences: false)
        guard words.count == 2, (1...64).contains(words[0].count), words[0].allSatisfy({ isLetterOrDigit($0) || $0 == 0x2D }),
            (1...128).contains(words[1].count), words[1].allSatisfy({ UInt32(hexDigits: CollectionOfOne($0)) != nil })
        else { return }
        kind = .fence
        subject = String(decoding: words[0], as: UTF8.self)
        details = [String(decoding: words[1], as: UTF8.self)]
    }
}

private func isLetterOrDigit(_ c: UInt8) -> Bool {
    switch c {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
    default: false
    }
}
