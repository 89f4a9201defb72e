import ArchiveCore
import Catalog
import Runtime
import Store

/// Keeps one copy of an archive level with its primary, until its task is cancelled: starts over with growing pauses after failures. It only
/// reads the primary, but for one probe that tells whether both are the same place, and nothing waits for it.
public actor CopyKeeper {
    /// What a copy remembers on the agent's own disk: that a place held it once. An empty place is then not filled again in silence.
    public struct Memory: Sendable {
        public var isKnown: @Sendable () throws -> Bool
        public var note: @Sendable () throws -> Void
        /// What the operator removes when the place is to be filled anew.
        public var name: String

        public init(name: String, isKnown: @escaping @Sendable () throws -> Bool, note: @escaping @Sendable () throws -> Void) {
            self.name = name
            self.isKnown = isKnown
            self.note = note
        }
    }

    private let primary: Catalog
    private let store: any ObjectStore
    private let interval: Double
    private let output: Log
    private let memory: Memory?
    private let changes: (@Sendable (String) -> UInt64)?
    private let histories: @Sendable () -> UInt64
    /// What `catchUp` goes on with.
    private var opened: CopyTarget?
    private var caughtUp: [IncarnationRecord: (log: HistoryCopy, bases: BaseCopy)] = [:]

    /// Seconds between attempts: doubled after each failure, from the first to the last.
    static let pauses = (first: 1.0, last: 60.0)
    /// Seconds after which everything is looked for, whether anything is known to have changed or not.
    static let thoroughly = 30.0
    /// Between two looks for what was recorded of the lag.
    private static let lag = Duration.seconds(300)
    /// Seconds between two looks for new bases and histories.
    private let seldom: Double

    /// - Parameters:
    ///   - store: where the copy is.
    ///   - interval: seconds between two looks at the log.
    ///   - seldom: seconds between two looks for new bases and histories; `nil`: ten intervals, ten seconds at most.
    ///   - changes: how often this process changed anything of a source in the primary: it is looked at when that number is another one, else
    ///     seldom. `nil`: it is looked at each time.
    ///   - histories: how often this process began a history in the primary: they are looked for when that number is another one, else seldom.
    public init(
        primary: Catalog, copy store: any ObjectStore, interval: Double, seldom: Double? = nil, output: Log, memory: Memory? = nil,
        changes: (@Sendable (String) -> UInt64)? = nil, histories: @escaping @Sendable () -> UInt64 = { 0 }
    ) {
        self.primary = primary
        self.store = store
        self.interval = interval
        self.seldom = seldom ?? min(10, interval * 10)
        self.output = output
        self.memory = memory
        self.changes = changes
        self.histories = histories
    }

    /// Whether trying again would change nothing before somebody has looked.
    private static func isFinal(_ error: any Error) -> Bool {
        guard let code = (error as? ArchiveError)?.code else { return false }
        return code == .twoHistories || code == .archiveExists || code == .archiveNewer
    }

    /// Runs until cancelled.
    ///
    /// - Throws: `.twoHistories` or `.archiveExists` when the place holds something else, `CancellationError`.
    public func run() async throws {
        var pause = Self.pauses.first
        while true {
            let begun = ContinuousClock.now
            do { try await follow(try await open()) } catch {
                try Task.checkCancellation()
                if Self.isFinal(error) { throw error }
                if ContinuousClock.now - begun > .seconds(Self.pauses.last) { pause = Self.pauses.first }
                output.error("\(error) Trying again in \(Int(pause)) s.")
                try await Task.sleep(for: .seconds(pause))
                pause = min(pause * 2, Self.pauses.last)
            }
        }
    }

    /// Makes an empty place a copy, or finds out that it is one.
    ///
    /// - Throws: what the place throws; `.twoHistories` when it holds another archive, `.archiveExists` when it holds anything else, or is the
    ///   primary itself.
    public func create() async throws { _ = try await open() }

    /// Brings the copy level once.
    ///
    /// - Parameters:
    ///   - page: names that are listed at a time.
    ///   - thoroughly: also looks for what changes seldom, and again at what could not be copied.
    /// - Returns: whether it has everything that the primary had when this began.
    public func catchUp(page: Int = 1024, thoroughly: Bool = true) async throws -> Bool {
        let target: CopyTarget
        if let opened { target = opened } else { target = try await open() }
        opened = target
        var isLevel = true
        for incarnation in try await incarnations() {
            let (log, bases) = caughtUp[incarnation] ?? (HistoryCopy(incarnation, target: target, page: page), BaseCopy(incarnation, target: target))
            caughtUp[incarnation] = (log, bases)
            // The base first, so that what it leaves behind holds nothing up.
            if try await !bases.round(thoroughly: thoroughly) { isLevel = false }
            if try await log.round(thoroughly: thoroughly) != .level { isLevel = false }
        }
        if thoroughly { for source in try await primary.sources() { try await target.copyLag(of: source) } }
        return isLevel
    }

    // MARK: The place

    /// - Throws: what the place throws; `.twoHistories` when it holds another archive, `.archiveExists` when it holds anything else, or is the
    ///   primary itself.
    private func open() async throws -> CopyTarget {
        let key = Catalog.placeRules.identityKey
        let identity = try await primary.store.get(key)
        do {
            guard try await store.get(key) == identity else {
                throw ArchiveError(
                    .twoHistories, "\(store.description) is not a copy of the archive at \(primary.store.description): its '\(key)' is another one.",
                    remedy: "Name the right place under 'copies' in the configuration.")
            }
            guard try await !primary.store.isSamePlace(as: store) else {
                throw ArchiveError.noCopy(store.description, .same, primary.store.description, isPrimary: true)
            }
        } catch let error as ArchiveError where error.code == .objectMissing {
            if let first = try await store.list(prefix: "", after: nil, limit: 1).first {
                throw ArchiveError(
                    .archiveExists, "\(store.description) cannot become a copy: it is no archive and not empty; it holds '\(first.key)', among others.",
                    remedy: "Name an empty place for the copy.")
            }
            if let memory, try await blocking({ try memory.isKnown() }) {
                throw ArchiveError(
                    .storeUnavailable, "The copy at \(store.description) was there before, and the place is empty now.",
                    remedy: "See whether its file system is mounted. If it was lost and is to be filled anew, remove '\(memory.name)'.")
            }
            try await store.put(identity, at: key)
            output.info("\(store.description) is a copy of \(primary.store.description) from now on")
        }
        if let memory { try await blocking { try memory.note() } }
        return CopyTarget(primary: primary, copy: try await Catalog.open(store), output: output)
    }

    private func incarnations() async throws -> [IncarnationRecord] {
        var found: [IncarnationRecord] = []
        for source in try await primary.sources() { found += try await primary.incarnations(of: source) }
        return found
    }

    // MARK: Following

    private func follow(_ target: CopyTarget) async throws {
        try await withThrowingTaskGroup(of: (seen: UInt64, found: [IncarnationRecord]).self) { group in
            var known: Set<IncarnationRecord> = []
            group.addTask { try await self.lookForHistories() }
            // One that never ends gives nothing: this is the one that looks for histories.
            while let (seen, found) = try await group.next() {
                for incarnation in found where known.insert(incarnation).inserted {
                    let isOld = found.contains { $0.source == incarnation.source && $0.number > incarnation.number }
                    group.addTask { (0, try await self.followLog(HistoryCopy(incarnation, target: target), isOld: isOld)) }
                    group.addTask { (0, try await self.followBases(BaseCopy(incarnation, target: target), isOld: isOld, target)) }
                }
                group.addTask {
                    try await self.waitForHistories(since: seen)
                    return try await self.lookForHistories()
                }
            }
        }
    }

    /// - Returns: also the number that was told before the look: what began meanwhile is looked for again.
    private func lookForHistories() async throws -> (seen: UInt64, found: [IncarnationRecord]) { (histories(), try await incarnations()) }

    /// Waits until this process has begun another history, but not longer than what others begin may wait.
    private func waitForHistories(since seen: UInt64) async throws {
        let end = ContinuousClock.now + .seconds(seldom)
        while ContinuousClock.now < end, histories() == seen { try await Task.sleep(for: .seconds(min(interval, seldom))) }
    }

    /// - Parameter isOld: the source has a newer history: once everything of this one is copied, nothing changes any more.
    private func followLog(_ log: HistoryCopy, isOld: Bool) async throws -> [IncarnationRecord] {
        var seen: UInt64?
        var looked: ContinuousClock.Instant?
        while true {
            let now = changes?(log.incarnation.source)
            let isThorough = looked.map { ContinuousClock.now - $0 > .seconds(Self.thoroughly) } ?? true
            if isThorough || now == nil || now != seen {
                if isThorough { looked = .now }
                if try await log.round(thoroughly: isThorough) != .overtaken { seen = now }
            }
            try await Task.sleep(for: .seconds(isOld && seen != nil ? Self.thoroughly : interval))
        }
    }

    private func followBases(_ bases: BaseCopy, isOld: Bool, _ target: CopyTarget) async throws -> [IncarnationRecord] {
        var looked: ContinuousClock.Instant?
        var copiedLag: ContinuousClock.Instant?
        while true {
            let isThorough = looked.map { ContinuousClock.now - $0 > .seconds(Self.thoroughly) } ?? true
            if isThorough { looked = .now }
            try await bases.round(thoroughly: isThorough)
            if !isOld, copiedLag.map({ ContinuousClock.now - $0 > Self.lag }) ?? true {
                copiedLag = .now
                try await target.copyLag(of: bases.incarnation.source)
            }
            try await Task.sleep(for: .seconds(isOld ? Self.thoroughly : seldom))
        }
    }
}
