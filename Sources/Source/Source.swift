import ArchiveCore

/// What a source says it is, before anything is archived.
public struct SourceIdentity: Sendable {
    /// PostgreSQL's system identifier, or the uuid of Gitaly's storage. Letters, digits and `-`.
    public var identity: String
    /// See `IncarnationRecord.facts`.
    public var facts: [String: String]
    /// Whether another identity under the same name is a new history of the same source, or a mistake to be refused.
    public var mayChange: Bool

    public init(identity: String, facts: [String: String], mayChange: Bool = false) {
        self.identity = identity
        self.facts = facts
        self.mayChange = mayChange
    }
}

/// How far the archive is when a source starts, found out from the archive alone.
public struct ResumeState: Sendable {
    /// One piece that is not closed yet, as the archive has it.
    public struct Tail: Sendable, Hashable {
        public var name: PieceName
        /// SHA-256 of its content.
        public var sha256: [UInt8]
        public init(name: PieceName, sha256: [UInt8]) {
            self.name = name
            self.sha256 = sha256
        }
    }
    public struct Position: Sendable, Hashable {
        /// The first offset that is not archived.
        public var end: UInt64
        /// SHA-256 of the last archived record's frame, where every record has one; else empty.
        public var sha256: [UInt8]
        /// The commit time that the last archived record was given, where its frame is known.
        public var time: Moment
        public init(end: UInt64, sha256: [UInt8] = [], time: Moment = Moment(rawValue: 0)) {
            self.end = end
            self.sha256 = sha256
            self.time = time
        }
    }
    public var incarnation: IncarnationRecord
    /// For each branch, the last closed piece.
    public var lastPiece: [UInt32: PieceName]
    /// Tails newer than that piece, in log order.
    public var tails: [Tail]
    /// By stream, on the newest branch that the archive has of it.
    public var positions: [String: Position]
    public var branches: [BranchRecord]
    /// Reads an archived piece's frames, proven by length and digest; throws `.objectMissing` where there is none. `nil` where the
    /// archive is encrypted and only the keys are at hand that encrypt.
    public var content: (@Sendable (PieceName) async throws -> [[UInt8]])?

    public init(
        incarnation: IncarnationRecord, lastPiece: [UInt32: PieceName] = [:], tails: [Tail] = [],
        positions: [String: Position] = [:], branches: [BranchRecord] = []
    ) {
        self.incarnation = incarnation
        self.lastPiece = lastPiece
        self.tails = tails
        self.positions = positions
        self.branches = branches
    }
}

/// What a log source hands over, strictly in this order.
public enum LogOutput: Sendable {
    case piece(LogPiece)
    /// Durable in the archive before anything that follows.
    case gap(GapRecord)
    case branch(BranchRecord)
    /// Everything committed up to this time is in pieces already given out.
    case watermark(Moment)
    /// The archive's history and the source's differ: a new incarnation has to begin. Nothing follows.
    case historyChanged(reason: String)
}

/// What a source's log lacks on its way to the archive's door at one moment: what was not received, and what was received but is not on the
/// agent's own disk.
public struct LogProgress: Sendable, Hashable {
    public struct Backlog: Sendable, Hashable {
        /// Bytes; `nil`: not known.
        public var bytes: UInt64?
        /// Since when at least one commit may be lacking; `nil`: nothing is.
        public var since: Moment?

        public init(bytes: UInt64? = 0, since: Moment? = nil) {
            self.bytes = bytes
            self.since = since
        }
    }
    public var unreceived: Backlog
    public var unsynced: Backlog
    /// Received, and not given out by `next` yet.
    public var ungiven: Backlog

    public init(unreceived: Backlog = Backlog(), unsynced: Backlog = Backlog(), ungiven: Backlog = Backlog()) {
        self.unreceived = unreceived
        self.unsynced = unsynced
        self.ungiven = ungiven
    }
}

/// A log that can be read from where the archive ends. Used by one task at a time, except `acknowledge` and `stop`.
public protocol LogSource: Sendable {
    /// Connects, and says what is there. Called again after every failure.
    func identify() async throws -> SourceIdentity
    /// Begins to read after what `resume` has.
    func start(from resume: ResumeState) async throws
    /// Waits for the next output; `nil` after `stop`, when everything in hand was given out.
    ///
    /// - Throws: `.sourceUnreachable` and other retryable errors: begin again with `identify`.
    func next() async throws -> LogOutput?
    /// All pieces with a `sequence` up to this one are durable in the archive.
    func acknowledge(through sequence: UInt64) async
    /// What is on its way at this moment; cheap, and never waits for the source.
    func progress() async -> LogProgress
    /// Asks for a graceful end: what is in hand is given out, then `next` returns `nil`.
    func stop() async
    /// Ends what is received with this failure, which `next` throws when everything in hand was given out, and lets go of the connection.
    func interrupt(_ failure: ArchiveError) async
    /// Lets go of connections and threads; the source may be used again with `identify`.
    func close() async
}

