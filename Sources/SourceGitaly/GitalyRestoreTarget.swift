import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source

/// Replays archived entries over a base: plain bare repositories that a fresh Gitaly can adopt.
public struct GitalyRestoreTarget: RestoreTarget {
    public init() {}

    public func prepare(base: BaseRecord, recover: RecoveryMode, bindir: String?) async throws {
        if let unresolved = base.facts["unresolved-links"] {
            throw ArchiveError(
                .baseUnusable, "The base \(base.id) was taken while objects were linked inside the storage, and \(unresolved) of them could not be settled.",
                remedy: "Restore from an older base, or to a time before it.")
        }
    }

    public func replay(_ job: RestoreJob) async throws -> RestoreOutcome {
        let starts = Dictionary(job.spans.map { ($0.stream, $0) }, uniquingKeysWith: { a, _ in a })
        var next: [String: UInt64] = [:]
        var last: [String: UInt64] = [:]
        for cut in job.cuts {
            next[cut.stream] = starts[cut.stream]?.start ?? 1
            // Everything in the base's window is replayed, whatever the cut says.
            let end = max(cut.through.map { $0 + 1 } ?? 0, starts[cut.stream]?.end ?? 0)
            last[cut.stream] = end
        }
        var replayer = Replayer(root: job.directory)
        let total = UInt64(job.cuts.reduce(0) { sum, cut in
            sum + Int(clamping: (last[cut.stream] ?? 0) - min(last[cut.stream] ?? 0, next[cut.stream] ?? 0))
        })
        for piece in job.log.pieces {
            try Task.checkCancellation()
            var wanted: [(event: LogEvent, frames: [Int])] = []
            for (i, event) in piece.index.events.enumerated() {
                let stream = piece.index.spans[event.span].stream
                guard let due = next[stream], let end = last[stream], event.start >= due, event.start < end, let frame = event.frame else {
                    continue
                }
                // Materialised links follow their entry in a frame of their own.
                let following = i + 1 < piece.index.events.count ? piece.index.events[i + 1].frame ?? frame + 1 : piece.index.frames.count - 1
                wanted.append((event, Array(frame..<max(frame + 1, following))))
            }
            guard !wanted.isEmpty else { continue }
            let contents = try await job.log.read(piece, frames: wanted.flatMap(\.frames))
            let state = (replayer, next)
            let selection = wanted
            (replayer, next) = try await blocking {
                var (replayer, next) = state
                var at = 0
                for (event, frames) in selection {
                    let stream = piece.index.spans[event.span].stream
                    guard let due = next[stream], event.start == due else {
                        throw Self.missing(stream, next[stream] ?? 0)
                    }
                    let entry = try EntryFrame.decode(Array(contents[at..<at + frames.count]))
                    at += frames.count
                    guard entry.partition == stream, entry.lsn == event.start else {
                        throw ArchiveError(
                            .objectDamaged, "The pack \(piece.name) holds another entry than its index says: \(entry.partition)/\(entry.lsn).")
                    }
                    try replayer.apply(entry, tolerant: event.start < starts[stream]?.end ?? 0)
                    next[stream] = due + 1
                }
                return (replayer, next)
            }
            job.progress("replay", replayer.applied, total)
        }
        for (stream, end) in last { if let due = next[stream], due < end { throw Self.missing(stream, due) } }
        let repositories = try await blocking { try Self.repositories(below: job.directory) }
        return RestoreOutcome(facts: [
            ("entries replayed", "\(replayer.applied)"), ("partitions", "\(job.cuts.count)"), ("repositories", "\(repositories)"),
        ])
    }

    private static func missing(_ stream: String, _ lsn: UInt64) -> ArchiveError {
        ArchiveError(
            .archiveGap, "Entry \(PartitionLSN(rawValue: lsn)) of partition \(stream) is not in the archive.",
            remedy: "Restore from a newer base, or to a time before the hole; `tidemark window` lists what can be reached.")
    }

    /// Directories that hold `objects`, `refs` and `HEAD`, as Gitaly's own walker counts them.
    static func repositories(below directory: String) throws -> Int {
        let names = Set(try Files.names(in: directory))
        if names.isSuperset(of: ["objects", "refs", "HEAD"]) { return 1 }
        var count = 0
        for name in names {
            let path = "\(directory)/\(name)"
            if let status = try Files.status(path), status.st_mode & S_IFMT == S_IFDIR { count += try repositories(below: path) }
        }
        return count
    }
}

public struct GitalyKind: ComponentKind {
    public init() {}
    public let kind = "gitaly"
    public var restoreTarget: any RestoreTarget { GitalyRestoreTarget() }
    public func describe(offset: UInt64) -> String { PartitionLSN(rawValue: offset).description }
    public let streamsMayBeginEmpty = true
    public let firstOffset: UInt64 = 1
}
