import ArchiveCore

/// What the commit index wants of a record that ends a transaction or names a restore point.
enum TransactionRecord {
    private static let hasInfo: UInt8 = 0x80
    private static let hasDatabase: UInt32 = 1
    private static let hasSubtransactions: UInt32 = 2
    private static let hasRelations: UInt32 = 4
    private static let hasInvalidations: UInt32 = 8
    private static let hasTwoPhase: UInt32 = 16
    private static let hasDroppedStatistics: UInt32 = 256

    /// The event of the record that begins with `bytes` (all of it, or as much as was kept), or `nil` when it is of no interest.
    static func event(_ bytes: UnsafeRawBufferPointer, start: UInt64, end: UInt64, major: Int) -> LogEvent? {
        let info = bytes[16]
        let manager = bytes[17]
        if manager == WALFormat.resourceManagerXLog {
            guard info & 0xF0 == WALFormat.infoRestorePoint, let data = mainData(bytes), data.count >= 9 else { return nil }
            let name = data[(data.startIndex + 8)...].prefix { $0 != 0 }
            return LogEvent(
                span: 0, start: start, end: end, time: Moment(postgresMicroseconds: UnsafeRawBufferPointer(rebasing: data).number(0)),
                kind: .restorePoint, subject: String(decoding: name.prefix(64), as: UTF8.self))
        }
        guard manager == WALFormat.resourceManagerTransaction else { return nil }
        let kind: LogEvent.Kind
        switch info & 0x70 {
        case 0x00, 0x30: kind = .commit
        case 0x20, 0x40: kind = .abort
        default: return nil
        }
        guard let slice = mainData(bytes), slice.count >= 8 else { return nil }
        let data = UnsafeRawBufferPointer(rebasing: slice)
        var event = LogEvent(
            span: 0, start: start, end: end, time: Moment(postgresMicroseconds: data.number(0)), kind: kind,
            number: UInt64(bytes.number(4, as: UInt32.self)))
        guard info & hasInfo != 0, data.count >= 12 else { return event }
        var walk = Walk(data: data, position: 12)
        let flags: UInt32 = data.number(8)
        if flags & hasDatabase != 0 { walk.skip(8) }
        if flags & hasSubtransactions != 0 { walk.skipArray(of: 4) }
        if flags & hasRelations != 0 {
            let count = walk.skipArray(of: 12)
            if count > 0 {
                event.flags.insert(.drops)
                event.details = [String(count)]
            }
        }
        if flags & hasDroppedStatistics != 0 { walk.skipArray(of: major >= 18 ? 16 : 12) }
        if flags & hasInvalidations != 0 { walk.skipArray(of: 16) }
        if flags & hasTwoPhase != 0, let xid = walk.number() { event.number = UInt64(xid) }
        return event
    }

    /// The main data of a record without block references; `nil` when it has some, or was not kept that far.
    private static func mainData(_ bytes: UnsafeRawBufferPointer) -> Slice<UnsafeRawBufferPointer>? {
        var at = WALFormat.recordHeader
        while at < bytes.count {
            switch bytes[at] {
            case 255:
                guard at + 2 <= bytes.count else { return nil }
                let length = Int(bytes[at + 1])
                return bytes[(at + 2)..<min(bytes.count, at + 2 + length)]
            case 254:
                guard at + 5 <= bytes.count else { return nil }
                let length = Int(bytes.number(at + 1, as: UInt32.self))
                return bytes[(at + 5)..<min(bytes.count, at + 5 + length)]
            case 253: at += 3
            case 252: at += 5
            default: return nil
            }
        }
        return nil
    }

    private struct Walk {
        let data: UnsafeRawBufferPointer
        var position: Int

        mutating func number() -> UInt32? {
            guard position >= 0, position + 4 <= data.count else { return nil }
            defer { position += 4 }
            return data.number(position)
        }
        mutating func skip(_ count: Int) { position += count }
        @discardableResult
        mutating func skipArray(of size: Int) -> Int {
            guard let count = number() else { return 0 }
            position += Int(count) * size
            return Int(count)
        }
    }
}
