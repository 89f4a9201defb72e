import ArchiveCore
import Digests
import Source

/// What one look at all partitions found to be new, or two looks with a fence between them; on its way into packs.
///
/// A batch is taken to its end before the log is looked at again: only then everything in its packs and in earlier ones was there when
/// its last listing ended, and everything in later packs came after that listing began. What a fence says rests on this.
struct EntryBatch: Sendable {
    /// When its last listing began: what was there then is in it, or is archived.
    var begun: Moment
    /// Whether it was listed after `stop`.
    var isLast: Bool
    /// Partitions with new entries, the next one at the end; ascending LSNs.
    private var fresh: [(partition: String, lsns: [UInt64])] = []
    /// By partition, the highest entry listed.
    private var highest: [String: UInt64] = [:]
    /// The fence between the two listings; goes into the last pack.
    private var fence: FenceRecord?
    /// Whether an entry that was listed could not be read.
    private(set) var hasLost = false

    var isEmpty: Bool { fresh.isEmpty && fence == nil }

    /// How far a storage's log was read: what changes while a batch is made and taken.
    struct State: Sendable {
        var feed: any EntryFeed
        /// For each partition the first LSN that was not given out, and the digest of the entry before it.
        var positions: [String: ResumeState.Position] = [:]
        /// Partitions whose history was compared with the archive's.
        var proven: Set<String> = []
    }

    /// - Returns: of listings, those with entries that were not given out yet, and by partition the highest of these.
    static func highestFresh(_ listings: [Listing], after positions: [String: ResumeState.Position]) -> [String: UInt64] {
        var result: [String: UInt64] = [:]
        for listing in listings {
            guard let last = listing.lsns.last, last >= positions[listing.partition]?.end ?? 0 else { continue }
            result[listing.partition] = last
        }
        return result
    }

    /// What was found by a first listing and, when there was a fence, by a second one after it.
    ///
    /// Entries appear in their order, so where the highest one of a listing was there, all below it were.
    static func late(_ first: [Listing], _ second: [Listing], after positions: [String: ResumeState.Position]) -> [FenceRecord.Late] {
        var before: [String: UInt64] = [:]
        for listing in first { before[listing.partition] = listing.lsns.last }
        var late: [FenceRecord.Late] = []
        for listing in second {
            // What is archived was there before. 0: nothing of the partition was.
            let archived = positions[listing.partition].map { $0.end > 0 ? $0.end - 1 : 0 } ?? 0
            let known = max(before[listing.partition] ?? 0, archived)
            if let last = listing.lsns.last, last > known { late.append(.init(stream: listing.partition, start: known + 1)) }
        }
        return late.sorted { ($0.stream.utf8.count, $0.stream) < ($1.stream.utf8.count, $1.stream) }
    }

    /// - Parameters:
    ///   - begun: when the last listing began.
    ///   - fence: written between the first listing and the second.
    init(begun: Moment, isLast: Bool, fence: FenceRecord? = nil) {
        self.begun = begun
        self.isLast = isLast
        self.fence = fence
    }

    /// Compares what was listed with what is archived, prunes what the archive has, and keeps what is new. Blocks.
    ///
    /// - Parameters:
    ///   - first: its entries count even where they were removed before the second listing.
    ///   - durable: by partition the last LSN to be pruned.
    /// - Returns: why this is another history; `nil` when it is the same.
    mutating func admit(_ first: [Listing], _ second: [Listing], state: inout State, pruning durable: [String: UInt64]) throws -> String? {
        var listings: [String: Listing] = [:]
        for listing in first { listings[listing.partition] = listing }
        for var listing in second {
            if let earlier = listings[listing.partition] { listing.lsns = Set(listing.lsns).union(earlier.lsns).sorted() }
            listings[listing.partition] = listing
        }
        // The next one to be taken at the end.
        for listing in listings.values.sorted(by: { ($0.partition.utf8.count, $0.partition) > ($1.partition.utf8.count, $1.partition) }) {
            let partition = listing.partition
            if let reason = try state.compare(listing) { return reason }
            // Archived by an earlier run, or uploaded only after it was taken from the log.
            if let end = durable[partition], let removable = listing.removable, removable <= end { try state.feed.prune(partition, through: end) }
            let end = state.positions[partition]?.end ?? 0
            let new = listing.lsns.filter { $0 >= end }.sorted()
            guard let last = new.last else { continue }
            fresh.append((partition, new))
            highest[partition] = last
        }
        return nil
    }

