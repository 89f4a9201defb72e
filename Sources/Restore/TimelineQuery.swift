import ArchiveCore
import Planner

/// Text with `*` for any run of characters (also of `/`) and `?` for one character.
public struct NamePattern: Sendable, Hashable {
    /// As it was given.
    public let text: String
    private let characters: [Character]
    /// Whether it has any wildcard.
    public let isGlob: Bool

    public init(_ text: String) {
        self.text = text
        characters = Array(text)
        isGlob = text.contains { $0 == "*" || $0 == "?" }
    }

    /// Whether all of `name` fits the pattern. Takes time of at most both lengths multiplied.
    public func matches(_ name: some StringProtocol) -> Bool {
        let name = Array(name)
        var p = 0
        var n = 0
        // Where the last `*` stood, and how far it reaches.
        var star: (pattern: Int, name: Int)?
        while n < name.count {
            if p < characters.count, characters[p] == "*" {
                star = (p, n)
                p += 1
            } else if p < characters.count, characters[p] == "?" || characters[p] == name[n] {
                p += 1
                n += 1
            } else if let last = star {
                star = (last.pattern, last.name + 1)
                p = last.pattern + 1
                n = last.name + 1
            } else {
                return false
            }
        }
        while p < characters.count, characters[p] == "*" { p += 1 }
        return p == characters.count
    }

    /// Whether a repository's path is meant: fits the pattern; without wildcards it is the path, the path less `.git`, or a folder above it.
    public func matches(repository path: String) -> Bool {
        if isGlob { return matches(path) }
        let folder = text.hasSuffix("/") ? text : text + "/"
        return path == text || path == text + ".git" || path.hasPrefix(folder)
    }

    /// Whether a reference is meant: fits the pattern; without wildcards it is the whole name, or its last parts (`main`, `heads/main`).
    public func matches(reference name: Substring) -> Bool {
        isGlob ? matches(name) : name == text || name.hasSuffix("/" + text)
    }
}

/// Which events of the archive are wanted.
public struct TimelineQuery: Sendable {
    /// The period, both ends included; `nil`: from the beginning, to the end of the archive.
    public var since: Moment?
    public var until: Moment?
    /// In the order in which simultaneous events are given.
    public var sources: [String]
    public var repository: NamePattern?
    public var reference: NamePattern?
    public var transaction: UInt64?
    /// Only dropped relations and deleted repositories.
    public var onlyDrops = false
    /// Also what is hidden otherwise: rolled back transactions, housekeeping, entries that change nothing, fences.
    public var includesHidden = false

    public init(sources: [String], since: Moment? = nil, until: Moment? = nil) {
        self.sources = sources
        self.since = since
        self.until = until
    }

    func includes(_ time: Moment) -> Bool { since.map { time >= $0 } ?? true && until.map { time <= $0 } ?? true }

    /// Whether anything between the two times may be wanted.
    func overlaps(_ low: Moment, _ high: Moment) -> Bool { since.map { high >= $0 } ?? true && until.map { low <= $0 } ?? true }

    /// Whether events are wanted that only a storage's log has, or only a database's.
    var wantsRepositories: Bool { repository != nil || reference != nil }

    /// Whether fences are wanted: they are about no repository, reference or transaction.
    var wantsFences: Bool { includesHidden && !wantsRepositories && transaction == nil && !onlyDrops }

    /// Whether the index of a piece may hold something that is wanted, whatever its time.
    func mayWant(_ piece: PieceSummary) -> Bool {
        if onlyDrops, piece.totals.drops + piece.totals.deleted == 0 { return false }
        if let transaction { return piece.numbers?.contains(transaction) ?? false }
        if reference != nil { return piece.totals.pushes > 0 }
        // Only fences carry a time where nothing else does.
        return piece.totals.commits > 0 || piece.numbers != nil || !piece.notable.isEmpty || includesHidden
    }

    /// Whether an event is wanted, whatever its time.
    func wants(_ event: LogEvent) -> Bool {
        // A marker has no time; the record of its fence is shown in its place.
        if event.kind == .fence { return false }
        let isEntry = event.frame != nil
        if let transaction, event.number != transaction || isEntry { return false }
        if onlyDrops, event.kind != .commit || event.flags.isDisjoint(with: [.drops, .deleted]) { return false }
        if let repository, !isEntry || !repository.matches(repository: event.subject) { return false }
        if let reference, !isEntry || !event.details.contains(where: { reference.matches(reference: $0.prefix { $0 != " " }) }) { return false }
        if includesHidden || transaction != nil { return true }
        if event.kind == .abort { return false }
        return event.flags.isDisjoint(with: [.housekeeping, .empty]) || !event.flags.isDisjoint(with: [.created, .deleted])
    }
}

/// One event of the merged timeline.
public struct TimelineEvent: Sendable {
    /// What happened; the raw values are part of the command's output.
    public enum Kind: String, Sendable {
        case commit, abort, prepare
        case restorePoint = "restore-point"
        /// References of a repository were changed.
        case push
        case create, delete
        case housekeeping
        /// An entry that changes no reference.
        case entry
        case fence
    }

    /// Details that are kept of one event.
    public static let maximumDetails = 32

    public var kind: Kind
    public var source: String
    /// The kind of the source, and the id of the incarnation.
    public var component: String
    public var incarnation: String
    /// The timeline of a database; 0 for a storage.
    public var branch: UInt32
    /// The log that it is in: for a storage the partition.
    public var stream: String
    /// Where its record begins, as the source's own tools write it. Of a fence: where its marker ends in the other source's log.
    public var position: String
    /// By the clock of the database: a storage's own time, corrected by what the nearest fence says about the clocks.
    public var time: Moment
    /// By the source's own clock.
    public var ownTime: Moment
    /// The database's clock less the source's, as the fences around the event bound it, in nanoseconds; `nil`: not known, or the same clock.
    public var offset: ClosedRange<Int64>?
    /// The transaction id; 0 where there is none.
    public var number: UInt64
    /// A repository's path, a restore point's name, a fence's id.
    public var subject: String
    /// References changed as `name new-id`, those asked for first; relations dropped as `tablespace/database/file`.
    public var details: [String]
    /// How many details there are, also those that were not kept.
    public var detailCount: Int
    public var flags: LogEvent.Flags
    /// Whether the source's present history does not have it: it lies on a timeline behind the point at which that was left, or in an
    /// earlier incarnation.
    public var isLeft: Bool
    /// What restores to just before it.
    public var target: PlanRequest
}
