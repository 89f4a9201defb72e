import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization

/// Puts archived WAL where a recovering server's restore_command takes it from, ahead of need and not too far ahead.
///
/// The command is a few lines of shell: it waits until the file is there, or until it is told that there is none, or that fetching
/// failed. PostgreSQL takes statuses from 1 to 125 as "there is none" and promotes, so a failure ends with 128.
final class SegmentFeeder: Sendable {
    /// Segments that lie ready at most.
    private static let ahead = 24

    let directory: String
    private let job: RestoreJob
    private let segmentSize: UInt64
    private let owner: (uid: UInt32, gid: UInt32)?

    /// - Parameter directory: an empty folder on the same file system as the database.
    init(job: RestoreJob, directory: String, segmentSize: UInt64, owner: (uid: UInt32, gid: UInt32)?) {
        self.job = job
        self.directory = directory
        self.segmentSize = segmentSize
        self.owner = owner
    }

    /// The setting for PostgreSQL; `%f` and `%p` are its own.
    var restoreCommand: String {
        // Whether everything was put there is asked before the file is looked for: both may come between two of its steps.
        "d=\(directory); while :; do c=; if [ -e \"$d/complete\" ]; then c=1; fi; "
            + "if mv \"$d/%f\" \"%p\" 2>/dev/null; then exit 0; fi; if [ -e \"$d/failed\" ]; then exit 128; fi; "
            + "case %f in *.history|*.backup) exit 1;; esac; "
            + "if [ -e \"$d/taken-%f\" ]; then cp \"$d/taken-%f\" \"%p\"; exit 0; fi; if [ -n \"$c\" ]; then exit 1; fi; sleep 0.01; done"
    }

    /// The files of the log that the plan needs, in order: each a closed piece or the tails of one.
    private var files: [(name: String, pieces: [ArchivedPiece])] {
        var result: [(name: String, pieces: [ArchivedPiece])] = []
        for piece in job.log.pieces {
            if let last = result.last, last.name == piece.name.name { result[result.count - 1].pieces.append(piece) } else {
                result.append((piece.name.name, [piece]))
            }
        }
        return result
    }

    /// Feeds until everything was put there, something failed, or the task is cancelled.
    func run() async throws {
        do {
            for branch in job.log.branches where !branch.fileName.isEmpty { try await put(branch.file, as: branch.fileName) }
            let files = files
            try await withThrowingTaskGroup(of: Void.self) { group in
                for (number, file) in files.enumerated() {
                    if number >= 2 { try await group.next() }
                    while try await ready() >= Self.ahead { try await Task.sleep(for: .milliseconds(5)) }
                    group.addTask { try await self.put(try await self.content(file.pieces), as: file.name) }
                }
                try await group.waitForAll()
            }
            try await put([], as: "complete")
        } catch {
            try await put(Array("\(error)".utf8), as: "failed")
            throw error
        }
    }

    private func ready() async throws -> Int {
        let directory = directory
        return try await blocking { try Files.rawNames(in: directory).count }
    }

    private func put(_ bytes: [UInt8], as name: String) async throws {
        let (directory, owner) = (directory, owner)
        try await blocking {
            // Not flushed here: the whole restore is made durable at its end.
            let aside = "\(directory)/.\(name)"
            let file = try Descriptor(aside, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
            try file.write(bytes)
            if let owner, fchown(file.raw, owner.uid, owner.gid) != 0 { throw ArchiveError.system("give its owner to", aside) }
            guard rename(aside, "\(directory)/\(name)") == 0 else { throw ArchiveError.system("rename", aside) }
        }
    }

    /// A whole file of the log: a closed segment, or its tails one after the other and zeros.
    func content(_ pieces: [ArchivedPiece]) async throws -> [UInt8] {
        if let closed = pieces.first(where: { $0.name.part == nil }) { return try await job.log.read(closed, index: nil, frames: nil).flatMap { $0 } }
        var content: [UInt8] = []
        content.reserveCapacity(Int(segmentSize))
        guard let first = pieces.first?.name.part?.lowerBound else { return [] }
        let start = first / segmentSize * segmentSize
        for tail in pieces {
            guard let part = tail.name.part, part.lowerBound <= start + UInt64(content.count), part.upperBound - start <= segmentSize else {
                throw ArchiveError(
                    .archiveGap, "The tails of '\(tail.name.name)' have a hole at \(LSN(rawValue: start + UInt64(content.count))).",
                    remedy: "Restore to a time before it; `tidemark window` lists what can be reached.")
            }
            let bytes = try await job.log.read(tail, index: nil, frames: nil).flatMap { $0 }
            let known = Int(start + UInt64(content.count) - part.lowerBound)
            if known < bytes.count { content += bytes[known...] }
        }
        return content + [UInt8](repeating: 0, count: Int(segmentSize) - content.count)
    }

    /// The segments from the base's start to its end, for a directory that is only prepared.
    func writeBaseLog(from start: UInt64, to end: UInt64, into folder: String) async throws {
        for file in files {
            guard let segment = SegmentSize(bytes: segmentSize).flatMap({ SegmentName(file.name, size: $0) })?.start.rawValue, segment < end, segment + segmentSize > start else { continue }
            let bytes = try await content(file.pieces)
            let (owner, path) = (owner, "\(folder)/\(file.name)")
            try await blocking {
                let out = try Descriptor(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
                try out.write(bytes)
                if let owner, fchown(out.raw, owner.uid, owner.gid) != 0 { throw ArchiveError.system("give its owner to", path) }
            }
        }
    }
}
