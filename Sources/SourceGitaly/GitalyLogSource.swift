import ArchiveCore
import DurableIO
import Foundation
import Runtime
import Source

/// Tails all partitions of one storage.
public actor GitalyLogSource: LogSource {
    private let storage: String
    private let makeFeed: @Sendable () -> any EntryFeed
    /// Longest time between two looks, in seconds.
    private let interval: Double
    private let prunes: Bool
    /// Entries that came to be after a look began may carry a time up to this many seconds before it: the kernel stamps them with the
    /// time of its last tick.
    private static let tick = 0.02
    /// Seconds by which a look may be late before what came since the last one counts as not known.
    private static let patience = 2.0
    /// Seconds between two watermarks of an idle storage.
    private static let idleWatermark = 5.0

    private var state: EntryBatch.State
    /// What was listed and is not taken to its end.
    private var batch: EntryBatch?
    private var fences: FenceSchedule?
    /// See `PackBuilder.limit`.
    private let entriesPerPack: Int
    private var number: UInt64 = 1
    private var pending: [LogOutput] = []
    /// Partitions and their last LSNs of the pieces that are not acknowledged yet.
    private var unacknowledged: [(sequence: UInt64, ends: [(String, UInt64)])] = []
    /// For each partition the last LSN that is durable in the archive.
    private var durable: [String: UInt64] = [:]
    private var stopping = false
    private var finished = false
    private var lastWatermark = Moment(rawValue: 0)
    private var isDirty = true
    /// When the log was looked at last, and whether more was there than one piece takes.
    private var lastLook: Moment?
    /// What is listed and not given out came after this: the look before.
    private var listedSince: Moment?
    private var isBehind = false
    /// From a look to the archive.
    private var pace = TailPace()
    private var lookedAt = 0.0
    private let born = ContinuousClock.now
    private var sleeper: Task<Void, Never>?

    /// - Parameters:
    ///   - spool: the directory of the native archiver's tars; `nil`: tail the log itself.
    ///   - tail: longest time that an entry waits for others, in seconds; see `TailPace`.
    ///   - prune: whether archived entries are removed.
    ///   - fencing: `nil`: no fences.
    ///   - output: hears when fences fail and when they are back.
    public init(storage: String, spool: String?, tail: Double, prune: Bool, fencing: Fencing? = nil, output: Log = Log()) {
        self.init(
            storage: storage, spool: spool, tail: tail, prune: prune, fencing: fencing, output: output,
            entriesPerPack: PackBuilder.maximumEntries)
    }

    init(storage: String, spool: String?, tail: Double, prune: Bool, fencing: Fencing?, output: Log, entriesPerPack: Int) {
        self.entriesPerPack = entriesPerPack
        self.storage = storage
        makeFeed = { if let spool { SpoolFeed(spool: spool, storage: storage) } else { WALFeed(storage: storage) } }
        state = EntryBatch.State(feed: makeFeed())
        interval = tail
        prunes = prune
        fences = fencing.map { FenceSchedule($0, output: output) }
    }

    public func identify() async throws -> SourceIdentity { try await GitalyStorage.identify(storage) }

    public func start(from resume: ResumeState) async throws {
        state = EntryBatch.State(feed: makeFeed(), positions: resume.positions)
        batch = nil
        durable = [:]
        pending = []
        unacknowledged = []
        pace = TailPace()
        finished = false
        isDirty = true
        isBehind = false
        // Whether the last entries archived got a fence is not known: one more tells.
        fences?.isCovered = resume.positions.isEmpty
        let last = resume.lastPiece[0].flatMap { UInt64($0.name, radix: 16) } ?? 0
        number = last + 1
    }

    public func next() async throws -> LogOutput? {
        while true {
            if !pending.isEmpty { return pending.removeFirst() }
            if finished { return nil }
            try Task.checkCancellation()
            if let current = batch {
                try await take(current)
                continue
            }
            // Entries wait for others up to the interval; a backlog does not.
            if !isBehind { await pause() }
            isBehind = false
            try await look()
        }
    }

    /// Lists what is new, on both sides of a fence where one is due.
    private func look() async throws {
        let isLast = stopping
        var begun = now()
        let instant = ContinuousClock.now
        let before = lastLook
        lastLook = begun
        lookedAt = seconds(since: born)
        let first = try await list(at: begun)
        let fresh = EntryBatch.highestFresh(first, after: state.positions)
        var fence: FenceRecord?
        var second: [Listing] = []
        if var schedule = fences, !(fresh.isEmpty && schedule.isCovered), schedule.isDue(at: instant, isLast: isLast) {
            fence = await schedule.write(fresh, at: instant)
            fences = schedule
            if fence != nil {
                begun = now()
                second = try await list(at: begun)
                fence?.late = EntryBatch.late(first, second, after: state.positions)
            }
        }
        try await admit(first, second, EntryBatch(begun: begun, isLast: isLast, fence: fence))
        if batch != nil { listedSince = before ?? begun }
    }

    private func list(at time: Moment) async throws -> [Listing] {
        let feed = state.feed
        let (listings, after) = try await blocking {
            var feed = feed
            return (try feed.changes(at: time), feed)
        }
        state.feed = after
        return listings
    }

    private func admit(_ first: [Listing], _ second: [Listing], _ new: EntryBatch) async throws {
        let (before, prunable) = (state, prunes ? durable : [:])
        let result = try await blocking {
            var (batch, state) = (new, before)
            let reason = try batch.admit(first, second, state: &state, pruning: prunable)
            return (batch: batch, state: state, reason: reason)
        }
        state = result.state
        // What was there at the start and is archived may be pruned as well.
        for partition in state.proven.subtracting(before.proven) {
            if let end = state.positions[partition]?.end, end > 0 { durable[partition] = end - 1 }
        }
        if let reason = result.reason {
            pending.append(.historyChanged(reason: reason))
            finished = true
        } else if !result.batch.isEmpty {
            isDirty = true
            batch = result.batch
        } else {
            if isDirty || new.isLast || new.begun - lastWatermark >= Self.idleWatermark {
                isDirty = false
                pending.append(watermark(new.begun))
            }
            finished = new.isLast
        }
    }

    /// Takes what was listed into at most one piece.
    private func take(_ current: EntryBatch) async throws {
        let (before, limit) = (state, entriesPerPack)
        let result = try await blocking {
            var (batch, state, builder, gaps) = (current, before, PackBuilder(limit: limit), [GapRecord]())
            let fence = try batch.take(into: &builder, state: &state, gaps: &gaps, at: now())
            return (batch: batch, state: state, builder: builder, gaps: gaps, fence: fence)
        }
        state = result.state
        pending += result.gaps.map { .gap($0) }
        if !result.builder.isEmpty { fences?.isCovered = false }
        if let fence = result.fence { fences?.isCovered = fence.late.isEmpty }
        if !result.builder.isEmpty || result.fence != nil {
            let piece = result.builder.piece(number: number, fence: result.fence)
            pace.gave(number, at: lookedAt)
            unacknowledged.append((number, piece.spans.map { ($0.stream, $0.end - 1) }))
            number += 1
            pending.append(.piece(piece))
        }
        if result.builder.isFull { isBehind = true }
        guard result.batch.isEmpty else {
            batch = result.batch
            return
        }
        batch = nil
        // Everything that was there when the last listing began is in the pieces given out by now.
        if !result.batch.hasLost { pending.append(watermark(result.batch.begun)) }
        finished = result.batch.isLast
    }

    private func seconds(since instant: ContinuousClock.Instant) -> Double { (ContinuousClock.now - instant) / .seconds(1) }

    private func watermark(_ begun: Moment) -> LogOutput {
        lastWatermark = begun
        return .watermark(begun.adding(seconds: -Self.tick))
    }

    /// Waits for the next look: the interval after the last one, or earlier when a fence is wanted and due by then.
    private func pause() async {
        guard let lastLook else { return }
        let interval = pace.interval(of: interval)
        var seconds = min(lastLook.adding(seconds: interval) - now(), interval)
        if let fences, !fences.isCovered { seconds = min(seconds, (fences.due - .now) / .seconds(1)) }
        guard !stopping, seconds > 0 else { return }
        let task = Task {
            // Ended early by `stop`, which is no failure.
            do { try await Task.sleep(for: .seconds(seconds)) } catch { return }
        }
        sleeper = task
        await withTaskCancellationHandler { await task.value } onCancel: { task.cancel() }
    }

    public func acknowledge(through sequence: UInt64) async {
        pace.archived(through: sequence, at: seconds(since: born))
        var ends: [String: UInt64] = [:]
        while let first = unacknowledged.first, first.sequence <= sequence {
            for (partition, lsn) in first.ends {
                ends[partition] = lsn
                durable[partition] = lsn
            }
            unacknowledged.removeFirst()
        }
        guard prunes, !ends.isEmpty else { return }
        let work = (state.feed, ends)
        do {
            try await blocking {
                var feed = work.0
                for (partition, lsn) in work.1 { try feed.prune(partition, through: lsn) }
            }
        } catch {
            Log().warning("archived entries could not be removed, which is tried again with the next ones: \(error)")
        }
    }

    public func progress() -> LogProgress {
        var progress = LogProgress()
        // A storage that does not answer, or pieces that nobody takes: what came since is not known.
        if let lastLook, now() - lastLook > 2 * interval + Self.patience { progress.unreceived = .init(bytes: nil, since: lastLook) }
        // Its bytes are known once it is read.
        if batch != nil { progress.ungiven = .init(bytes: nil, since: listedSince) }
        return progress
    }

    public func stop() {
        stopping = true
        sleeper?.cancel()
    }

    public func close() async { await fences?.close() }
}

/// What identifies a storage.
enum GitalyStorage {
    static func identify(_ storage: String) async throws -> SourceIdentity {
        let path = "\(storage)/.gitaly-metadata"
        let bytes: [UInt8]
        do { bytes = try await blocking { try Files.read(path, limit: 65_536) } } catch {
            throw ArchiveError(
                .sourceUnreachable, "'\(storage)' is no Gitaly storage: it has no readable .gitaly-metadata.",
                remedy: "Check 'storage' in the configuration, and that Gitaly has been started once.", cause: error)
        }
        struct Metadata: Decodable { var gitaly_filesystem_id: String }
        guard let id = try? JSONDecoder().decode(Metadata.self, from: Data(bytes)).gitaly_filesystem_id, !id.isEmpty, id.utf8.count <= 64,
            id.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0) || $0 == 0x2D })
        else { throw ArchiveError(.sourceRefused, "'\(path)' does not hold a file system id.", remedy: "Let Gitaly write it anew.") }
        return SourceIdentity(identity: id, facts: [:], mayChange: true)
    }
}