    /// Takes entries into at most one pack. Blocks.
    ///
    /// - Returns: the fence, once the batch is taken to its end and nothing of it was lost on the way.
    mutating func take(
        into builder: inout PackBuilder, state: inout State, gaps: inout [GapRecord], at time: Moment
    ) throws -> FenceRecord? {
        while let (partition, lsns) = fresh.last, !builder.isFull {
            try state.feed.settle(partition)
            var next = 0
            while next < lsns.count, !builder.isFull {
                guard try takeEntry(lsns[next], of: partition, into: &builder, state: &state, gaps: &gaps, at: time) else {
                    // The pack ends here.
                    fresh[fresh.count - 1].lsns.removeFirst(next)
                    return nil
                }
                next += 1
            }
            if next == lsns.count { fresh.removeLast() } else { fresh[fresh.count - 1].lsns.removeFirst(next) }
        }
        guard fresh.isEmpty, let fence else { return nil }
        self.fence = nil
        // An entry that was listed and is not in a pack may still be there, and may come in a later one, which the fence would then call
        // newer than itself.
        return highest.allSatisfy { partition, lsn in state.positions[partition]?.end ?? 0 > lsn } ? fence : nil
    }

    /// - Returns: `false` when the entry has to begin another pack.
    private mutating func takeEntry(
        _ lsn: UInt64, of partition: String, into builder: inout PackBuilder, state: inout State, gaps: inout [GapRecord], at time: Moment
    ) throws -> Bool {
        if state.positions[partition] == nil {
            try takeUnlistedFirst(before: lsn, of: partition, into: &builder, state: &state)
        }
        // A listing made while entries arrive may show a later one and lack an earlier one that is there all the same.
        while let due = state.positions[partition]?.end, due < lsn, let unlisted = try state.feed.read(partition, due) {
            builder.add(unlisted)
            state.positions[partition] = .init(end: due + 1)
        }
        guard let entry = try state.feed.read(partition, lsn) else {
            // Pruned while it was read: what comes next tells of the hole, or it is listed anew.
            state.feed.forget(partition)
            hasLost = true
            return true
        }
        if let due = state.positions[partition]?.end, lsn > due {
            // One piece does not reach across a hole: what is before it is archived first.
            guard builder.isEmpty else { return false }
            gaps.append(
                GapRecord(
                    stream: partition, branch: 0, start: due, end: lsn, noticed: time,
                    cause: "entries were removed before they were archived; Gitaly has to run with GITALY_KEEP_WAL_LOG_ENTRIES"))
        }
        builder.add(entry)
        state.positions[partition] = .init(end: lsn + 1)
        return true
    }

    /// The same for a partition of which nothing is archived: its lowest entry listed need not be the lowest there is.
    private func takeUnlistedFirst(before lsn: UInt64, of partition: String, into builder: inout PackBuilder, state: inout State) throws {
        var first = lsn
        while first > 1, try state.feed.read(partition, first - 1) != nil { first -= 1 }
        if first < lsn { state.positions[partition] = .init(end: first) }
    }
}

extension EntryBatch.State {
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
            if SHA256.of(frame) != position.sha256 {
                return "entry \(PartitionLSN(rawValue: last)) of partition \(partition) is archived with other content"
            }
        }
        proven.insert(partition)
        return nil
    }
}
