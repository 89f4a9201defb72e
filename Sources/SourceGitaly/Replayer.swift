import ArchiveCore
import DurableIO
import Glibc

/// Applies log entries to a directory as Gitaly does, or, inside the window of a base that was copied while Gitaly worked, with the
/// tolerance that makes such a copy exact.
///
/// The rules are a table: for each operation and each state of the path that it meets, what happens outside and inside the window.
/// Nothing is ever written through a symbolic link.
struct Replayer {
    let root: String
    /// What to do with a link onto an existing path. Gitaly keeps what is there; the other choice exists to prove that a test of
    /// these rules can fail.
    var replacesExisting = false
    /// Who shall own what is made; `nil`: who we are.
    var owner: (uid: UInt32, gid: UInt32)?
    /// What the base lacks: nothing can be changed there, until it is made anew.
    var losses: [TreeLoss] = []
    private(set) var applied: UInt64 = 0
    /// Operations that were left out, since they are about what the base lacks.
    private(set) var leftOut: UInt64 = 0
    /// Directories known to be real ones; forgotten when anything is removed.
    private var realDirectories: Set<[UInt8]> = []

    init(root: String) { self.root = root }

    /// - Parameter tolerant: whether the entry lies inside the base's window.
    /// - Throws: `.baseUnusable` when the base or the archive cannot be right; the directory is then of no use.
    mutating func apply(_ entry: ReplayableEntry, tolerant: Bool) throws {
        for (index, operation) in entry.entry.operations.enumerated() {
            do {
                switch operation {
                case .link(let source, let inStorage, let destination):
                    if inStorage {
                        try linkFromStorage(source, to: destination, kept: entry.links[index], tolerant: tolerant)
                    } else {
                        guard let file = entry.files[String(decoding: source, as: UTF8.self)] else {
                            throw Deviation("its file '\(String(decoding: source, as: UTF8.self))' is not in the archived entry")
                        }
                        try create(file, at: destination, tolerant: tolerant)
                    }
                case .makeDirectory(let path, let mode):
                    try makeDirectory(path, mode: mode, repository: entry.entry.relativePath, tolerant: tolerant)
                case .remove(let path): try remove(path, tolerant: tolerant)
                case .setKey, .deleteKey: break
                }
            } catch let deviation as Deviation {
                if isLost(operation) {
                    leftOut += 1
                    continue
                }
                throw ArchiveError(
                    .baseUnusable,
                    "Entry \(PartitionLSN(rawValue: entry.lsn)) of partition \(entry.partition) could not be replayed: at operation \(index), \(deviation.reason).",
                    remedy: "The base or the archived log is damaged, or something besides Gitaly wrote to the storage. Restore from an older base.")
            }
        }
        applied += 1
    }

    private func isLost(_ operation: LogEntry.Operation) -> Bool {
        let paths =
            switch operation {
            case .link(let source, let inStorage, let destination): inStorage ? [source, destination] : [destination]
            case .makeDirectory(let path, _), .remove(let path): [path]
            case .setKey, .deleteKey: [[UInt8]]()
            }
        return losses.contains { loss in paths.contains { loss.covers($0) } }
    }

    private struct Deviation: Error {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    // MARK: Operations

