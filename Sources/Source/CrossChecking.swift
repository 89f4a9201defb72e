import ArchiveCore

/// A source that was restored and now lies in its final directory, as a check of what was restored meets it.
public struct RestoredPlace: Sendable {
    public var directory: String
    public var incarnation: IncarnationRecord
    public var base: BaseRecord
    /// The base's window and where each stream was cut, as `RestoreJob` had them.
    public var spans: [LogSpan]
    public var cuts: [StreamCut]
    /// The log from the base's first piece to the end of the archive, also what lies after the cut.
    public var log: any LogReader
    /// Where the source's own programs are; `nil`: look for them.
    public var bindir: String?

    public init(
        directory: String, incarnation: IncarnationRecord, base: BaseRecord, spans: [LogSpan], cuts: [StreamCut], log: any LogReader,
        bindir: String?
    ) {
        self.directory = directory
        self.incarnation = incarnation
        self.base = base
        self.spans = spans
        self.cuts = cuts
        self.log = log
        self.bindir = bindir
    }
}

// MARK: What can be asked

/// A column of a query's result.
public struct QueryColumn: Sendable, Hashable {
    public enum Kind: Sendable, Hashable {
        case text, bytes
        /// A time with its zone, and one without.
        case time, localTime
        case other
    }
    public var name: String
    public var kind: Kind

    public init(name: String, kind: Kind) {
        self.name = name
        self.kind = kind
    }
}

/// A row's values as text; `nil` is NULL.
public typealias QueryRow = [String?]

/// Reads from a restored database, one query at a time. Within one database all queries see one state, and none can change it.
public protocol QuerySession: Sendable {
    /// Databases that can be connected to, without templates, by name.
    var databases: [String] { get }
    /// What `query`, one SELECT, would return.
    ///
    /// - Throws: `.sourceRefused` with the database's own words when the query is not valid there.
    func columns(of query: String, in database: String) async throws -> [QueryColumn]
    /// Gives the rows to `body` in batches, never all at once.
    ///
    /// - Throws: `.sourceRefused` when the query fails or takes longer than the session allows; what `body` throws.
    func rows(of query: String, in database: String, _ body: @Sendable ([QueryRow]) async throws -> Void) async throws
}

/// A restore whose result can be asked questions in SQL.
public protocol QueryableRestore: RestoreTarget {
    /// Makes the restored database readable for as long as `body` runs, for nobody else, and leaves it stopped as it was.
    /// Whatever happens, nothing keeps running.
    func withQueries<T: Sendable>(
        at place: RestoredPlace, _ body: @Sendable (any QuerySession) async throws -> T
    ) async throws -> T
}

// MARK: What the log tells of repositories

/// What the archived log says of one object of a repository.
public enum ObjectEvidence: Int, Sendable, Comparable {
    /// No record names it. It may still have come with a record that named another object.
    case none
    /// A record before the cut named it, but a later one, also before the cut, may have removed it.
    case removedBefore
    /// A record before the cut named it, and none before the cut can have removed it: it must be there.
    case before
    /// A record after the cut is the first to name it.
    case after

    public static func < (a: ObjectEvidence, b: ObjectEvidence) -> Bool { a.rawValue < b.rawValue }
}

/// How far a roll-forward may go.
public struct RollForwardLimit: Sendable {
    /// Records of one partition at most.
    public var records: Int
    /// Records committed later than this are not looked at.
    public var latest: Moment

    public init(records: Int, latest: Moment) {
        self.records = records
        self.latest = latest
    }
}

/// What a roll-forward did to one partition.
public struct RollForwardOutcome: Sendable {
    public struct Record: Sendable, Hashable {
        /// In the notation of the source's own tools.
        public var position: String
        public var time: Moment
        public var repository: String
        /// References that it changed, as `name new-id`.
        public var references: [String]

        public init(position: String, time: Moment, repository: String, references: [String]) {
            self.position = position
            self.time = time
            self.repository = repository
            self.references = references
        }
    }
    public enum End: String, Sendable, Codable {
        /// Everything that was looked for has come.
        case found
        /// No record within the limit brings what is still missing.
        case notInLog = "not in the log"
        /// A repository is deleted before what is still missing comes.
        case deletion = "a repository is deleted next"
        /// A record could not be replayed; the partition stays as it was left.
        case failed
    }
    public var partition: String
    /// Position of the last record before, and of the last that was added; `nil`: none.
    public var from: String?
    public var to: String?
    /// The records that were added, in order. Empty: nothing was changed.
    public var records: [Record]
    /// By repository, what was looked for and is there now.
    public var found: [String: Set<String>]
    public var end: End
    public var failure: String?

    public init(
        partition: String, from: String?, to: String?, records: [Record], found: [String: Set<String>], end: End, failure: String? = nil
    ) {
        self.partition = partition
        self.from = from
        self.to = to
        self.records = records
        self.found = found
        self.end = end
        self.failure = failure
    }
}

/// The archived log behind a directory of restored repositories.
public protocol RepositoryHistory: Sendable {
    /// - Parameter objects: by repository (path below the storage), ids in lower-case hexadecimal.
    /// - Returns: every object that was asked for. Reads indexes only.
    func evidence(of objects: [String: Set<String>]) async throws -> [String: [String: ObjectEvidence]]
    /// Takes the partitions that hold these repositories on from the cut, each to the record that brings the last object that can
    /// be brought within `limit`, and not a record further. A partition that no record helps is not touched.
    ///
    /// Repositories of one partition go together. A deletion of a repository is never applied.
    func rollForward(to objects: [String: Set<String>], limit: RollForwardLimit) async throws -> [RollForwardOutcome]
}

/// A restore whose result is Git repositories.
public protocol RepositoryRestore: RestoreTarget {
    func history(of place: RestoredPlace) -> any RepositoryHistory
}
