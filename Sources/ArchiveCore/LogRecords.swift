/// A run of one source's log, named the same way for every kind of source.
///
/// A *stream* is one log: a PostgreSQL cluster has one, `wal`; a Gitaly storage has one for each partition, named by its decimal
/// id. A *branch* is a timeline of a stream (Gitaly: always 0). Offsets are LSNs.
public struct LogSpan: Hashable, Sendable, Codable {
    public var stream: String
    public var branch: UInt32
    /// First offset that is in the span.
    public var start: UInt64
    /// First offset after the span.
    public var end: UInt64
    /// Where the last record that is complete at `end` begins; `nil` when the span completes none.
    public var lastRecord: UInt64?

    public init(stream: String, branch: UInt32, start: UInt64, end: UInt64, lastRecord: UInt64? = nil) {
        self.stream = stream
        self.branch = branch
        self.start = start
        self.end = end
        self.lastRecord = lastRecord
    }
}

/// Something that happened at one moment and at one place of a log.
public struct LogEvent: Hashable, Sendable {
    public struct Kind: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let commit = Kind(rawValue: 1)
        public static let abort = Kind(rawValue: 2)
        public static let restorePoint = Kind(rawValue: 3)
        /// A marker that ties two logs together, seen in the log that it was written to; `subject` is its `FenceRecord.id`, the one
        /// detail its digest. It carries no time: 0.
        public static let fence = Kind(rawValue: 4)
        /// A transaction was prepared for a later commit (two-phase commit), which has an event of its own.
        public static let prepare = Kind(rawValue: 5)
    }

    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        /// The commit dropped files of relations; `details` has their number, then the first 32 as `tablespace/database/file`.
        public static let drops = Flags(rawValue: 1)
        public static let created = Flags(rawValue: 2)
        public static let deleted = Flags(rawValue: 4)
        public static let housekeeping = Flags(rawValue: 8)
        /// The record changes nothing.
        public static let empty = Flags(rawValue: 16)
        /// The record links from elsewhere in the source's storage.
        public static let storageLink = Flags(rawValue: 32)
        /// … and the linked content could not be read in time.
        public static let unresolvedLink = Flags(rawValue: 64)
        /// Only in an index whose names are encrypted, until they are opened: the event has details.
        public static let sealedDetails = Flags(rawValue: 128)
    }

    /// Index of the event's span in its `PieceIndex`.
    public var span: Int
    /// Offset at which the record begins, and the first offset after it.
    public var start: UInt64
    public var end: UInt64
    /// The commit time as the source's own clock gave it.
    public var time: Moment
    public var kind: Kind
    public var flags: Flags
    /// PostgreSQL: the transaction id, for a prepared transaction its own; 0 where there is none. Gitaly: unused.
    public var number: UInt64
    /// What the event is about: a repository's path, a restore point's name. For people; bytes that are not UTF-8 are replaced.
    public var subject: String
    /// Gitaly: the references changed, as `name new-id`. PostgreSQL: see `Flags.drops` and `Kind.fence`.
    public var details: [String]
    /// Index of the frame that holds the record, when the piece has one frame for each record.
    public var frame: Int?

    public init(
        span: Int, start: UInt64, end: UInt64, time: Moment, kind: Kind, flags: Flags = [], number: UInt64 = 0,
        subject: String = "", details: [String] = [], frame: Int? = nil
    ) {
        self.span = span
        self.start = start
        self.end = end
        self.time = time
        self.kind = kind
        self.flags = flags
        self.number = number
        self.subject = subject
        self.details = details
        self.frame = frame
    }
}

/// One zstd frame of a piece, which can be read alone.
public struct LogFrame: Hashable, Sendable {
    /// Offset and length in the stored object, in bytes.
    public var offset: UInt64
    public var length: UInt64
    /// Length before compression, in bytes.
    public var rawLength: UInt64
    /// SHA-256 of the content before compression.
    public var sha256: [UInt8]

    public init(offset: UInt64, length: UInt64, rawLength: UInt64, sha256: [UInt8]) {
        self.offset = offset
        self.length = length
        self.rawLength = rawLength
        self.sha256 = sha256
    }
}

