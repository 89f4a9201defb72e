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
    /// Seconds between two watermarks of an idle storage.
    private static let idleWatermark = 5.0

    private var feed: any EntryFeed
    /// For each partition the first LSN that was not given out, and the digest of the entry before it.
    private var positions: [String: ResumeState.Position] = [:]
    /// Partitions whose history was compared with the archive's.
    private var proven: Set<String> = []
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
    private var isBehind = false
    private var sleeper: Task<Void, Never>?

    /// - Parameters:
    ///   - spool: the directory of the native archiver's tars; `nil`: tail the log itself.
    ///   - prune: whether archived entries are removed.
    public init(storage: String, spool: String?, tail: Double, prune: Bool) {
        self.storage = storage
        makeFeed = { if let spool { SpoolFeed(spool: spool, storage: storage) } else { WALFeed(storage: storage) } }
        feed = makeFeed()
        interval = tail
        prunes = prune
    }

    public func identify() async throws -> SourceIdentity { try await GitalyStorage.identify(storage) }

    public func start(from resume: ResumeState) async throws {
        feed = makeFeed()
        positions = resume.positions
        durable = [:]
        proven = []
        pending = []
        unacknowledged = []
        finished = false
        isDirty = true
        let last = resume.lastPiece[0].flatMap { UInt64($0.name, radix: 16) } ?? 0
        number = last + 1
    }

    public func next() async throws -> LogOutput? {
        while true {
            if !pending.isEmpty { return pending.removeFirst() }
            if finished { return nil }
            try Task.checkCancellation()
            // Entries wait for others up to the interval; a backlog does not.
            if !isBehind, let last = lastLook { await pause(until: last.adding(seconds: interval)) }
            let isLast = stopping
            let begun = now()
            lastLook = begun
            let found = try await look(at: begun)
            if found > 0 {
                isDirty = true
                continue
            }
            isBehind = false
            if isDirty || isLast || begun - lastWatermark >= Self.idleWatermark {
                lastWatermark = begun
                isDirty = false
                pending.append(.watermark(begun.adding(seconds: -Self.tick)))
            }
            finished = isLast
        }
    }

    /// Takes what is new into at most one piece. - Returns: the number of entries taken, and of holes found.
    private func look(at time: Moment) async throws -> Int {
        let state = (feed, positions, proven, prunes ? durable : [:])
        let result = try await blocking { try Self.take(state.0, state.1, state.2, pruning: state.3, at: time) }
        (feed, positions, proven) = (result.feed, result.positions, result.proven)
        // What was there at the start and is archived may be pruned as well.
        for partition in result.proven.subtracting(state.2) {
            if let end = state.1[partition]?.end, end > 0 { durable[partition] = end - 1 }
        }
        pending += result.gaps.map { .gap($0) }
        if let reason = result.historyChanged {
            pending.append(.historyChanged(reason: reason))
            finished = true
        } else if !result.builder.isEmpty {
            isBehind = result.builder.isFull
            let piece = result.builder.piece(number: number)
            unacknowledged.append((number, piece.spans.map { ($0.stream, $0.end - 1) }))
            number += 1
            pending.append(.piece(piece))
            // Everything that was there when the look began is in the pieces given out by now.
            if result.isComplete {
                pending.append(.watermark(time.adding(seconds: -Self.tick)))
                lastWatermark = time
            }
        }
        return pending.count
    }

    fileprivate struct Taken: Sendable {
        var feed: any EntryFeed
        var positions: [String: ResumeState.Position]
        var proven: Set<String>
        var builder = PackBuilder()
        /// Whether everything that was listed was taken.
        var isComplete = true
        var gaps: [GapRecord] = []
        var historyChanged: String?
    }

    private static func take(
        _ feed: any EntryFeed, _ positions: [String: ResumeState.Position], _ proven: Set<String>, pruning durable: [String: UInt64],
        at time: Moment
    ) throws -> Taken {
        var taken = Taken(feed: feed, positions: positions, proven: proven)
        let changes = try taken.feed.changes(at: time).sorted { ($0.partition.utf8.count, $0.partition) < ($1.partition.utf8.count, $1.partition) }
        for listing in changes {
            let (partition, lsns) = (listing.partition, listing.lsns)
            if taken.builder.isFull {
                taken.feed.forget(partition)
                taken.isComplete = false
                continue
            }
            if let reason = try taken.compare(listing) {
                taken.historyChanged = reason
                return taken
            }
            // Archived by an earlier run, or uploaded only after it was taken from the log.
            if let end = durable[partition], let removable = listing.removable, removable <= end { try taken.feed.prune(partition, through: end) }
            let fresh = lsns.filter { $0 >= taken.positions[partition]?.end ?? 0 }.sorted()
            guard !fresh.isEmpty else { continue }
            try taken.feed.settle(partition)
            for lsn in fresh {
                if taken.builder.isFull {
                    taken.feed.forget(partition)
                    taken.isComplete = false
                    break
                }
                // A listing made while entries arrive may show a later one and lack an earlier one that is there all the same.
                while let due = taken.positions[partition]?.end, due < lsn, let late = try taken.feed.read(partition, due) {
                    taken.builder.add(late)
                    taken.positions[partition] = .init(end: due + 1)
                }
                let due = taken.positions[partition]?.end
                guard let entry = try taken.feed.read(partition, lsn) else {
                    // Pruned while it was read: what comes next tells of the hole, or it is listed anew.
                    taken.feed.forget(partition)
                    taken.isComplete = false
                    continue
                }
                if let due, lsn > due {
                    // One piece does not reach across a hole: what is before it is archived first.
                    if !taken.builder.isEmpty {
                        taken.feed.forget(partition)
                        taken.isComplete = false
                        break
                    }
                    taken.gaps.append(
                        GapRecord(
                            stream: partition, branch: 0, start: due, end: lsn, noticed: time,
                            cause: "entries were removed before they were archived; Gitaly has to run with GITALY_KEEP_WAL_LOG_ENTRIES"))
                }
                taken.builder.add(entry)
                taken.positions[partition] = .init(end: lsn + 1)
            }
        }
        return taken
    }

    private func pause(until time: Moment) async {
        let seconds = min(time - now(), interval)
        guard !stopping, seconds > 0 else { return }
        let task = Task {
            // Ended early by `stop`, which is no failure.
            do { try await Task.sleep(for: .seconds(seconds)) } catch { return }
        }
        sleeper = task
        await withTaskCancellationHandler { await task.value } onCancel: { task.cancel() }
    }

    public func acknowledge(through sequence: UInt64) async {
        var ends: [String: UInt64] = [:]
        while let first = unacknowledged.first, first.sequence <= sequence {
            for (partition, lsn) in first.ends {
                ends[partition] = lsn
                durable[partition] = lsn
            }
            unacknowledged.removeFirst()
        }
        guard prunes, !ends.isEmpty else { return }
        let state = (feed, ends)
        do {
            try await blocking {
                var feed = state.0
                for (partition, lsn) in state.1 { try feed.prune(partition, through: lsn) }
            }
        } catch {
            Log().warning("archived entries could not be removed, which is tried again with the next ones: \(error)")
        }
    }

    public func stop() {
        stopping = true
        sleeper?.cancel()
    }

    public func close() {}
}

