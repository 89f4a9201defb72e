import ArchiveCore

/// Where a restore shall stop, as an administrator says it.
public enum RecoveryTarget: Sendable, Hashable {
    /// Everything committed up to this time, and nothing later.
    case time(Moment)
    /// Everything that is archived.
    case latest
    /// A position in the log of the source that has commits (an LSN).
    case position(UInt64)
    /// A transaction, by its id.
    case transaction(UInt64)
    /// A restore point, by its name.
    case name(String)
    /// A fence, by its id.
    case fence(String)
}

/// Where the log of one source is cut.
public enum CutRule: Sendable {
    /// Everything that is archived.
    case latest
    /// Before the first commit, in log order, that is later by the source's own clock (`exclusive`: not earlier).
    case time(Moment, exclusive: Bool)
    /// After the record that begins there (`exclusive`: before it).
    case position(UInt64, exclusive: Bool)
    /// Where the log of another source was cut. `slack`: nanoseconds by which entries between two fences may be later.
    case anchored(AnchorCut, slack: Int64)
}

/// Where the log of an anchor was cut, as the logs that are fenced against it need to know.
public struct AnchorCut: Sendable, Hashable {
    public enum Order: Sendable, Hashable {
        /// By a time: a fence in idle time is before the cut when its time is not later.
        case time(Moment)
        /// At a position: a fence is before the cut when it lies at or before it.
        case position(UInt64)
    }

    public var source: String
    /// The anchor's own identity; fences against another one are of no use.
    public var identity: String
    /// All branches that lead to the one that is restored, also those before the base's, each with the first offset that no longer belongs to it.
    public var path: BranchPath
    /// The first offset after the last commit that is in.
    public var lower: UInt64
    /// Where the first commit begins that is out; `nil`: the archive has none.
    public var upper: UInt64?
    public var order: Order
    /// The time that decides about entries which no fence decides, by the anchor's clock.
    public var time: Moment

    public init(source: String, identity: String, path: BranchPath, lower: UInt64, upper: UInt64?, order: Order, time: Moment) {
        self.source = source
        self.identity = identity
        self.path = path
        self.lower = lower
        self.upper = upper
        self.order = order
        self.time = time
    }

    /// Whether the fence is of this anchor's history.
    public func knows(_ fence: FenceRecord) -> Bool {
        guard fence.anchor == source, fence.anchorIdentity == identity, let end = path.end(of: fence.branch) else { return false }
        return fence.position <= end
    }

    /// Whether the fence lies before the cut.
    ///
    /// Up to the last commit that is in, and from the first one that is out, its position says so; in the idle time between them,
    /// where every position means the same state of the anchor, its time does.
    public func isAfter(_ fence: FenceRecord) -> Bool {
        if fence.position <= lower { return true }
        if let upper, fence.position > upper { return false }
        return switch order {
        case .time(let time): fence.anchorTime <= time
        case .position(let position): fence.position <= position
        }
    }
}

/// The branches that lead to the one that is restored, each with the first offset that no longer belongs to it.
public struct BranchPath: Sendable, Hashable {
    public private(set) var ends: [UInt32: UInt64] = [:]
    public let last: UInt32

    /// From the oldest branch that is known.
    public init(to last: UInt32, by branches: [BranchRecord]) {
        self.last = last
        ends[last] = .max
        for ancestor in branches.first(where: { $0.branch == last })?.ancestors ?? [] { ends[ancestor.branch] = ancestor.end }
    }

    /// From a base's branch. - Returns: `nil` when `first` is not on the way to `last`.
    public init?(from first: UInt32, to last: UInt32, by branches: [BranchRecord]) {
        self.last = last
        ends[last] = .max
        if last == first { return }
        guard let record = branches.first(where: { $0.branch == last }), record.ancestors.contains(where: { $0.branch == first }) else { return nil }
        for ancestor in record.ancestors where ancestor.branch >= first { ends[ancestor.branch] = ancestor.end }
    }

    public func end(of branch: UInt32) -> UInt64? { ends[branch] }
    /// Ascending.
    public var branches: [UInt32] { ends.keys.sorted() }
}