/// The name of a piece of log below its incarnation. Text order of names is log order within a branch.
public struct PieceName: Hashable, Sendable, CustomStringConvertible {
    public let branch: UInt32
    /// Digits of fixed width for each source: a segment's name, or a pack's number in 16 hexadecimal digits.
    public let name: String
    /// For a tail: the offsets that it holds of the piece that is still open.
    public let part: Range<UInt64>?
    /// `zst`, or `tar.zst` when the content is a tar.
    public let suffix: String

    public init(branch: UInt32, name: String, part: Range<UInt64>? = nil, suffix: String = "zst") {
        self.branch = branch
        self.name = name
        self.part = part
        self.suffix = suffix
    }

    /// `<branch>/<name less three digits>/<name>[.<start>-<end>.tail]`, without the suffix.
    public var description: String {
        var text = "\(hex(UInt64(branch), 8))/\(name.dropLast(3))/\(name)"
        if let part { text += ".\(hex(part.lowerBound, 16))-\(hex(part.upperBound, 16)).tail" }
        return text
    }

    /// Whether a piece can have this name: 4 to 64 hexadecimal digits in upper case.
    static func isName(_ name: String) -> Bool {
        (4...64).contains(name.utf8.count) && name.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x41...0x46).contains($0) }
    }

    /// Reads `description` with its suffix; `nil` for anything else.
    public init?(path: String) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].utf8.count == 8, let branch = UInt32(hexDigits: Array(parts[0].utf8)) else { return nil }
        let fields = parts[2].split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        guard fields.count >= 2, Self.isName(fields[0]), parts[1] == fields[0].dropLast(3) else { return nil }
        var part: Range<UInt64>?
        var rest = 1
        if fields.count >= 4, fields[2] == "tail" {
            let ends = fields[1].split(separator: "-")
            guard ends.count == 2, let a = UInt64(ends[0], radix: 16), let b = UInt64(ends[1], radix: 16), a < b else { return nil }
            part = a..<b
            rest = 3
        }
        let suffix = fields[rest...].joined(separator: ".")
        guard suffix == "zst" || suffix == "tar.zst" else { return nil }
        self.init(branch: branch, name: fields[0], part: part, suffix: suffix)
    }
}

/// A piece of log on its way to the archive: a segment, a tail, or a pack.
public struct LogPiece: Sendable {
    public var name: PieceName
    /// What is compressed, each as a zstd frame of its own; the frames together are the object.
    public var frames: [[UInt8]]
    public var spans: [LogSpan]
    public var events: [LogEvent]
    /// Tails that this piece makes superfluous once it is durable.
    public var supersedes: [PieceName]
    /// Ascending in the order in which the source gave out its pieces; see `LogSource.acknowledge`.
    public var sequence: UInt64
    /// Fences whose entries are all in this piece or in earlier ones.
    public var fences: [FenceRecord]

    public init(
        name: PieceName, frames: [[UInt8]], spans: [LogSpan], events: [LogEvent], supersedes: [PieceName] = [], sequence: UInt64,
        fences: [FenceRecord] = []
    ) {
        self.name = name
        self.frames = frames
        self.spans = spans
        self.events = events
        self.supersedes = supersedes
        self.sequence = sequence
        self.fences = fences
    }
}

extension LogPiece {
    /// First offset that no tail has, where the archive has tails of this piece; else 0.
    public var firstFresh: UInt64 { supersedes.compactMap(\.part?.upperBound).max() ?? 0 }
}

extension LogEvent {
    /// Whether losing it would lose what somebody was told is safe, at a time that is known.
    public var isCommit: Bool { (kind == .commit || kind == .prepare) && time.rawValue > 0 }
}

extension Sequence<LogEvent> {
    /// Times of commits behind an offset, and not before a time.
    public func commitTimes(behind offset: UInt64, since earliest: Moment) -> [Moment] {
        compactMap { $0.isCommit && $0.end > offset && $0.time >= earliest ? $0.time : nil }
    }
}

