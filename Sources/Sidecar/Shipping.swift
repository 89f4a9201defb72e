import ArchiveCore
import Catalog
import Lag
import Pack
import Runtime
import Source

/// Moves one source's log into the archive until it is stopped or something fails: pull, pack, store, acknowledge.
///
/// Holds at most four pieces besides what the source holds. Nothing is acknowledged before it and everything before it is
/// durable.
public actor Shipping {
    /// Closed pieces between two checkpoints: what an agent with an empty state directory has to read at most.
    static let checkpointInterval: UInt64 = 256

    public nonisolated let source: String
    private let kind: String
    private let log: any LogSource
    private let catalog: Catalog
    private let output: Log
    /// Hears of everything; `nil`: nobody does.
    private let meter: SourceMeter?
    /// Pieces that are packed and stored side by side.
    private let workers: Int

    private var incarnation: IncarnationRecord?
    private var ledger = DurabilityLedger()
    private var checkpoint = Checkpoint()
    private var chapters = ChapterKeeper()
    /// Sequences of the last piece given out, and of the last one that counts as archived.
    private var given: UInt64 = 0
    private var committed: UInt64 = 0
    /// Pieces whose content is durable, as is that of all before them; in log order.
    private var committable: [(sequence: UInt64, name: PieceName, index: PieceIndex)] = []
    private var isCommitting = false
    private var superseded: [UInt64: (tails: [PieceName], upTo: UInt64)] = [:]
    /// Pieces that closed ones replaced, still to be removed.
    private var replaced: [PieceName] = []
    private var isRemoving = false
    /// Closed pieces since the last checkpoint.
    private var closedSince: UInt64 = 0
    private var pendingWatermark: (after: UInt64, time: Moment)?
    private var watermark: Moment?
    /// When the archive was last seen at its place.
    private var confirmed: ContinuousClock.Instant?
    private var stopping = false
    /// By stream's branch, where it left the one before: what lies before that was archived on the older branch already.
    private var branchStarts: [UInt32: UInt64] = [:]
    /// What the present attempt failed at.
    private var blame: Miss.Cause?
    /// The source was let go of since the archive did not take its log: it is asked again only when the archive takes an object.
    private var needsProbe = false

    /// Seconds after which it is seen to that the archive is still there.
    static let confirmation = 15.0

    public init(source: String, kind: String, log: any LogSource, catalog: Catalog, output: Log, meter: SourceMeter? = nil) {
        self.source = source
        self.kind = kind
        self.log = log
        self.catalog = catalog
        self.output = output
        self.meter = meter
        workers = min(4, catalog.store.parallelism)
    }

    /// Asks for a graceful end: what is in hand is archived, then `run` returns.
    public func stop() async {
        stopping = true
        await log.stop()
    }

    /// Lets go of the source: `run` fails with this, and goes on only once the archive takes an object again.
    public func startOver(because failure: ArchiveError) async {
        needsProbe = true
        await log.interrupt(failure)
    }

    /// Ships until stopped.
    ///
    /// - Throws: what the source and the store throw; after that `run` may be called again.
    public func run() async throws {
        blame = nil
        do {
            try await ship()
            await log.close()
        } catch {
            if !stopping, !Task.isCancelled { meter?.failed(error, blame ?? .store, at: now()) }
            await log.close()
            throw error
        }
    }

    /// What of the log is on its way to the archive's door; never waits.
    public nonisolated func progress() async -> LogProgress { await log.progress() }

    /// Whatever fails in `work` first is to blame for the attempt's end.
    private func blaming<T: Sendable>(_ cause: Miss.Cause, _ work: () async throws -> T) async throws -> T {
        do { return try await work() } catch {
            blame = blame ?? cause
            throw error
        }
    }

    private func ship() async throws {
        var reason: String?
        while true {
            try await catalog.confirm()
            confirmed = .now
            if needsProbe {
                try await catalog.probeWrites()
                needsProbe = false
            }
            if let meter { meter.begin(at: now(), proven: meter.hasBegun ? watermark : try await catalog.lagKnown(of: source)) }
            let identity = try await blaming(.network) { try await log.identify() }
            let incarnation = try await adopt(identity, because: reason)
            let (state, checkpoint) = try await catalog.resume(incarnation, cleaning: true)
            self.incarnation = incarnation
            self.checkpoint = checkpoint
            chapters = try await catalog.resumeChapters(of: incarnation)
            ledger = DurabilityLedger()
            pendingWatermark = nil
            given = 0
            committed = 0
            committable = []
            superseded = [:]
            replaced = []
            closedSince = 0
            watermark = try await catalog.watermark(of: incarnation)
            branchStarts = [:]
            for branch in state.branches { note(branch) }
            let gaps = meter == nil ? [] : try await catalog.openGaps(of: incarnation)
            try await blaming(.network) { try await log.start(from: state) }
            meter?.connected(incarnation, watermark: watermark, gaps: gaps, at: now())
            output.info("archiving \(incarnation.kind) \(identity.identity) as \(incarnation.id)")
            // `stop` may have come while the source was not listening yet.
            if stopping { await log.stop() }
            reason = try await pump()
            if checkpoint.count != self.checkpoint.count { try await catalog.record(self.checkpoint, of: incarnation) }
            guard let reason else { return }
            output.warning("a new history begins: \(reason)")
            await log.close()
        }
    }

    private enum Step: Sendable {
        case pulled(LogOutput?)
        case archived
    }

    /// - Returns: why a new incarnation has to begin; `nil` after `stop`.
    private func pump() async throws -> String? {
        try await withThrowingTaskGroup(of: Step.self) { group in
            var flying = 0
            while true {
                // Beside the pieces, so that one which cannot be archived is known at once, and not with the log's next one.
                group.addTask { .pulled(try await self.blaming(.network) { try await self.log.next() }) }
                var (isPulled, next) = (false, LogOutput?.none)
                while !isPulled || flying > company(of: next), let step = try await group.next() {
                    switch step {
                    case .pulled(let output): (isPulled, next) = (true, output)
                    case .archived: flying -= 1
                    }
                }
                guard let next else { return nil }
                switch next {
                case .piece(let piece):
                    ledger.begin(piece.sequence, piece.name)
                    given = piece.sequence
                    flying += 1
                    if let meter {
                        let commits = fresh(piece.events, of: piece.name, behind: piece.firstFresh)
                        // Of a closed piece that tails came before, the rest alone.
                        let bytes = piece.firstFresh > 0 ? piece.spans.last.map { $0.end - min($0.end, piece.firstFresh) } ?? 0 : piece.frames.reduce(0) { $0 + UInt64($1.count) }
                        meter.gave(piece.sequence, oldest: commits.min(), bytes: bytes, at: now())
                    }
                    group.addTask {
                        try await self.archive(piece)
                        return .archived
                    }
                case .watermark(let time):
                    pendingWatermark = (given, time)
                    try await advanceWatermark()
                case .gap(var gap):
                    gap.provenUpTo = watermark
                    try await catalog.record(gap, of: current())
                    meter?.found(gap)
                    output.error(
                        "the log of stream \(gap.stream) has a hole from \(gap.start) to \(gap.end): \(gap.cause). Take a base now: tidemark backup --source \(source)")
                case .branch(let branch):
                    try await catalog.record(branch, of: current())
                    note(branch)
                    output.info("the source went on on branch \(branch.branch)")
                case .historyChanged(let reason):
                    return reason
                }
            }
        }
    }

    /// Pieces that may be on their way while an output is taken.
    private func company(of output: LogOutput?) -> Int {
        switch output {
        case .piece: workers - 1
        case .watermark: .max
        // Whatever else comes, the end too, waits for all that came before it.
        default: 0
        }
    }

    private func current() -> IncarnationRecord {
        guard let incarnation else { preconditionFailure("shipping before an incarnation was chosen") }
        return incarnation
    }

    private func note(_ branch: BranchRecord) { branchStarts[branch.branch] = branch.ancestors.last?.end }

    /// Commit times of what the archive does not have by an older branch or by tails, and that was made since there is an archive of it.
    private func fresh(_ events: [LogEvent], of name: PieceName, behind offset: UInt64) -> [Moment] {
        events.commitTimes(behind: max(offset, branchStarts[name.branch] ?? 0), since: current().created)
    }

    private func archive(_ piece: LogPiece) async throws {
        try await blaming(.store) {
            let packed = try await blocking { [catalog] in try catalog.pack(piece) }
            try await catalog.storeContent(packed, of: current())
            superseded[piece.sequence] = (piece.supersedes, piece.firstFresh)
            committable += ledger.finish(piece.sequence, packed.index)
            try await commit()
            try await removeReplaced()
        }
    }

    /// Stores the indexes of pieces whose content is durable, one after the other in log order: after a crash at any moment the
    /// archive ends where its first missing index is, and nothing behind it was acknowledged.
    private func commit() async throws {
        guard !isCommitting else { return }  // whoever is at it takes ours too
        isCommitting = true
        defer { isCommitting = false }
        let incarnation = current()
        // Before anything is acknowledged: what goes into a place that was emptied is lost.
        if confirmed.map({ .now - $0 > .seconds(Self.confirmation) }) ?? true {
            try await catalog.confirm()
            confirmed = .now
        }
        while !committable.isEmpty {
            let piece = committable.removeFirst()
            try await catalog.storeIndex(piece.name, piece.index, of: incarnation)
            let (tails, upTo) = superseded.removeValue(forKey: piece.sequence) ?? ([], 0)
            meter?.archived(
                piece.sequence, commits: fresh(piece.index.events, of: piece.name, behind: upTo), stored: piece.index.storedLength, at: now())
            replaced += tails
            checkpoint.add(piece.name, piece.index)
            committed = piece.sequence
            await log.acknowledge(through: piece.sequence)
            for chapter in chapters.add(PieceSummary(piece.name, piece.index)) { try await catalog.record(chapter, of: incarnation) }
            try await advanceWatermark()
            // Whoever resumes begins behind the last closed piece: tails are read again in any case.
            if piece.name.part == nil { closedSince += 1 }
            if closedSince == Self.checkpointInterval {
                closedSince = 0
                try await catalog.record(checkpoint, of: incarnation)
            }
        }
    }

    /// Removes replaced pieces, of which there may be thousands, beside what is archived meanwhile.
    private func removeReplaced() async throws {
        guard !isRemoving else { return }  // whoever is at it takes ours too
        isRemoving = true
        defer { isRemoving = false }
        while !replaced.isEmpty {
            let names = replaced
            replaced = []
            try await catalog.remove(names, of: current())
        }
    }

    private func advanceWatermark() async throws {
        guard let pending = pendingWatermark, pending.after <= committed else { return }
        pendingWatermark = nil
        guard watermark.map({ $0 < pending.time }) ?? true else { return }
        let old = watermark
        watermark = pending.time
        try await catalog.advanceWatermark(to: pending.time, replacing: old, totals: checkpoint.totals, of: current())
        meter?.proven(upTo: pending.time, at: now())
    }

    private func adopt(_ identity: SourceIdentity, because reason: String?) async throws -> IncarnationRecord {
        try await catalog.adopt(identity, source: source, kind: kind, at: now(), because: reason)
    }
}