extension LogSource {
    public func progress() async -> LogProgress { LogProgress() }
    public func interrupt(_ failure: ArchiveError) async {}
}

/// Where a fence's marker was written, and what the anchor said about itself; see `FenceRecord`.
public struct FenceMark: Sendable, Hashable {
    public var anchorIdentity: String
    public var branch: UInt32
    /// The first offset after the marker.
    public var position: UInt64
    public var anchorTime: Moment

    public init(anchorIdentity: String, branch: UInt32, position: UInt64, anchorTime: Moment) {
        self.anchorIdentity = anchorIdentity
        self.branch = branch
        self.position = position
        self.anchorTime = anchorTime
    }
}

/// Writes fences into the log of another source.
public protocol FenceWriter: Sendable {
    /// The anchor's name in the archive.
    var anchor: String { get }
    /// Writes one marker. Connects when it has to, and gives up within two seconds.
    ///
    /// - Parameters:
    ///   - id: see `FenceRecord.id`.
    ///   - digest: of the positions that the fence stands for, in hexadecimal; kept in the anchor's log for people.
    /// - Throws: `.sourceUnreachable`, `.sourceRefused`; the next call tries again.
    func write(id: String, digest: String) async throws -> FenceMark
    func close() async
}

/// Takes a base's paths and contents, in any order, each directory before what is in it. Calls block: use a lane.
///
/// `file` is followed by `write` until `size` bytes were given; fewer are filled with zeros by the next call.
public protocol TreeSink: AnyObject {
    func directory(_ entry: TreeEntry) throws
    func symlink(_ entry: TreeEntry) throws
    func file(_ entry: TreeEntry) throws
    func write(_ bytes: UnsafeRawBufferPointer) throws
    /// Takes back everything under a directory already given (a copy that has to be made again).
    func discard(under path: [UInt8]) throws
    func progress(bytes: UInt64, of total: UInt64?)
}

/// What a base turned out to be, once its last byte was given to the sink.
public struct SnapshotOutcome: Sendable {
    public var completed: Moment
    /// See `TreeIndex.spans`.
    public var spans: [LogSpan]
    public var branch: UInt32
    /// Name of the first piece of log that a restore reads, when the source can tell.
    public var firstPiece: String?
    public var warnings: [String]
    /// See `TreeIndex.losses`. Each is one of the base's warnings too.
    public var losses: [TreeLoss]
    public var facts: [String: String]

    public init(
        completed: Moment, spans: [LogSpan], branch: UInt32, firstPiece: String? = nil, warnings: [String], losses: [TreeLoss] = [], facts: [String: String]
    ) {
        self.completed = completed
        self.spans = spans
        self.branch = branch
        self.firstPiece = firstPiece
        self.warnings = warnings
        self.losses = losses
        self.facts = facts
    }
}

/// Takes base backups.
public protocol SnapshotSource: Sendable {
    /// Says what is there, as `LogSource.identify` does.
    func identify() async throws -> SourceIdentity
    /// - Parameter archived: by stream, the first offset not yet archived when the base began.
    /// - Throws: also `CancellationError`, soon after its task was cancelled.
    func capture(into sink: any TreeSink & Sendable, archived: [String: UInt64]) async throws -> SnapshotOutcome
}

/// A piece of log as a restore meets it.
public struct ArchivedPiece: Sendable {
    public var name: PieceName
    /// Bytes of the stored object.
    public var storedLength: UInt64

    public init(name: PieceName, storedLength: UInt64) {
        self.name = name
        self.storedLength = storedLength
    }
}

/// Reads archived log, checking length and digest of everything.
public protocol LogReader: Sendable {
    /// The pieces that the plan needs, in log order. For each branch, closed pieces before the tails that follow them.
    var pieces: [ArchivedPiece] { get }
    var branches: [BranchRecord] { get }
    /// How many reads at once are worth it.
    var parallelism: Int { get }
    func index(of piece: ArchivedPiece) async throws -> PieceIndex
    /// The frames of `piece`, decompressed; all of them when `frames` is `nil`.
    ///
    /// - Parameter index: the piece's, where it was read before.
    func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]]
}

extension LogReader {
    public var parallelism: Int { 2 }
}

public enum RecoveryMode: String, Sendable, CaseIterable { case none, promote }

/// One source's share of a restore, when its base has been laid out in `directory`.
public struct RestoreJob: Sendable {
    public var incarnation: IncarnationRecord
    public var base: BaseRecord
    public var spans: [LogSpan]
    /// What the base lacks.
    public var losses: [TreeLoss]
    public var cuts: [StreamCut]
    public var log: any LogReader
    /// Where the base lies now; renamed to `finalDirectory` when the job is done.
    public var directory: String
    public var finalDirectory: String
    public var recover: RecoveryMode
    /// Where the source's own programs are; `nil`: look for them.
    public var bindir: String?
    /// A shell command that fetches a piece of log, with PostgreSQL's `%f` and `%p` in it, for `RecoveryMode.none`.
    public var fetchCommand: String
    /// `OLD=NEW` directories outside of the restored one.
    public var mappings: [String: String]
    /// Only records about these subjects are replayed; `nil`: all.
    public var only: Set<String>?
    public var progress: @Sendable (String, _ done: UInt64, _ total: UInt64?) -> Void

