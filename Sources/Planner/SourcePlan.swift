import ArchiveCore

/// Where a restore shall stop.
public enum RecoveryTarget: Sendable, Hashable {
    /// Everything committed up to this time, and nothing later.
    case time(Moment)
    /// Everything that is archived.
    case latest
}

/// What a source's archive holds, as the planner needs it. Nothing here was read twice, nothing is read later.
public struct LogView: Sendable {
    public var source: String
    public var incarnation: IncarnationRecord
    /// Pieces from the base's first one on, in the order of their names.
    public var pieces: [(name: PieceName, index: PieceIndex)]
    public var branches: [BranchRecord]
    public var gaps: [GapRecord]
    /// Everything committed up to this time is archived.
    public var watermark: Moment?
    /// Whether streams that no base mentions begin empty at `firstOffset`.
    public var streamsMayBeginEmpty: Bool
    public var firstOffset: UInt64
    /// An offset as the source's own tools write it.
    public var describe: @Sendable (UInt64) -> String

    public init(
        source: String, incarnation: IncarnationRecord, pieces: [(name: PieceName, index: PieceIndex)], branches: [BranchRecord],
        gaps: [GapRecord], watermark: Moment?, streamsMayBeginEmpty: Bool, firstOffset: UInt64,
        describe: @escaping @Sendable (UInt64) -> String = { "\($0)" }
    ) {
        self.source = source
        self.incarnation = incarnation
        self.pieces = pieces
        self.branches = branches
        self.gaps = gaps
        self.watermark = watermark
        self.streamsMayBeginEmpty = streamsMayBeginEmpty
        self.firstOffset = firstOffset
        self.describe = describe
    }

    /// The newest time that can be restored to: the watermark, or, in a source of one stream, its last commit.
    public var reachable: Moment? {
        guard !streamsMayBeginEmpty else { return watermark }
        let last = pieces.lazy.flatMap { $0.index.events }.filter { $0.kind == .commit }.map(\.time).max()
        return [watermark, last].compactMap { $0 }.max()
    }
}

/// What a restore of one source reads and where it stops.
public struct SourcePlan: Sendable {
    public var source: String
    public var incarnation: IncarnationRecord
    public var base: BaseRecord
    public var spans: [LogSpan]
    public var cuts: [StreamCut]
    public var pieces: [(name: PieceName, index: PieceIndex)]
    /// Branch records that lead from the base to the cut.
    public var branches: [BranchRecord]
    /// Records that will be applied and those left out, and the time of the last applied one.
    public var applied: Int
    public var left: Int
    public var lastApplied: Moment?
    /// Bytes to be read from the archive.
    public var bytes: UInt64
}

/// Why a base cannot serve a target; with another base the same target may be reachable.
public struct PlanRefusal: Error, Sendable {
    public enum Kind: Sendable { case beforeBase, beyondWatermark, gap, otherBranch, baseUnusable }
    public var kind: Kind
    public var reason: String
    /// The nearest times that can be reached, as far as this base tells.
    public var earliest: Moment?
    public var latest: Moment?

    public init(kind: Kind, reason: String, earliest: Moment?, latest: Moment?) {
        self.kind = kind
        self.reason = reason
        self.earliest = earliest
        self.latest = latest
    }
}
