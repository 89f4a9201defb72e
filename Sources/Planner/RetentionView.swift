import ArchiveCore

/// What the archive has of one source, as far as retention decides on it.
public struct RetentionView: Sendable {
    public struct Base: Sendable, Hashable {
        public var reference: BaseReference
        public var started: Moment
        public var completed: Moment
        public var branch: UInt32
        /// The piece from which on a restore reads; `nil`: from the beginning.
        public var firstPiece: String?
        /// Branches that can be restored from it: all of it is there, and the log that was written while it was taken.
        public var usableOn: Set<UInt32>
        /// Bases that hold content of this one.
        public var origins: [String]
        /// Whether its record can be read; of one that cannot only the time in its name is known.
        public var isReadable: Bool
        /// When the store lets it be removed.
        public var lockedUntil: Moment?

        public init(
            reference: BaseReference, started: Moment, completed: Moment, branch: UInt32, firstPiece: String?, usableOn: Set<UInt32>,
            origins: [String] = [], isReadable: Bool = true, lockedUntil: Moment? = nil
        ) {
            self.reference = reference
            self.started = started
            self.completed = completed
            self.branch = branch
            self.firstPiece = firstPiece
            self.usableOn = usableOn
            self.origins = origins
            self.isReadable = isReadable
            self.lockedUntil = lockedUntil
        }

        /// The earliest target that is planned with it, by the clocks of the source and of the agent.
        var ready: Moment { max(started, completed) }
        public var isUsable: Bool { !usableOn.isEmpty }
    }

    public struct History: Sendable, Hashable {
        public var id: String
        public var number: Int
        public var branches: [BranchRecord]
        /// Branches of which log is archived, ascending.
        public var archived: [UInt32]
        /// For each branch the latest time of which it has a commit or a watermark; without one nothing of it is to be kept for its own sake.
        public var ends: [UInt32: Moment]
        /// The latest time of which anything is known.
        public var latest: Moment

        public init(id: String, number: Int, branches: [BranchRecord], archived: [UInt32], ends: [UInt32: Moment], latest: Moment) {
            self.id = id
            self.number = number
            self.branches = branches
            self.archived = archived
            self.ends = ends
            self.latest = latest
        }
    }

    public var source: String
    public var bases: [Base]
    /// Oldest first.
    public var histories: [History]

    public init(source: String, bases: [Base], histories: [History]) {
        self.source = source
        self.bases = bases
        self.histories = histories
    }

    /// The base that a restore to `time` begins with, where nothing forbids it.
    public func newestUsable(at time: Moment) -> Base? {
        let numbers = Dictionary(histories.map { ($0.id, $0.number) }, uniquingKeysWith: { a, _ in a })
        func rank(_ base: Base) -> (Int, Moment) { (numbers[base.reference.incarnation] ?? 0, base.ready) }
        return bases.filter { $0.isUsable && $0.ready <= time }.max { rank($0) < rank($1) }
    }
}

/// Why somebody else wants a base to stay.
public struct Protection: Sendable, Hashable {
    public enum Kind: Sendable, Hashable {
        case hold(String)
        /// The use's id, what is done, and the host.
        case use(String, what: String, host: String)
        case plan(String)
        /// Of a copy: the archive that it is a copy of still has it.
        case primary
    }
    public var kind: Kind
    public var base: BaseReference

    public init(_ kind: Kind, _ base: BaseReference) {
        self.kind = kind
        self.base = base
    }
}
