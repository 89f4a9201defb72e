/// How many events of each sort a stretch of log holds.
public struct LogTotals: Codable, Sendable, Hashable {
    /// Commits, or entries of a partition, empty ones included.
    public var commits: UInt64 = 0
    /// Commits that dropped relations.
    public var drops: UInt64 = 0
    /// Entries that changed references.
    public var pushes: UInt64 = 0
    /// Repositories created and deleted.
    public var created: UInt64 = 0
    public var deleted: UInt64 = 0

    public init() {}

    public mutating func add(_ event: LogEvent) {
        guard event.kind == .commit else { return }
        commits += 1
        if event.flags.contains(.drops) { drops += 1 }
        if event.flags.contains(.created) { created += 1 }
        if event.flags.contains(.deleted) { deleted += 1 }
        if event.frame != nil, !event.details.isEmpty || event.flags.contains(.sealedDetails) { pushes += 1 }
    }

    public static func += (a: inout LogTotals, b: LogTotals) {
        a.commits += b.commits
        a.drops += b.drops
        a.pushes += b.pushes
        a.created += b.created
        a.deleted += b.deleted
    }

    /// What is left of `a` behind `b`; never below zero.
    public static func - (a: LogTotals, b: LogTotals) -> LogTotals {
        func less(_ x: UInt64, _ y: UInt64) -> UInt64 { x > y ? x - y : 0 }
        var result = LogTotals()
        result.commits = less(a.commits, b.commits)
        result.drops = less(a.drops, b.drops)
        result.pushes = less(a.pushes, b.pushes)
        result.created = less(a.created, b.created)
        result.deleted = less(a.deleted, b.deleted)
        return result
    }

    public func encode(into w: inout WireWriter) {
        w.number(1, commits)
        w.number(2, drops)
        w.number(3, pushes)
        w.number(4, created)
        w.number(5, deleted)
    }

    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: commits = try value.number("commits")
            case 2: drops = try value.number("drops")
            case 3: pushes = try value.number("pushes")
            case 4: created = try value.number("created")
            case 5: deleted = try value.number("deleted")
            default: continue
            }
        }
    }
}

/// What a plan knows of a piece of log without reading its index.
public struct PieceSummary: Sendable {
    /// The piece's spans, as a list or as a chapter stores them, decoded when they are asked for.
    private enum Spans: Sendable {
        case list([LogSpan])
        case packed(ArraySlice<UInt8>, streams: [String], branch: UInt32)
    }

    public var name: PieceName
    /// Bytes of the stored object.
    public var storedLength: UInt64
    private var packed: Spans
    /// Earliest and latest time of a commit in it, by the source's clock; `nil` when it has none.
    public var times: ClosedRange<Moment>?
    /// The same of all that carries a time, by the source's clock: also rolled back transactions, restore points, and fences.
    public var eventTimes: ClosedRange<Moment>?
    /// Lowest and highest transaction id that ends in it.
    public var numbers: ClosedRange<UInt64>?
    /// Where the last event begins and ends, of a piece of one stream.
    public var lastEvent: Range<UInt64>?
    public var totals: LogTotals
    public var fences: [FenceRecord]
    /// Restore points, and entries whose links inside the storage could not be resolved.
    public var notable: [LogEvent]

    /// - Parameter index: the whole index of the piece.
    public init(_ name: PieceName, _ index: PieceIndex) {
        self.name = name
        storedLength = index.storedLength
        packed = .list(index.spans)
        fences = index.fences
        totals = LogTotals()
        notable = []
        func see(_ time: Moment) { eventTimes = eventTimes.map { min($0.lowerBound, time)...max($0.upperBound, time) } ?? time...time }
        for fence in fences {
            see(fence.asked)
            see(fence.answered)
        }
        for event in index.events {
            totals.add(event)
            // A marker carries no time.
            if event.kind != .fence { see(event.time) }
            if event.kind == .restorePoint || event.flags.contains(.unresolvedLink) { notable.append(event) }
            if event.isDecisive { times = times.map { min($0.lowerBound, event.time)...max($0.upperBound, event.time) } ?? event.time...event.time }
            if event.number > 0 { numbers = numbers.map { min($0.lowerBound, event.number)...max($0.upperBound, event.number) } ?? event.number...event.number }
        }
        if index.spans.count == 1, let last = index.events.last { lastEvent = last.start..<max(last.start, last.end) }
    }