    private mutating func create(_ file: ReplayableEntry.File, at path: [UInt8], tolerant: Bool) throws {
        guard try parentIsReal(of: path) else {
            if tolerant { return }
            throw Deviation("the directory of '\(text(path))' is missing")
        }
        var descriptor = full(path).withUnsafeBufferPointer { open($0.baseAddress!, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600) }
        if descriptor < 0, errno == EEXIST {
            guard replacesExisting else { return }
            full(path).withUnsafeBufferPointer { _ = unlink($0.baseAddress!) }
            descriptor = full(path).withUnsafeBufferPointer { open($0.baseAddress!, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600) }
        }
        guard descriptor >= 0 else { throw ArchiveError.system("create", "\(root)/\(text(path))") }
        defer { close(descriptor) }
        var done = 0
        while done < file.bytes.count {
            let n = file.bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + done, $0.count - done) }
            if n < 0 {
                if errno == EINTR { continue }
                throw ArchiveError.system("write to", "\(root)/\(text(path))")
            }
            done += n
        }
        if let owner, fchown(descriptor, owner.uid, owner.gid) != 0 { throw ArchiveError.system("give its owner to", "\(root)/\(text(path))") }
        guard fchmod(descriptor, mode_t(file.mode & 0o777)) == 0 else { throw ArchiveError.system("give its mode to", "\(root)/\(text(path))") }
    }

    private mutating func linkFromStorage(_ source: [UInt8], to destination: [UInt8], kept: ReplayableEntry.File?, tolerant: Bool) throws {
        if let kept { return try create(kept, at: destination, tolerant: tolerant) }
        guard try parentIsReal(of: destination) else {
            if tolerant { return }
            throw Deviation("the directory of '\(text(destination))' is missing")
        }
        // Whatever is there stays, wherever it came from.
        if try Files.status(path(destination)) != nil { return }
        guard try parentIsReal(of: source), let status = try Files.status(path(source)), status.st_mode & S_IFMT == S_IFREG else {
            throw Deviation("the source '\(text(source))' of a link inside the storage is missing")
        }
        let result = full(source).withUnsafeBufferPointer { s in full(destination).withUnsafeBufferPointer { link(s.baseAddress!, $0.baseAddress!) } }
        guard result == 0 || errno == EEXIST else { throw ArchiveError.system("link", "\(root)/\(text(destination))") }
    }

    private mutating func makeDirectory(_ path: [UInt8], mode: UInt32, repository: [UInt8], tolerant: Bool) throws {
        if !(try parentIsReal(of: path)) {
            // Shard directories may have been made by another partition's log, in no particular order.
            let parent = Self.parent(of: path)
            let isAncestor = repository.starts(with: parent) && repository.count > parent.count && repository[parent.count] == 0x2F
            guard isAncestor else {
                if tolerant { return }
                throw Deviation("the parent of the directory '\(text(path))' is missing")
            }
            try makeAncestors(parent)
            guard try parentIsReal(of: path) else { throw Deviation("'\(text(parent))' is not a directory") }
        }
        guard full(path).withUnsafeBufferPointer({ mkdir($0.baseAddress!, 0o700) }) == 0 else {
            guard errno == EEXIST else { throw ArchiveError.system("create the directory", "\(root)/\(text(path))") }
            return
        }
        try own(path)
        guard full(path).withUnsafeBufferPointer({ chmod($0.baseAddress!, mode_t(mode & 0o777)) }) == 0 else {
            throw ArchiveError.system("give its mode to", "\(root)/\(text(path))")
        }
    }

    private func own(_ path: [UInt8]) throws {
        guard let owner, full(path).withUnsafeBufferPointer({ lchown($0.baseAddress!, owner.uid, owner.gid) }) != 0 else { return }
        throw ArchiveError.system("give its owner to", "\(root)/\(text(path))")
    }

    private func makeAncestors(_ path: [UInt8]) throws {
        var at = path.startIndex
        while at <= path.endIndex {
            let end = path[at...].firstIndex(of: 0x2F) ?? path.endIndex
            let part = Array(path[..<end])
            let made = full(part).withUnsafeBufferPointer { mkdir($0.baseAddress!, 0o700) }
            guard made == 0 || errno == EEXIST else { throw ArchiveError.system("create the directory", "\(root)/\(text(part))") }
            if made == 0 { try own(part) }
            at = end + 1
        }
    }

    private mutating func remove(_ path: [UInt8], tolerant: Bool) throws {
        // A component that is missing or a file: then the path is missing too.
        guard try parentIsReal(of: path) else { return }
        if full(path).withUnsafeBufferPointer({ unlink($0.baseAddress!) }) == 0 || errno == ENOENT { return }
        guard errno == EISDIR || errno == EPERM else { throw ArchiveError.system("remove", "\(root)/\(text(path))") }
        if full(path).withUnsafeBufferPointer({ rmdir($0.baseAddress!) }) == 0 {
            forget(path)
            return
        }
        switch errno {
        case ENOENT, ENOTDIR: return
        case ENOTEMPTY, EEXIST:
            if tolerant { return }
            throw Deviation("the directory '\(text(path))' is not empty")
        default: throw ArchiveError.system("remove the directory", "\(root)/\(text(path))")
        }
    }

    // MARK: Paths

    private mutating func forget(_ path: [UInt8]) {
        realDirectories = realDirectories.filter { !($0 == path || ($0.starts(with: path) && $0[path.count] == 0x2F)) }
    }

    /// Whether every directory above `path` is there and none of them is a symbolic link.
    private mutating func parentIsReal(of path: [UInt8]) throws -> Bool {
        let parent = Self.parent(of: path)
        if parent.isEmpty || realDirectories.contains(parent) { return true }
        guard try parentIsReal(of: parent) else { return false }
        var status = stat()
        guard full(parent).withUnsafeBufferPointer({ lstat($0.baseAddress!, &status) }) == 0 else {
            guard errno == ENOENT || errno == ENOTDIR else { throw ArchiveError.system("examine", "\(root)/\(text(parent))") }
            return false
        }
        switch status.st_mode & S_IFMT {
        case S_IFDIR:
            realDirectories.insert(parent)
            return true
        case S_IFLNK: throw Deviation("'\(text(parent))' is a symbolic link; nothing is written through one")
        default: return false
        }
    }

    private static func parent(of path: [UInt8]) -> [UInt8] {
        path.lastIndex(of: 0x2F).map { Array(path[..<$0]) } ?? []
    }

    private func full(_ path: [UInt8]) -> [CChar] { (Array(root.utf8) + [0x2F] + path + [0]).map(CChar.init(bitPattern:)) }
    private func path(_ path: [UInt8]) -> String { "\(root)/\(text(path))" }
    private func text(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }
}