    public init(
        incarnation: IncarnationRecord, base: BaseRecord, spans: [LogSpan], cuts: [StreamCut], log: any LogReader,
        directory: String, finalDirectory: String, recover: RecoveryMode, bindir: String?, fetchCommand: String,
        mappings: [String: String], only: Set<String>? = nil, losses: [TreeLoss] = [], progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void
    ) {
        self.incarnation = incarnation
        self.base = base
        self.spans = spans
        self.cuts = cuts
        self.log = log
        self.directory = directory
        self.finalDirectory = finalDirectory
        self.recover = recover
        self.bindir = bindir
        self.fetchCommand = fetchCommand
        self.mappings = mappings
        self.only = only
        self.losses = losses
        self.progress = progress
    }
}

public struct RestoreOutcome: Sendable {
    /// What was done, for people: name and value.
    public var facts: [(String, String)]
    /// What was lost or left out.
    public var warnings: [String]
    public init(facts: [(String, String)], warnings: [String] = []) {
        self.facts = facts
        self.warnings = warnings
    }
}

/// Turns a base and its log into what the source was at the cut.
public protocol RestoreTarget: Sendable {
    /// Looks for what `replay` will need, before anything is fetched.
    func prepare(base: BaseRecord, recover: RecoveryMode, bindir: String?) async throws
    /// Paths of the base that the restore leaves out or puts elsewhere are the target's business: it works on `job.directory`.
    func replay(_ job: RestoreJob) async throws -> RestoreOutcome
}

/// A target that can bring back one item of a source alone, such as one repository.
public protocol PartialRestoreTarget: RestoreTarget {
    /// What else has to be restored so that `paths` are whole, such as a repository's object pool.
    ///
    /// - Parameters:
    ///   - paths: below the restored directory; also the subjects of their records.
    ///   - content: reads a file of the base; `nil` when the base has no such file.
    /// - Returns: paths, those given among them.
    func companions(
        of paths: Set<String>, cuts: [StreamCut], spans: [LogSpan], log: any LogReader, content: (String) async throws -> [UInt8]?
    ) async throws -> Set<String>
    /// Whether the item is there after the restore.
    func isPresent(_ path: String, in directory: String) throws -> Bool
}

/// A finding of `tidemark check`.
public struct Finding: Sendable, Codable {
    public enum Level: String, Sendable, Codable { case ok, warning, failure }
    public var level: Level
    public var subject: String
    public var message: String
    public var remedy: String?
    /// Where the finding is about another source: its name in the archive, and the identity that was met under it.
    public var anchor: String?
    public var anchorIdentity: String?
    public init(_ level: Level, _ subject: String, _ message: String, remedy: String? = nil, anchor: String? = nil, anchorIdentity: String? = nil) {
        self.level = level
        self.subject = subject
        self.message = message
        self.remedy = remedy
        self.anchor = anchor
        self.anchorIdentity = anchorIdentity
    }
}

/// What the log of a stream looks like to people, and how it is cut: the few things in which kinds of source differ.
public protocol Component: Sendable {
    /// `postgres`, `gitaly`.
    static var kind: String { get }
    func makeLogSource() throws -> any LogSource
    func makeSnapshotSource() throws -> any SnapshotSource
    func check() async -> [Finding]
    /// `nil` for a source that keeps nothing for its receiver.
    func makeGuard() -> (any SourceGuard)?
    /// Files to be locked so that only one agent reads the source on this machine.
    var lockPaths: [String] { get }
}

extension Component {
    public func makeGuard() -> (any SourceGuard)? { nil }
}

/// The side of a kind of source that needs no configuration: enough to restore on a machine that never saw the source.
public protocol ComponentKind: Sendable {
    var kind: String { get }
    var restoreTarget: any RestoreTarget { get }
    /// An offset in the notation of the source's own tools.
    func describe(offset: UInt64) -> String
    /// Whether streams that no base mentions begin empty, so that their log can be replayed from its first record.
    var streamsMayBeginEmpty: Bool { get }
    /// The offset of such a stream's first record.
    var firstOffset: UInt64 { get }
    /// Whether other sources' fences can be written into its log, and its commit times are the time of a restore.
    var carriesFences: Bool { get }
    /// The name of the piece that a record ending just before `offset` belongs to, where names follow from positions.
    func pieceName(endingAt offset: UInt64, branch: UInt32, of incarnation: IncarnationRecord) -> PieceName?
    /// A reader of archived log that has read nothing yet; `nil` for a kind whose content does not tell what its index has to say.
    ///
    /// - Throws: `.archiveDamaged` when the incarnation's record lacks a fact that it takes.
    func makeIndexer(for incarnation: IncarnationRecord) throws(ArchiveError) -> (any LogIndexer)?
}