    public var spans: [LogSpan] {
        var result: [LogSpan] = []
        forEachSpan { result.append($0) }
        return result
    }

    /// The first of the spans, without a look at the others.
    public var firstSpan: LogSpan? {
        switch packed {
        case .list(let spans): return spans.first
        case .packed(let bytes, let streams, let branch):
            var at = bytes.startIndex
            return bytes.isEmpty ? nil : Self.span(bytes, &at, streams, branch)
        }
    }

    /// Calls `body` with every span, in order. Bytes were proven to be spans when the chapter was read.
    public func forEachSpan(_ body: (LogSpan) throws -> Void) rethrows {
        switch packed {
        case .list(let spans): for span in spans { try body(span) }
        case .packed(let bytes, let streams, let branch):
            var at = bytes.startIndex
            while at < bytes.endIndex { try body(Self.span(bytes, &at, streams, branch)) }
        }
    }

    private static func span(_ bytes: ArraySlice<UInt8>, _ at: inout Int, _ streams: [String], _ branch: UInt32) -> LogSpan {
        func next() -> UInt64 {
            var value: UInt64 = 0
            var shift: UInt64 = 0
            while at < bytes.endIndex {
                let byte = bytes[at]
                at += 1
                value |= UInt64(byte & 0x7F) << shift
                if byte < 0x80 { break }
                shift += 7
            }
            return value
        }
        let stream = Int(next())
        let start = next()
        let length = next()
        let back = next()
        return LogSpan(
            stream: streams[stream], branch: branch, start: start, end: start + length, lastRecord: back == 0 ? nil : start + length - back)
    }
}

extension LogEvent {
    /// Whether the event's time decides where a cut by time lies.
    public var isDecisive: Bool { kind == .commit || kind == .prepare }
}

/// Names a chapter and tells what it covers, so that a list of names is enough to find a time.
public struct ChapterName: Sendable, Hashable {
    public var branch: UInt32
    /// Names of its first and its last piece.
    public var first: String
    public var last: String
    /// Earliest and latest time of anything in it, by the source's clock.
    public var times: ClosedRange<Moment>?

    public init(branch: UInt32, first: String, last: String, times: ClosedRange<Moment>?) {
        self.branch = branch
        self.first = first
        self.last = last
        self.times = times
    }

    /// `<branch>/<last>-<first>-<earliest>-<latest>.zst`; times in 16 hexadecimal digits, nanoseconds since 1970. Sorts by the last piece.
    public var path: String {
        let low = UInt64(clamping: times?.lowerBound.rawValue ?? .max)
        let high = UInt64(clamping: times?.upperBound.rawValue ?? 0)
        return "\(hex(UInt64(branch), 8))/\(last)-\(first)-\(hex(low, 16))-\(hex(high, 16)).zst"
    }

    /// - Returns: `nil` for anything that `path` does not give.
    public init?(path: String) {
        guard path.hasSuffix(".zst") else { return nil }
        let parts = path.dropLast(4).split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0].utf8.count == 8, let branch = UInt32(hexDigits: Array(parts[0].utf8)) else { return nil }
        let fields = parts[1].split(separator: "-", omittingEmptySubsequences: false).map(String.init)
        guard fields.count == 4, PieceName.isName(fields[0]), PieceName.isName(fields[1]), fields[0].utf8.count == fields[1].utf8.count,
            fields[1] <= fields[0],
            let low = UInt64(fields[2], radix: 16), let high = UInt64(fields[3], radix: 16)
        else { return nil }
        self.init(
            branch: branch, first: fields[1], last: fields[0],
            times: low <= high ? Moment(rawValue: Int64(clamping: low))...Moment(rawValue: Int64(clamping: high)) : nil)
        guard self.path == path else { return nil }
    }
}

