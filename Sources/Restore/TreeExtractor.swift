import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Runtime
import Synchronization

/// Lays a base out in a directory: part by part, several at once, each read and proven once.
struct TreeExtractor: Sendable {
    let catalog: Catalog
    let incarnation: IncarnationRecord
    let base: BaseRecord
    let index: TreeIndex
    let directory: String
    let progress: @Sendable (String, UInt64, UInt64?) -> Void

    /// Parts in work at a time: each holds one object and its content in memory, 32 MiB.
    private var workers: Int { min(4, catalog.store.parallelism) }

    /// - Throws: `.objectDamaged`, `.inputOutput`, `CancellationError`.
    func run() async throws {
        try checkPaths()
        let files = index.entries.filter { $0.kind == .file && $0.size > 0 }.sorted { $0.offset < $1.offset }
        try await blocking { try self.layOut(spanning: files) }
        let done = Counter()
        // Of a base that is restored in part only what holds something of it.
        let parts = base.parts.filter { part in holds(part, files) }.sorted { $0.offset < $1.offset }
        let total = parts.reduce(0) { $0 + $1.length }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, part) in parts.enumerated() {
                if number >= workers { try await group.next() }
                group.addTask {
                    try Task.checkCancellation()
                    let content = try await catalog.read(part, of: base, in: incarnation)
                    try await blocking { try self.write(content, of: part, files: files) }
                    progress("base", done.add(part.length), total)
                }
            }
            try await group.waitForAll()
        }
        try await blocking { try self.finish(spanning: files) }
    }

    /// Nothing may lie below a symbolic link or a file of the base: it would be written somewhere else.
    private func checkPaths() throws {
        var directories: Set<[UInt8]> = []
        var others: Set<[UInt8]> = []
        for entry in index.entries { if entry.kind == .directory { directories.insert(entry.path) } else { others.insert(entry.path) } }
        for entry in index.entries {
            let parent = entry.path.lastIndex(of: UInt8(ascii: "/")).map { Array(entry.path[..<$0]) }
            guard parent.map({ directories.contains($0) && !others.contains($0) }) ?? true else {
                throw ArchiveError(
                    .objectDamaged, "The base \(base.id) holds '\(entry.displayPath)' below something that is no directory of it; nothing was restored.",
                    remedy: "Restore from another base, and find out who can write to the archive.")
            }
        }
    }

    private func path(_ entry: TreeEntry) -> [CChar] {
        (Array(directory.utf8) + [UInt8(ascii: "/")] + entry.path + [0]).map(CChar.init(bitPattern:))
    }

    /// Directories, symbolic links and empty files, and files that more than one part fills.
    private func layOut(spanning files: [TreeEntry]) throws {
        for entry in index.entries {
            switch entry.kind {
            case .directory:
                // Writable until everything is in it.
                guard mkdir(path(entry), 0o700) == 0 || errno == EEXIST else { throw failure("create the directory", entry) }
            case .symlink:
                let target = (entry.target + [0]).map(CChar.init(bitPattern:))
                guard symlink(target, path(entry)) == 0 else { throw failure("create the symbolic link", entry) }
                if geteuid() == 0 { lchown(path(entry), entry.owner, entry.group) }
            case .file:
                if entry.size == 0 || isSplit(entry) {
                    let file = try create(entry)
                    if entry.size == 0 { try close(file, entry) } else { Glibc.close(file) }
                }
            }
        }
    }

    private func isSplit(_ entry: TreeEntry) -> Bool {
        var low = 0
        var high = base.parts.count
        while low < high {
            let middle = (low + high) / 2
            if base.parts[middle].offset + base.parts[middle].length <= entry.offset { low = middle + 1 } else { high = middle }
        }
        return low >= base.parts.count || base.parts[low].offset + base.parts[low].length < entry.offset + entry.size
    }

    private func create(_ entry: TreeEntry) throws -> Int32 {
        let file = open(path(entry), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw failure("create", entry) }
        return file
    }

    /// Gives a complete file its owner, mode and time, and closes it.
    private func close(_ file: Int32, _ entry: TreeEntry) throws {
        defer { Glibc.close(file) }
        if geteuid() == 0, fchown(file, entry.owner, entry.group) != 0 { throw failure("give its owner to", entry) }
        guard fchmod(file, mode_t(entry.mode & 0o7777)) == 0 else { throw failure("give its mode to", entry) }
        let seconds = entry.modified.rawValue / 1_000_000_000
        let time = timespec(tv_sec: Int(seconds), tv_nsec: Int(entry.modified.rawValue - seconds * 1_000_000_000))
        guard futimens(file, [time, time]) == 0 else { throw failure("give its time to", entry) }
    }

    /// The index of the first of `files` that ends behind the part's beginning.
    private func first(in part: BaseRecord.Part, of files: [TreeEntry]) -> Int {
        var low = 0
        var high = files.count
        while low < high {
            let middle = (low + high) / 2
            if files[middle].offset + files[middle].size <= part.offset { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func holds(_ part: BaseRecord.Part, _ files: [TreeEntry]) -> Bool {
        let first = first(in: part, of: files)
        return first < files.count && files[first].offset < part.offset + part.length
    }

    /// Writes what one part holds of the files.
    private func write(_ content: [UInt8], of part: BaseRecord.Part, files: [TreeEntry]) throws {
        let end = part.offset + part.length
        for entry in files[first(in: part, of: files)...] {
            guard entry.offset < end else { break }
            let from = max(entry.offset, part.offset)
            let to = min(entry.offset + entry.size, end)
            let split = isSplit(entry)
            let file = split ? open(path(entry), O_WRONLY | O_NOFOLLOW | O_CLOEXEC) : try create(entry)
            guard file >= 0 else { throw failure("open", entry) }
            do {
                try content.withUnsafeBytes { bytes in
                    var done = Int(from - part.offset)
                    let stop = Int(to - part.offset)
                    while done < stop {
                        let at = off_t(UInt64(done) + part.offset - entry.offset)
                        let n = pwrite(file, bytes.baseAddress! + done, stop - done, at)
                        if n < 0 {
                            if errno == EINTR { continue }
                            throw failure("write to", entry)
                        }
                        done += n
                    }
                }
            } catch {
                Glibc.close(file)
                throw error
            }
            if split { Glibc.close(file) } else { try close(file, entry) }
        }
    }

    private func finish(spanning files: [TreeEntry]) throws {
        for entry in files where isSplit(entry) {
            let file = open(path(entry), O_WRONLY | O_NOFOLLOW | O_CLOEXEC)
            guard file >= 0 else { throw failure("open", entry) }
            try close(file, entry)
        }
        // Deepest first, since a directory may not be writable for us once it has its mode.
        for entry in index.entries.reversed() where entry.kind == .directory {
            if geteuid() == 0, chown(path(entry), entry.owner, entry.group) != 0 { throw failure("give its owner to", entry) }
            guard chmod(path(entry), mode_t(entry.mode & 0o7777)) == 0 else { throw failure("give its mode to", entry) }
        }
    }

    private func failure(_ doing: String, _ entry: TreeEntry) -> ArchiveError {
        .system(doing, "\(directory)/\(entry.displayPath)")
    }
}

/// A sum kept by several tasks.
private final class Counter: Sendable {
    private let sum = Mutex<UInt64>(0)

    func add(_ value: UInt64) -> UInt64 {
        sum.withLock { sum in
            sum += value
            return sum
        }
    }
}
