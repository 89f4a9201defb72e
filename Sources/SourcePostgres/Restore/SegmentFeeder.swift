import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source
import Synchronization

/// Puts archived WAL where a recovering server's restore_command takes it from, ahead of need and not too far ahead.
///
/// The command is a few lines of shell: it waits until the file is there, or until it is told that fetching failed. PostgreSQL takes
/// statuses from 1 to 125 as "there is none" and promotes, so only what is not `coming` ends with 1, and any failure with 128.
///
/// What PostgreSQL asks for twice: the files of branches, first to see whether there is one; and the segment of the base's checkpoint,
/// which it reads before the segments that lead to it. Such a segment it keeps in `pg_wal`, where it looks when the command ends with 1.
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

    /// The setting for PostgreSQL; `%f` and `%p` are its own. A redirection that fails would end the shell with 2: hence the subshell.
    var restoreCommand: String {
        "d=\(directory); while :; do "
            + "if [ -e \"$d/%f\" ]; then ( : >\"$d/taken/%f\" ) && mv \"$d/%f\" \"%p\" && exit 0; exit 128; fi; "
            + "if [ -e \"$d/branches/%f\" ]; then cp \"$d/branches/%f\" \"%p\" && exit 0; exit 128; fi; "
            + "if [ -e \"$d/failed\" ]; then exit 128; fi; if [ -e \"$d/taken/%f\" ]; then exit 1; fi; "
            + "grep -qx %f \"$d/coming\"; case $? in 0) sleep 0.01;; 1) exit 1;; *) exit 128;; esac; done"
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

    /// The files in the order in which PostgreSQL asks for them.
    private func order(checkpoint: UInt64?) -> [(name: String, pieces: [ArchivedPiece])] {
        var files = files
        // A segment in which a branch begins holds all that the branch before it had there, and is the one that is asked for.
        var newest: [Substring: String] = [:]
        for file in files { newest[file.name.suffix(16)] = max(file.name, newest[file.name.suffix(16)] ?? "") }
        files.removeAll { newest[$0.name.suffix(16)] != $0.name }
        if let checkpoint,
            let size = SegmentSize(bytes: segmentSize),
            let i = files.firstIndex(where: { SegmentName($0.name, size: size)?.index == checkpoint / segmentSize })
        {
            files.insert(files.remove(at: i), at: 0)
        }
        return files
    }

    /// Lays out what the command needs from its first call on, and finds out what there is to feed. To be called before the server starts.
    func prepare() async throws -> [(name: String, pieces: [ArchivedPiece])] {
        let (directory, owner, label) = (directory, owner, job.directory + "/backup_label")
        let checkpoint = try await blocking { () throws -> UInt64? in
            for folder in ["\(directory)/taken", "\(directory)/branches"] {
                try Files.makeDirectory(folder)
                if let owner, chown(folder, owner.uid, owner.gid) != 0 { throw ArchiveError.system("give its owner to", folder) }
            }
            guard Files.exists(label) else { return nil }
            let lines = String(decoding: try Files.read(label), as: UTF8.self).split(separator: "\n")
            let words = "CHECKPOINT LOCATION: "
            return lines.first { $0.hasPrefix(words) }.flatMap { LSN(String($0.dropFirst(words.count))) }?.rawValue
        }
        for branch in job.log.branches where !branch.fileName.isEmpty { try await put(branch.file, as: "branches/\(branch.fileName)") }
        let files = order(checkpoint: checkpoint)
        try await put(Array(files.map { $0.name + "\n" }.joined().utf8), as: "coming")
        return files
    }

    /// Feeds until everything was put there, something failed, or the task is cancelled.
    func run(_ files: [(name: String, pieces: [ArchivedPiece])]) async throws {
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for (number, file) in files.enumerated() {
                    if number >= min(4, job.log.parallelism) { try await group.next() }
                    while try await ready() >= Self.ahead { try await Task.sleep(for: .milliseconds(5)) }
                    group.addTask { try await self.put(try await self.content(file.pieces), as: file.name) }
                }
                try await group.waitForAll()
            }
        } catch {
            try await put(Array("\(error)".utf8), as: "failed")
            throw error
        }
    }

    private func ready() async throws -> Int {
        let directory = directory
        return try await blocking { try Files.names(in: directory).count { $0.utf8.count == 24 } }
    }

    private func put(_ bytes: [UInt8], as name: String) async throws {
        let (directory, owner) = (directory, owner)
        try await blocking {
            // Not flushed here: the whole restore is made durable at its end.
            let aside = "\(directory)/\(name).new"
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
        try await inOrder(pieces, width: min(4, job.log.parallelism)) { tail in
            try await self.job.log.read(tail, index: nil, frames: nil).flatMap { $0 }
        } visit: { tail, bytes in
            guard let part = tail.name.part, part.lowerBound <= start + UInt64(content.count), part.upperBound - start <= segmentSize else {
                throw ArchiveError(
                    .archiveGap, "The tails of '\(tail.name.name)' have a hole at \(LSN(rawValue: start + UInt64(content.count))).",
                    remedy: "Restore to a time before it; `tidemark window` lists what can be reached.")
            }
            let known = Int(start + UInt64(content.count) - part.lowerBound)
            if known < bytes.count { content += bytes[known...] }
            return true
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
