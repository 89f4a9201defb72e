import ArchiveCore

/// What a source's archive holds, as the planner needs it. Nothing here was read twice, nothing is read later.
public struct LogView: Sendable {
    public var source: String
    public var incarnation: IncarnationRecord
    public var path: BranchPath
    /// Pieces on the path from the base's first one on, in log order, closed ones without their tails.
    public var pieces: [PieceSummary]
    /// Fences of pieces right before these, as far as they were looked up, in log order.
    public var earlierFences: [FenceRecord] = []
    /// Whether `pieces` goes on to the end of the archive.
    public var isComplete: Bool
    public var branches: [BranchRecord]
    public var gaps: [GapRecord]
    /// Everything committed up to this time is archived.
    public var watermark: Moment?
    /// What lies behind `pieces`; `nil`: unknown.
    public var beyond: LogTotals?
    /// Whether streams that no base mentions begin empty at `firstOffset`.
    public var streamsMayBeginEmpty: Bool
    public var firstOffset: UInt64
    /// An offset as the source's own tools write it.
    public var describe: @Sendable (UInt64) -> String

    public init(
        source: String, incarnation: IncarnationRecord, path: BranchPath, pieces: [PieceSummary], isComplete: Bool, branches: [BranchRecord],
        gaps: [GapRecord], watermark: Moment?, beyond: LogTotals? = nil, streamsMayBeginEmpty: Bool, firstOffset: UInt64,
        describe: @escaping @Sendable (UInt64) -> String = { "\($0)" }
    ) {
        self.source = source
        self.incarnation = incarnation
        self.path = path
        self.pieces = pieces
        self.isComplete = isComplete
        self.branches = branches
        self.gaps = gaps
        self.watermark = watermark
        self.beyond = beyond
        self.streamsMayBeginEmpty = streamsMayBeginEmpty
        self.firstOffset = firstOffset
        self.describe = describe
    }
}

/// What was looked up for a plan beyond the summaries.
public struct PlanDetails: Sendable {
    /// Events of pieces, with the streams of their spans.
    public var events: [PieceName: (events: [LogEvent], streams: [String])] = [:]
    /// Whether the anchor's archived log has a fence's marker.
    public var confirmed: [String: Bool] = [:]

    public init() {}
}

/// What `Planner.plan` says: a plan, or what has to be looked up first.
public enum PlanStep: Sendable {
    case plan(SourcePlan)
    case needsEvents([PieceName])
    case needsConfirmation([FenceRecord])
}

/// A piece of log that a plan reads.
public struct PlannedPiece: Sendable, Hashable {
    public var name: PieceName
    /// Bytes of the stored object.
    public var storedLength: UInt64

    public init(name: PieceName, storedLength: UInt64) {
        self.name = name
        self.storedLength = storedLength
    }
}

/// How exactly the cut of a fenced log is known.
public struct CutPrecision: Sendable, Hashable {
    /// The last fence before the cut and the first after it.
    public var before: FenceRecord?
    public var after: FenceRecord?
    /// Entries that no fence decides, those of them that are in, and those left out.
    public var undecided = 0
    public var taken = 0
    public var left = 0
    /// Deletions of repositories among them that were not applied, as `partition/position path`.
    public var heldDeletions: [String] = []
    /// The anchor's clock less the source's, in nanoseconds: what was used to compare times.
    public var offset: ClosedRange<Int64>?
    public var slack: Int64 = 0

    public init() {}
}

/// What a restore of one source reads and where it stops.
public struct SourcePlan: Sendable {
    public var source: String
    public var incarnation: IncarnationRecord
    public var base: BaseRecord
    public var spans: [LogSpan]
    public var cuts: [StreamCut]
    /// In log order.
    public var pieces: [PlannedPiece]
    /// All branches of the source: those that lead to the cut, and those whose names are taken.
    public var branches: [BranchRecord]
    /// What will be applied behind the base's start, and what lies behind the cut; `nil`: unknown.
    public var applied: LogTotals
    public var left: LogTotals?
    /// The latest time of a commit that is applied.
    public var lastApplied: Moment?
    /// Where logs that are fenced against this one are cut; `nil` for a source that no other can be fenced against.
    public var anchor: AnchorCut?
    /// For a fenced log; `nil` when its own clock alone decided.
    public var precision: CutPrecision?
    public var warnings: [String]

    public init(
        source: String, incarnation: IncarnationRecord, base: BaseRecord, spans: [LogSpan], cuts: [StreamCut], pieces: [PlannedPiece],
        branches: [BranchRecord], applied: LogTotals, left: LogTotals?, lastApplied: Moment?, anchor: AnchorCut? = nil,
        precision: CutPrecision? = nil, warnings: [String] = []
    ) {
        self.source = source
        self.incarnation = incarnation
        self.base = base
        self.spans = spans
        self.cuts = cuts
        self.pieces = pieces
        self.branches = branches
        self.applied = applied
        self.left = left
        self.lastApplied = lastApplied
        self.anchor = anchor
        self.precision = precision
        self.warnings = warnings
    }

    /// Bytes to be read from the archive.
    public var bytes: UInt64 { base.parts.reduce(0) { $0 + $1.storedLength } + pieces.reduce(0) { $0 + $1.storedLength } }
    /// Branch that is restored.
    public var branch: UInt32 { cuts.first?.branch ?? base.branch }
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