/// The summaries of many closed pieces in one object, in log order: what a plan reads instead of their indexes.
public struct Chapter: Sendable {
    /// Pieces after which a chapter is closed, and spans after which it is closed earlier.
    public static let maximumPieces = 512
    public static let maximumSpans = 1 << 16

    public var branch: UInt32
    public var pieces: [PieceSummary]
    /// Of the incarnation from its beginning to the end of the chapter.
    public var totals: LogTotals
    /// The last piece of the chapter before it on the same branch, so that a missing one is noticed; empty: it is the first.
    public var previous: String

    /// The chapter with no name of a repository in it.
    public var withoutNames: Chapter {
        var chapter = self
        for i in chapter.pieces.indices { chapter.pieces[i].notable = chapter.pieces[i].notable.map(\.withoutNames) }
        return chapter
    }

    public init(branch: UInt32, pieces: [PieceSummary], totals: LogTotals, previous: String = "") {
        self.branch = branch
        self.pieces = pieces
        self.totals = totals
        self.previous = previous
    }

    /// - Precondition: there is at least one piece.
    public var name: ChapterName {
        var times: ClosedRange<Moment>?
        for piece in pieces {
            guard let some = piece.eventTimes else { continue }
            times = times.map { min($0.lowerBound, some.lowerBound)...max($0.upperBound, some.upperBound) } ?? some
        }
        return ChapterName(branch: branch, first: pieces[0].name.name, last: pieces[pieces.count - 1].name.name, times: times)
    }

    public func encoded() -> [UInt8] {
        var streams: [String: UInt64] = [:]
        var names: [String] = []
        var body = WireWriter()
        for piece in pieces {
            body.message(3) { w in
                w.text(1, piece.name.name)
                w.text(2, piece.name.suffix)
                w.number(3, piece.storedLength)
                if let times = piece.times {
                    w.signed(4, times.lowerBound.rawValue)
                    w.signed(5, times.upperBound.rawValue)
                    w.number(6, 1)
                }
                var packed = WireWriter()
                piece.forEachSpan { span in
                    let number = streams[span.stream] ?? UInt64(names.count)
                    if number == names.count {
                        streams[span.stream] = number
                        names.append(span.stream)
                    }
                    packed.varint(number)
                    packed.varint(span.start)
                    packed.varint(span.end - span.start)
                    packed.varint(span.lastRecord.map { span.end &- $0 } ?? 0)
                }
                w.data(7, packed.bytes)
                w.message(8) { piece.totals.encode(into: &$0) }
                for fence in piece.fences { w.message(9) { fence.encode(into: &$0) } }
                for event in piece.notable { w.message(10) { PieceIndex.encode(event, into: &$0) } }
                if let last = piece.lastEvent {
                    w.number(11, last.lowerBound &+ 1)
                    w.number(12, last.upperBound - last.lowerBound)
                }
                if let numbers = piece.numbers {
                    w.number(13, numbers.lowerBound)
                    w.number(14, numbers.upperBound)
                }
                if let all = piece.eventTimes, all != piece.times {
                    w.signed(15, all.lowerBound.rawValue)
                    w.signed(16, all.upperBound.rawValue)
                    w.number(17, 1)
                }
            }
        }
        var w = WireWriter()
        w.number(1, 1)
        for name in names { w.element(2, name.utf8) }
        w.append(body)
        w.message(4) { totals.encode(into: &$0) }
        w.text(5, previous)
        return w.bytes
    }

