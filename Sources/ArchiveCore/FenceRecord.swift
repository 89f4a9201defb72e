/// A marker written into the log of one source, the *anchor* (PostgreSQL's WAL), which says how far the log of another source (a Gitaly
/// storage) was at that position.
///
/// The follower lists the highest entry of every partition (V), has the anchor write the marker, which yields its `position`, and lists
/// again (V₂). The record is kept in the index of the follower's piece that completes V₂, so that nothing but the order of pieces needs
/// to be stored:
///
/// - every entry of this piece and of those before it is in V, and so was committed before `position`, except those that `late` names;
/// - every entry of a later piece is not in V₂, and so was committed after `position`.
///
/// Both hold only where the anchor's archived log has the marker at `position` (`LogEvent.Kind.fence`): a crash of the anchor can take
/// an unflushed marker back and give its position to other records.
public struct FenceRecord: Codable, Sendable, Hashable {
    /// From this offset on the stream's entries in the fence's piece and before are not in V: they came while the marker was written.
    public struct Late: Codable, Sendable, Hashable {
        public var stream: String
        public var start: UInt64
        public init(stream: String, start: UInt64) {
            self.stream = stream
            self.start = start
        }
    }

    /// Letters, digits and `-`; the same in the anchor's log.
    public var id: String
    /// The anchor's name in the archive, and its own identity (PostgreSQL's system identifier).
    public var anchor: String
    public var anchorIdentity: String
    /// Where the marker ends in the anchor's log: branch (timeline) and offset (LSN).
    public var branch: UInt32
    public var position: UInt64
    /// The anchor's clock when it wrote the marker.
    public var anchorTime: Moment
    /// The follower's clock before it asked for the marker and after it had the answer.
    public var asked: Moment
    public var answered: Moment
    public var late: [Late]

    public init(
        id: String, anchor: String, anchorIdentity: String, branch: UInt32, position: UInt64, anchorTime: Moment, asked: Moment,
        answered: Moment, late: [Late] = []
    ) {
        self.id = id
        self.anchor = anchor
        self.anchorIdentity = anchorIdentity
        self.branch = branch
        self.position = position
        self.anchorTime = anchorTime
        self.asked = asked
        self.answered = answered
        self.late = late
    }

    /// What the anchor's clock shows less what the follower's shows, in nanoseconds: the lowest and the highest value that this fence
    /// allows. Also right when the follower's clock was set back in between.
    public var offset: ClosedRange<Int64> {
        // A year at most: what somebody else wrote must not overflow.
        func difference(_ follower: Moment) -> Int64 {
            let limit: Int64 = 31_536_000_000_000_000
            let (value, isWide) = anchorTime.rawValue.subtractingReportingOverflow(follower.rawValue)
            return isWide ? (anchorTime < follower ? -limit : limit) : max(-limit, min(limit, value))
        }
        return difference(max(asked, answered))...difference(min(asked, answered))
    }

    func encode(into w: inout WireWriter) {
        w.text(1, id)
        w.text(2, anchor)
        w.text(3, anchorIdentity)
        w.number(4, UInt64(branch))
        w.number(5, position)
        w.signed(6, anchorTime.rawValue)
        w.signed(7, asked.rawValue)
        w.signed(8, answered.rawValue)
        for late in late {
            w.message(9) { w in
                w.text(1, late.stream)
                w.number(2, late.start)
            }
        }
    }

    init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
        let zero = Moment(rawValue: 0)
        self.init(id: "", anchor: "", anchorIdentity: "", branch: 0, position: 0, anchorTime: zero, asked: zero, answered: zero)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: id = try value.text("fence")
            case 2: anchor = try value.text("anchor")
            case 3: anchorIdentity = try value.text("anchor's identity")
            case 4: branch = UInt32(clamping: try value.number("branch"))
            case 5: position = try value.number("position")
            case 6: anchorTime = Moment(rawValue: zigZag(try value.number("time")))
            case 7: asked = Moment(rawValue: zigZag(try value.number("time")))
            case 8: answered = Moment(rawValue: zigZag(try value.number("time")))
            case 9:
                var inner = WireReader(try value.bytes("late"))
                var entry = Late(stream: "", start: 0)
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: entry.stream = try value.text("stream")
                    case 2: entry.start = try value.number("start")
                    default: continue
                    }
                }
                late.append(entry)
            default: continue
            }
        }
    }
}