/// What the archive knows of a piece without reading it: an object of its own beside the piece, written after it.
///
/// Stored in protobuf's wire format; the field numbers are in `docs/archive-format.md`.
public struct PieceIndex: Sendable, Hashable {
    public var spans: [LogSpan]
    public var events: [LogEvent]
    public var frames: [LogFrame]
    /// Length and SHA-256 of the stored object.
    public var storedLength: UInt64
    public var storedSHA256: [UInt8]
    /// Fences whose entries are all in this piece or in earlier ones, in the order of their positions.
    public var fences: [FenceRecord]
    /// Bytes of the stored object before its first encrypted chunk; 0: the object is not encrypted. Frames count in what is encrypted.
    public var headerLength: UInt64 = 0
    /// An age file of what `takeNames` gave; empty: all names are in `events`.
    public var sealedNames: [UInt8] = []

    public init(
        spans: [LogSpan], events: [LogEvent], frames: [LogFrame], storedLength: UInt64, storedSHA256: [UInt8], fences: [FenceRecord] = []
    ) {
        self.spans = spans
        self.events = events
        self.frames = frames
        self.storedLength = storedLength
        self.storedSHA256 = storedSHA256
        self.fences = fences
    }

    public func encoded() -> [UInt8] {
        var w = WireWriter()
        w.number(1, 1)
        for span in spans { w.message(2) { span.encode(into: &$0) } }
        for event in events {
            w.message(3) { Self.encode(event, into: &$0) }
        }
        for frame in frames {
            w.message(4) { w in
                w.number(1, frame.offset)
                w.number(2, frame.length)
                w.number(3, frame.rawLength)
                w.data(4, frame.sha256)
            }
        }
        w.number(5, storedLength)
        w.data(6, storedSHA256)
        for fence in fences { w.message(7) { fence.encode(into: &$0) } }
        w.number(8, headerLength)
        w.data(9, sealedNames)
        return w.bytes
    }

    static func encode(_ event: LogEvent, into w: inout WireWriter) {
        w.number(1, UInt64(event.span))
        w.number(2, event.start)
        w.number(3, event.end &- event.start)
        w.signed(4, event.time.rawValue)
        w.number(5, event.kind.rawValue)
        w.number(6, event.flags.rawValue)
        w.number(7, event.number)
        w.text(8, event.subject)
        for detail in event.details { w.element(9, detail.utf8) }
        if let frame = event.frame { w.number(10, UInt64(frame) + 1) }
    }

    /// - Throws: `WireError` for anything that `encoded` does not write.
    public init(decoding bytes: [UInt8]) throws(WireError) {
        self.init(spans: [], events: [], frames: [], storedLength: 0, storedSHA256: [])
        var version: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2: spans.append(try LogSpan(decoding: value.bytes("span")))
            case 3: events.append(try Self.event(value.bytes("event")))
            case 4: frames.append(try Self.frame(value.bytes("frame")))
            case 5: storedLength = try value.number("stored length")
            case 6: storedSHA256 = Array(try value.bytes("digest"))
            case 7: fences.append(try FenceRecord(decoding: value.bytes("fence")))
            case 8: headerLength = try value.number("header length")
            case 9: sealedNames = Array(try value.bytes("sealed names"))
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "index version \(version) is not known") }
        guard storedSHA256.count == 32, frames.allSatisfy({ $0.sha256.count == 32 }) else {
            throw WireError(offset: 0, reason: "a digest is missing")
        }
        guard events.allSatisfy({ $0.span < spans.count && $0.frame ?? 0 < max(1, frames.count) }) else {
            throw WireError(offset: 0, reason: "an event names a span or frame that is not there")
        }
    }

    static func event(_ bytes: ArraySlice<UInt8>) throws(WireError) -> LogEvent {
        var e = LogEvent(span: 0, start: 0, end: 0, time: Moment(rawValue: 0), kind: .commit)
        var kind: UInt64 = 0
        var length: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: e.span = Int(clamping: try value.number("span"))
            case 2: e.start = try value.number("start")
            case 3: length = try value.number("length")
            case 4: e.time = Moment(rawValue: zigZag(try value.number("time")))
            case 5: kind = try value.number("kind")
            case 6: e.flags = .init(rawValue: try value.number("flags"))
            case 7: e.number = try value.number("number")
            case 8: e.subject = try value.text("subject")
            case 9: e.details.append(try value.text("detail"))
            case 10: e.frame = Int(clamping: try value.number("frame")) - 1
            default: continue
            }
        }
        e.kind = .init(rawValue: kind)
        e.end = e.start &+ length
        return e
    }

    private static func frame(_ bytes: ArraySlice<UInt8>) throws(WireError) -> LogFrame {
        var f = LogFrame(offset: 0, length: 0, rawLength: 0, sha256: [])
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: f.offset = try value.number("offset")
            case 2: f.length = try value.number("length")
            case 3: f.rawLength = try value.number("raw length")
            case 4: f.sha256 = Array(try value.bytes("digest"))
            default: continue
            }
        }
        return f
    }
}