extension GitalyLogSource.Taken {
    /// Compares what lies in the log with what is archived: its height each time, the content of the last archived entry once.
    ///
    /// - Returns: why this is another history; `nil` when it is the same.
    fileprivate mutating func compare(_ listing: Listing) throws -> String? {
        let partition = listing.partition
        guard let position = positions[partition], position.end > 0 else {
            proven.insert(partition)
            return nil
        }
        let last = position.end - 1
        // Positions only grow, and the highest entry is the last to go: a lower one means that the log began anew.
        if let highest = listing.highest, highest < last {
            return "partition \(partition) has \(PartitionLSN(rawValue: highest)) as its highest entry, but \(PartitionLSN(rawValue: last)) is archived"
        }
        guard !proven.contains(partition) else { return nil }
        if listing.lsns.contains(last), !position.sha256.isEmpty, let entry = try feed.read(partition, last) {
            // With the time that is archived: an administrator's chown changes the one that is seen now.
            let frame = EntryFrame.encode(
                partition: partition, lsn: last, time: position.time, manifest: entry.manifest, files: entry.files)
            if EntryDigest.of(frame) != position.sha256 {
                return "entry \(PartitionLSN(rawValue: last)) of partition \(partition) is archived with other content"
            }
        }
        proven.insert(partition)
        return nil
    }
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
