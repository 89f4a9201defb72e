import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization

/// Replays archived entries over a base: plain bare repositories that a fresh Gitaly can adopt.
public struct GitalyRestoreTarget: RestoreTarget {
    public init() {}

    public func prepare(base: BaseRecord, recover: RecoveryMode, bindir: String?) async throws {}

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
        let total = UInt64(job.cuts.reduce(0) { sum, cut in
            sum + Int(clamping: (last[cut.stream] ?? 0) - min(last[cut.stream] ?? 0, next[cut.stream] ?? 0))
        })
        // Partitions know nothing of each other, but for the folders above repositories, which are only ever made.
        var replayer = Replayer(root: job.directory)
        replayer.losses = job.losses
        if geteuid() == 0, let owner = Self.owner(of: job.base) {
            replayer.owner = owner
            guard lchown(job.directory, owner.uid, owner.gid) == 0 else { throw ArchiveError.system("give its owner to", job.directory) }
        }
        let lanes = (0..<Self.width).map { [replayer] lane in Lane(replayer: replayer, next: next.filter { Self.lane(of: $0.key) == lane }) }
        // The next pieces are read while one is replayed.
        let (wanted, ends) = (next, last)
        try await inOrder(job.log.pieces, width: min(4, job.log.parallelism)) { piece in
            try await Self.records(of: piece, in: job.log, wanted, ends, job.only)
        } visit: { piece, records in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for (lane, records) in zip(lanes, records) where !records.isEmpty {
                    group.addTask { try await blocking { try lane.apply(records, of: piece, starts) } }
                }
                try await group.waitForAll()
            }
            job.progress("replay", lanes.reduce(0) { $0 + $1.applied }, total)
            return true
        }
        let applied = lanes.reduce(0) { $0 + $1.applied }
        for lane in lanes { next.merge(lane.next) { $1 } }
        for (stream, end) in last { if let due = next[stream], due < end { throw Self.missing(stream, due) } }
        let repositories = try await blocking { try Self.repositories(below: job.directory) }
        let leftOut = lanes.reduce(0) { $0 + $1.leftOut }
        return RestoreOutcome(
            facts: [
            ("entries replayed", "\(applied)"), ("partitions", "\(job.cuts.count)"), ("repositories", "\(repositories)"),
            ], warnings: leftOut == 0 ? [] : ["\(leftOut) changes of what the base lacks were left out"])
    }

    /// The storage's owner when the base was taken.
    static func owner(of base: BaseRecord) -> (uid: UInt32, gid: UInt32)? {
        let parts = base.facts["owner"]?.split(separator: ":").map { UInt32($0) } ?? []
        guard parts.count == 2, let uid = parts[0], let gid = parts[1], uid != 0 || gid != 0 else { return nil }
        return (uid, gid)
    }

    /// Partitions that are replayed at the same time.
    private static let width = 2

    private static func lane(of stream: String) -> Int { Int(stream.utf8.last ?? 0) % width }

    /// An archived entry that is still packed, with the content of its in-storage links.
    private struct Record: Sendable {
        var event: LogEvent
        var stream: String
        var frames: [[UInt8]]
        /// About something that is not to be restored.
        var isSkipped: Bool
    }

    /// What one thread at a time replays: its partitions' next entries, and the directory that it knows.
    private final class Lane: Sendable {
        private struct State {
            var replayer: Replayer
            var next: [String: UInt64]
        }
        // In place: what the replayer knows of directories is too much to be copied for each piece.
        private let state: Mutex<State>

        init(replayer: Replayer, next: [String: UInt64]) { state = Mutex(State(replayer: replayer, next: next)) }

        var applied: UInt64 { state.withLock { $0.replayer.applied } }
        var leftOut: UInt64 { state.withLock { $0.replayer.leftOut } }
        var next: [String: UInt64] { state.withLock { $0.next } }

        func apply(_ records: [Record], of piece: ArchivedPiece, _ starts: [String: LogSpan]) throws {
            try state.withLock { state in
                for record in records {
                    guard let due = state.next[record.stream], record.event.start >= due else { continue }
                    guard record.event.start == due else { throw GitalyRestoreTarget.missing(record.stream, due) }
                    if record.isSkipped {
                        state.next[record.stream] = due + 1
                        continue
                    }
                    let entry = try EntryFrame.decode(record.frames)
                    guard entry.partition == record.stream, entry.lsn == record.event.start else {
                        throw ArchiveError(
                            .objectDamaged, "The pack \(piece.name) holds another entry than its index says: \(entry.partition)/\(entry.lsn).")
                    }
                    try state.replayer.apply(entry, tolerant: record.event.start < starts[record.stream]?.end ?? 0)
                    state.next[record.stream] = due + 1
                }
            }
        }
    }

    /// The entries of one piece that are wanted, by lane.
    private static func records(
        of piece: ArchivedPiece, in log: any LogReader, _ next: [String: UInt64], _ last: [String: UInt64], _ only: Set<String>?
    ) async throws -> [[Record]] {
        var wanted: [(event: LogEvent, stream: String, frames: Range<Int>)] = []
        let index = try await log.index(of: piece)
        for (i, event) in index.events.enumerated() {
            let stream = index.spans[event.span].stream
            guard let due = next[stream], let end = last[stream], event.start >= due, event.start < end, let frame = event.frame else {
                continue
            }
            // Materialised links follow their entry in a frame of their own.
            let following = i + 1 < index.events.count ? index.events[i + 1].frame ?? frame + 1 : index.frames.count - 1
            let isSkipped = only.map { !$0.contains(event.subject) } ?? false
            wanted.append((event, stream, isSkipped ? frame..<frame : frame..<max(frame + 1, following)))
        }
        var records = [[Record]](repeating: [], count: width)
        let frames = wanted.flatMap { Array($0.frames) }
        let contents = frames.isEmpty ? [] : try await log.read(piece, index: index, frames: frames)
        var at = 0
        for (event, stream, frames) in wanted {
            records[lane(of: stream)].append(
                Record(event: event, stream: stream, frames: Array(contents[at..<at + frames.count]), isSkipped: frames.isEmpty))
            at += frames.count
        }
        return records
    }

    fileprivate static func missing(_ stream: String, _ lsn: UInt64) -> ArchiveError {
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

extension GitalyRestoreTarget: PartialRestoreTarget {
    public func companions(
        of paths: Set<String>, cuts: [StreamCut], spans: [LogSpan], log: any LogReader, content: (String) async throws -> [UInt8]?
    ) async throws -> Set<String> {
        var found = paths
        for path in paths {
            if let pool = try await content("\(path)/\(Self.alternates)").flatMap({ Self.pool(named: $0, by: path) }) { found.insert(pool) }
        }
        let starts = Dictionary(spans.map { ($0.stream, $0) }, uniquingKeysWith: { a, _ in a })
        var next: [String: UInt64] = [:]
        var last: [String: UInt64] = [:]
        for cut in cuts {
            next[cut.stream] = starts[cut.stream]?.start ?? 1
            last[cut.stream] = max(cut.end, starts[cut.stream]?.end ?? 0)
        }
        for piece in log.pieces {
            try Task.checkCancellation()
            for record in try await Self.records(of: piece, in: log, next, last, paths).joined() where !record.isSkipped {
                let entry = try EntryFrame.decode(record.frames)
                for case .link(let source, let inStorage, let destination) in entry.entry.operations {
                    if inStorage {
                        // Content of the pool that the repository leaves.
                        let text = String(decoding: source, as: UTF8.self)
                        if let end = text.firstRange(of: "/objects/") { found.insert(String(text[..<end.lowerBound])) }
                    } else if destination.elementsEqual("\(record.event.subject)/\(Self.alternates)".utf8),
                        let file = entry.files[String(decoding: source, as: UTF8.self)], let pool = Self.pool(named: file.bytes, by: record.event.subject)
                    {
                        found.insert(pool)
                    }
                }
            }
        }
        return found
    }

    public func isPresent(_ path: String, in directory: String) throws -> Bool { Files.exists("\(directory)/\(path)/HEAD") }

    private static let alternates = "objects/info/alternates"

    /// The repository whose objects an alternates file names, relative to those of `path`; `nil` when it names none of this storage.
    private static func pool(named alternates: [UInt8], by path: String) -> String? {
        guard let line = alternates.split(separator: 0x0A).first, line.first != 0x2F else { return nil }
        var parts = "\(path)/objects".split(separator: "/")
        for part in String(decoding: line, as: UTF8.self).split(separator: "/") {
            if part == ".." { if parts.popLast() == nil { return nil } } else if part != "." { parts.append(part) }
        }
        guard parts.popLast() == "objects", !parts.isEmpty else { return nil }
        let pool = parts.joined(separator: "/")
        return isSafeRelativePath(pool.utf8) ? pool : nil
    }
}

public struct GitalyKind: ComponentKind {
    public init() {}
    public let kind = "gitaly"
    public var restoreTarget: any RestoreTarget { GitalyRestoreTarget() }
    public func describe(offset: UInt64) -> String { PartitionLSN(rawValue: offset).description }
    public let streamsMayBeginEmpty = true
    public let firstOffset: UInt64 = 1
    public let carriesFences = false
    public func pieceName(endingAt offset: UInt64, branch: UInt32, of incarnation: IncarnationRecord) -> PieceName? { nil }

    /// None: packs keep the times of their entries in seconds, their indexes keep them to the nanosecond.
    public func makeIndexer(for incarnation: IncarnationRecord) throws(ArchiveError) -> (any LogIndexer)? { nil }
}