    /// - Throws: `WireError` for anything that `encoded` does not write.
    public init(decoding bytes: [UInt8], branch: UInt32) throws(WireError) {
        self.init(branch: branch, pieces: [], totals: LogTotals(), previous: "")
        var version: UInt64 = 0
        var streams: [String] = []
        var anchor: (name: String, identity: String)?
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2: streams.append(try value.text("stream"))
            case 3:
                var piece = try PieceSummary(decoding: value.bytes("piece"), streams: streams, branch: branch)
                // Nearly all fences have the same anchor: one text for all of them.
                for n in piece.fences.indices {
                    if let anchor, anchor.identity == piece.fences[n].anchorIdentity, anchor.name == piece.fences[n].anchor {
                        piece.fences[n].anchorIdentity = anchor.identity
                        piece.fences[n].anchor = anchor.name
                    } else {
                        anchor = (piece.fences[n].anchor, piece.fences[n].anchorIdentity)
                    }
                }
                pieces.append(piece)
            case 4: totals = try LogTotals(decoding: value.bytes("totals"))
            case 5: previous = try value.text("previous piece")
            default: continue
            }
        }
        guard previous.isEmpty || PieceName.isName(previous) else { throw WireError(offset: 0, reason: "'\(previous)' is no piece") }
        guard version == 1 else { throw WireError(offset: 0, reason: "chapter version \(version) is not known") }
        guard !pieces.isEmpty else { throw WireError(offset: 0, reason: "a chapter has no pieces") }
    }
}

extension PieceSummary {
    fileprivate init(decoding bytes: ArraySlice<UInt8>, streams: [String], branch: UInt32) throws(WireError) {
        var name = ""
        var suffix = "zst"
        var length: UInt64 = 0
        var low: Int64 = 0
        var high: Int64 = 0
        var hasTimes = false
        var all: (low: Int64, high: Int64, isThere: Bool) = (0, 0, false)
        var spans: ArraySlice<UInt8> = []
        var totals = LogTotals()
        var fences: [FenceRecord] = []
        var notable: [LogEvent] = []
        var lastStart: UInt64 = 0
        var lastLength: UInt64 = 0
        var lowest: UInt64 = 0
        var highest: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: name = try value.text("name")
            case 2: suffix = try value.text("suffix")
            case 3: length = try value.number("stored length")
            case 4: low = zigZag(try value.number("time"))
            case 5: high = zigZag(try value.number("time"))
            case 6: hasTimes = true
            case 7: spans = try value.bytes("spans")
            case 8: totals = try LogTotals(decoding: value.bytes("totals"))
            case 9: fences.append(try FenceRecord(decoding: value.bytes("fence")))
            case 10: notable.append(try PieceIndex.event(value.bytes("event")))
            case 11: lastStart = try value.number("last event")
            case 12: lastLength = try value.number("last event")
            case 13: lowest = try value.number("transaction id")
            case 14: highest = try value.number("transaction id")
            case 15: all.low = zigZag(try value.number("time"))
            case 16: all.high = zigZag(try value.number("time"))
            case 17: all.isThere = true
            default: continue
            }
        }
        guard PieceName.isName(name), suffix == "zst" || suffix == "tar.zst" else {
            throw WireError(offset: 0, reason: "'\(name)' is no piece")
        }
        guard low <= high, all.low <= all.high, lowest <= highest, lastStart &+ lastLength >= lastStart else { throw WireError(offset: 0, reason: "a range ends before it begins") }
        // Proven once, so that nothing has to be checked when they are used.
        var count = 0
        var check = WireReader(spans)
        while !check.isAtEnd {
            let stream = try check.varint()
            let start = try check.varint()
            let length = try check.varint()
            let back = try check.varint()
            // The last record may begin before the span, in the piece before.
            guard stream < streams.count, start &+ length >= start, back <= start &+ length else { throw WireError(offset: 0, reason: "a span is impossible") }
            count += 1
        }
        guard notable.allSatisfy({ $0.span < count }) else { throw WireError(offset: 0, reason: "an event names a span that is not there") }
        self.name = PieceName(branch: branch, name: name, suffix: suffix)
        storedLength = length
        packed = .packed(spans, streams: streams, branch: branch)
        times = hasTimes ? Moment(rawValue: low)...Moment(rawValue: high) : nil
        eventTimes = all.isThere ? Moment(rawValue: all.low)...Moment(rawValue: all.high) : times
        numbers = highest > 0 ? lowest...highest : nil
        lastEvent = lastStart > 0 ? (lastStart - 1)..<(lastStart - 1 + lastLength) : nil
        self.totals = totals
        self.fences = fences
        self.notable = notable
    }
}