extension LogEvent {
    /// Whether its subject and details name what an encrypted archive keeps to itself; restore points and fences are found by their names.
    var hasSecrets: Bool { kind != .restorePoint && kind != .fence && (!subject.isEmpty || !details.isEmpty) }

    /// The event without its subject and details, where these are kept secret.
    public var withoutNames: LogEvent {
        guard hasSecrets else { return self }
        var event = self
        if !details.isEmpty { event.flags.insert(.sealedDetails) }
        event.subject = ""
        event.details = []
        return event
    }
}

extension PieceIndex {
    /// Takes the subjects and details out of the events, all but those of restore points and fences.
    ///
    /// - Returns: what `putNames` puts back, in protobuf's wire format; `nil` when there is nothing to be taken.
    public mutating func takeNames() -> [UInt8]? {
        guard events.contains(where: \.hasSecrets) else { return nil }
        var w = WireWriter()
        w.number(1, 1)
        for (i, event) in events.enumerated() where event.hasSecrets {
            w.message(2) { w in
                w.number(1, UInt64(i))
                w.text(2, event.subject)
                for detail in event.details { w.element(3, detail.utf8) }
            }
            events[i] = event.withoutNames
        }
        return w.bytes
    }

    /// Puts back what `takeNames` took. `sealedNames` is empty afterwards.
    ///
    /// - Throws: `WireError` for names of another index.
    public mutating func putNames(_ bytes: [UInt8]) throws(WireError) {
        var version: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2:
                var number: UInt64 = 0
                var subject = ""
                var details: [String] = []
                var inner = WireReader(try value.bytes("names"))
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: number = try value.number("event")
                    case 2: subject = try value.text("subject")
                    case 3: details.append(try value.text("detail"))
                    default: continue
                    }
                }
                guard number < UInt64(events.count), !events[Int(number)].hasSecrets, events[Int(number)].flags.contains(.sealedDetails) == !details.isEmpty else {
                    throw WireError(offset: 0, reason: "names are of an event that is not there")
                }
                events[Int(number)].subject = subject
                events[Int(number)].details = details
                events[Int(number)].flags.remove(.sealedDetails)
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "version \(version) of the names is not known") }
        guard !events.contains(where: { $0.flags.contains(.sealedDetails) }) else { throw WireError(offset: 0, reason: "names of an event are missing") }
        sealedNames = []
    }
}

extension LogSpan {
    public func encode(into w: inout WireWriter) {
        w.text(1, stream)
        w.number(2, UInt64(branch))
        w.number(3, start)
        w.number(4, end)
        if let lastRecord { w.number(5, lastRecord &+ 1) }
    }

    public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        self.init(stream: "", branch: 0, start: 0, end: 0)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: stream = try value.text("stream")
            case 2: branch = UInt32(clamping: try value.number("branch"))
            case 3: start = try value.number("start")
            case 4: end = try value.number("end")
            case 5:
                let number = try value.number("last record")
                lastRecord = number > 0 ? number - 1 : nil
            default: continue
            }
        }
        guard start <= end, lastRecord ?? 0 <= end else { throw WireError(offset: 0, reason: "a span ends before it begins") }
    }
}
