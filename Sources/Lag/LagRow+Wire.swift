import ArchiveCore

/// Rows as the archive keeps them: protobuf's wire format, version 1. `docs/archive-format.md` has the fields.
extension LagRow {
    /// - Parameter rows: ascending.
    public static func encoded(_ rows: [LagRow]) -> [UInt8] {
        var w = WireWriter()
        w.number(1, 1)
        for row in rows { w.message(2) { row.encode(into: &$0) } }
        return w.bytes
    }

    /// - Throws: `WireError` for damage, an unknown version, and rows that end before they begin or overlap.
    public static func decoded(_ bytes: [UInt8]) throws(WireError) -> [LagRow] {
        var version: UInt64 = 0
        var rows: [LagRow] = []
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2:
                let row = try LagRow(decoding: value.bytes("row"))
                guard row.start.rawValue >= 0, row.start < row.end, rows.last.map({ $0.end <= row.start }) ?? true else { throw WireError(offset: 0, reason: "rows are out of order") }
                rows.append(row)
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "version \(version) is not known") }
        return rows
    }

    private func encode(into w: inout WireWriter) {
        w.signed(1, start.rawValue)
        w.signed(2, end.rawValue)
        w.number(3, milliseconds(objective))
        w.message(4) { commits.encode(into: &$0) }
        w.message(5) { exposure.encode(into: &$0) }
        for (field, backlogs) in [(6 as UInt32, worst), (7, last)] {
            for stage in Stage.allCases {
                guard let backlog = backlogs[stage] else { continue }
                w.message(field) { w in
                    w.number(1, stage.number)
                    if let bytes = backlog.bytes { w.number(2, bytes &+ 1) }
                    w.number(3, milliseconds(backlog.seconds))
                }
            }
        }
        for miss in misses {
            w.message(8) { w in
                w.signed(1, miss.start.rawValue)
                w.signed(2, miss.end.rawValue)
                w.number(3, milliseconds(miss.worst))
                w.number(4, miss.cause.number)
            }
        }
        if let archivedUpTo { w.signed(9, archivedUpTo.rawValue) }
    }

    private init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        self.init(start: Moment(rawValue: 0), end: Moment(rawValue: 0), objective: 0)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: start = Moment(rawValue: zigZag(try value.number("start")))
            case 2: end = Moment(rawValue: zigZag(try value.number("end")))
            case 3: objective = Double(try value.number("objective")) / 1000
            case 4: commits = try LagHistogram(decoding: value.bytes("commits"))
            case 5: exposure = try LagHistogram(decoding: value.bytes("exposure"))
            case 6: if let (stage, backlog) = try Self.backlog(value.bytes("backlog")) { worst[stage] = backlog }
            case 7: if let (stage, backlog) = try Self.backlog(value.bytes("backlog")) { last[stage] = backlog }
            case 8: misses.append(try Self.miss(value.bytes("miss")))
            case 9: archivedUpTo = Moment(rawValue: zigZag(try value.number("archived up to")))
            default: continue
            }
        }
        var before: Moment?
        for miss in misses {
            guard miss.start < miss.end, before.map({ $0 <= miss.start }) ?? true else { throw WireError(offset: 0, reason: "misses are out of order") }
            before = miss.end
        }
    }

    /// - Returns: `nil` for a stage of a later version.
    private static func backlog(_ bytes: ArraySlice<UInt8>) throws(WireError) -> (Stage, Backlog)? {
        var stage: Stage?
        var backlog = Backlog(bytes: nil, seconds: 0)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1:
                let number = try value.number("stage")
                stage = Stage.allCases.first { $0.number == number }
            case 2: backlog.bytes = try value.number("bytes") &- 1
            case 3: backlog.seconds = Double(try value.number("seconds")) / 1000
            default: continue
            }
        }
        return stage.map { ($0, backlog) }
    }

    private static func miss(_ bytes: ArraySlice<UInt8>) throws(WireError) -> Miss {
        var miss = Miss(start: Moment(rawValue: 0), end: Moment(rawValue: 0), worst: 0, cause: .load)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: miss.start = Moment(rawValue: zigZag(try value.number("start")))
            case 2: miss.end = Moment(rawValue: zigZag(try value.number("end")))
            case 3: miss.worst = Double(try value.number("worst")) / 1000
            case 4:
                let number = try value.number("cause")
                guard let cause = Miss.Cause.allCases.first(where: { $0.number == number }) else { throw WireError(offset: 0, reason: "cause \(number) is not known") }
                miss.cause = cause
            default: continue
            }
        }
        return miss
    }
}

extension LagRow.Stage {
    /// In the archive; never given to another.
    fileprivate var number: UInt64 { switch self { case .received: 1; case .synced: 2; case .archived: 3; case .verified: 4 } }
}

extension Miss.Cause {
    fileprivate var number: UInt64 { switch self { case .store: 1; case .agent: 2; case .network: 3; case .gap: 4; case .load: 5 } }
}

extension LagHistogram {
    fileprivate func encode(into w: inout WireWriter) {
        for (bucket, weight) in weights.sorted(by: { $0.key < $1.key }) {
            w.message(1) { w in
                w.number(1, UInt64(bucket))
                w.number(2, weight)
            }
        }
        w.number(2, milliseconds(maximum))
        w.number(3, milliseconds(sum))
    }

    fileprivate init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var buckets: [(Int, UInt64)] = []
        var maximum = 0.0
        var sum = 0.0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1:
                var bucket: UInt64 = 0
                var weight: UInt64 = 0
                var inner = WireReader(try value.bytes("bucket"))
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: bucket = try value.number("bucket")
                    case 2: weight = try value.number("weight")
                    default: continue
                    }
                }
                // Sums of weights must not overflow, whatever a stranger wrote.
                guard weight <= 1 << 48, buckets.count <= Self.last else { throw WireError(offset: 0, reason: "a bucket of weight \(weight)") }
                buckets.append((Int(clamping: bucket), weight))
            case 2: maximum = Double(try value.number("maximum")) / 1000
            case 3: sum = Double(try value.number("sum")) / 1000
            default: continue
            }
        }
        guard let histogram = LagHistogram(buckets: buckets, maximum: maximum, sum: sum) else { throw WireError(offset: 0, reason: "no such bucket") }
        self = histogram
    }
}

/// Rounded up, so that nothing becomes better than it was; at most some 290 million years.
private func milliseconds(_ seconds: Double) -> UInt64 {
    guard seconds > 0 else { return 0 }
    return seconds < 9e15 ? UInt64((seconds * 1000 - 1e-6).rounded(.up)) : 9_000_000_000_000_000_000
}