extension IncarnationRecord {
    /// Whether this is the history of a source that shows `identity`.
    ///
    /// - Returns: `false` when another incarnation is to begin.
    /// - Throws: `.twoHistories` when another source has the name.
    public func isHistory(of identity: SourceIdentity, kind: String) throws(ArchiveError) -> Bool {
        guard self.kind == kind else {
            throw ArchiveError(
                .twoHistories, "'\(source)' is a source of the kind '\(self.kind)' in this archive, not '\(kind)'.",
                remedy: "Give the source another name in the configuration.")
        }
        guard self.identity == identity.identity || identity.mayChange else {
            throw ArchiveError(
                .twoHistories,
                "'\(source)' has the identity \(identity.identity), but the archive holds \(self.identity) under that name.",
                remedy: "Connect to the right server, or give the new one another name in the configuration.")
        }
        return self.identity == identity.identity
    }
}

extension Catalog {
    /// The source's newest incarnation when it still is the same history, else a new one.
    func adopt(
        _ identity: SourceIdentity, source: String, kind: String, at time: Moment, because reason: String?
    ) async throws -> IncarnationRecord {
        let known = try await incarnations(of: source)
        if let newest = known.last, try newest.isHistory(of: identity, kind: kind), reason == nil { return newest }
        let number = (known.last?.number ?? 0) + 1
        let digits = String(number)
        let record = IncarnationRecord(
            source: source, id: "\(identity.identity)-\(String(repeating: "0", count: max(0, 4 - digits.count)))\(digits)", kind: kind,
            identity: identity.identity, number: number, created: time, facts: identity.facts,
            reason: reason ?? known.last.map { "the identity changed from \($0.identity)" })
        do { try await self.record(record) } catch let error as ArchiveError where error.code == .objectExists {
            // A backup and an agent of the same source may begin it at the same moment: whoever was first named it.
            guard let first = try await incarnations(of: source).last, first.id == record.id, try first.isHistory(of: identity, kind: kind) else { throw error }
            return first
        }
        return record
    }
}
