import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source

/// Copies a storage while Gitaly works, and says which entries make the copy exact when they are replayed over it.
public struct GitalySnapshot: SnapshotSource {
    private let storage: String
    private let spool: String?
    /// How often the repositories of a partition are copied anew when links inside the storage cross the copy.
    private static let retries = 3
    /// Paths that cannot be read before the whole is taken for unreadable: such a base must not stand in for an older one.
    private static let maximumLosses = 1000

    public init(storage: String, spool: String?) {
        self.storage = storage
        self.spool = spool
    }

    public func identify() async throws -> SourceIdentity { try await GitalyStorage.identify(storage) }

    public func capture(into sink: any TreeSink & Sendable, archived: [String: UInt64]) async throws -> SnapshotOutcome {
        let stop = StopFlag()
        return try await withTaskCancellationHandler {
            try await blocking {
                var capture = Capture(storage: storage, spool: spool, sink: sink, stop: stop)
                return try capture.run(archived: archived)
            }
        } onCancel: {
            stop.set()
        }
    }

    /// One run of the copy, on a blocking thread.
    private struct Capture {
        let storage: String
        let spool: String?
        let sink: any TreeSink
        let stop: StopFlag
        var warnings: [String] = []
        /// What could not be read. The rest of the storage is worth having without it.
        var losses: [TreeLoss] = []
        var copied: UInt64 = 0

        init(storage: String, spool: String?, sink: any TreeSink, stop: StopFlag) {
            self.storage = storage
            self.spool = spool
            self.sink = sink
            self.stop = stop
        }

        mutating func run(archived: [String: UInt64]) throws -> SnapshotOutcome {
            let hasLog = Files.exists("\(storage)/+gitaly/partitions")
            if !hasLog {
                warnings.append(
                    "transactions are off in Gitaly: there is no log, and nothing written after this base can be restored before the next one")
            }
            let before = try positions()
            var starts: [String: UInt64] = [:]
            for (partition, place) in before {
                // The highest visible entry may be half applied; everything below it is complete.
                if let highest = place.highest {
                    starts[partition] = try place.wal.map { try isSettled($0, partition, highest) } == true ? highest + 1 : highest
                } else if let end = archived[partition] { starts[partition] = end }
            }
            try copy([], depth: 0)
            var after = try positions()
            try retryLinks(starts: starts, after: &after, archived: archived)
            let completed = now()
            var spans: [LogSpan] = []
            for (partition, place) in after {
                let known = starts[partition]
                let highest = max(place.highest.map { $0 + 1 } ?? 0, archived[partition] ?? 0)
                let end = max(highest, known ?? 0)
                // A partition that appeared during the copy begins with its first entry.
                // One without any entry, here or archived, is at an unknown position: 0.
                spans.append(LogSpan(stream: partition, branch: 0, start: min(known ?? place.lowest ?? 1, end), end: end))
            }
            var facts = ["storage": storage]
            // What a replay as root gives to the files that it makes.
            if let status = try Files.status(storage) { facts["owner"] = "\(status.st_uid):\(status.st_gid)" }
            return SnapshotOutcome(
                completed: completed, spans: spans.sorted { $0.stream < $1.stream }, branch: 0, warnings: warnings, losses: losses, facts: facts)
        }

        // MARK: The window

        private struct Place {
            var wal: String?
            var lowest: UInt64?
            var highest: UInt64?
        }

        private func positions() throws -> [String: Place] {
            var result: [String: Place] = [:]
            for (id, place) in try WALDirectories.all(of: storage) {
                result[id] = Place(wal: place.wal, lowest: place.lsns.first, highest: place.lsns.last)
            }
            if let spool {
                var feed = SpoolFeed(spool: spool, storage: storage)
                for listing in try feed.changes(at: now()) {
                    let (id, lsns) = (listing.partition, listing.lsns)
                    var place = result[id] ?? Place()
                    place.lowest = [place.lowest, lsns.first].compactMap { $0 }.min()
                    if let highest = lsns.last, highest > place.highest ?? 0 {
                        place.highest = highest
                        place.wal = nil
                    }
                    result[id] = place
                }
            }
            return result
        }

        /// Whether the effects of a partition's highest entry are all there, so that it need not be replayed: an idle partition's last
        /// entry may have been archived long ago. What cannot be looked at does not count as settled.
        private func isSettled(_ wal: String, _ partition: String, _ lsn: UInt64) throws -> Bool {
            do { return try hasEffects(wal, partition, lsn) } catch let error as ArchiveError where error.code == .inputOutput { return false }
        }

        private func hasEffects(_ wal: String, _ partition: String, _ lsn: UInt64) throws -> Bool {
            let folder = "\(wal)/\(PartitionLSN(rawValue: lsn))"
            guard let entry = try EntryReader(storage: storage).read(partition: partition, lsn: lsn, wal: wal), entry.links.isEmpty,
                entry.unresolvedLinks == 0
            else { return false }
            enum Expected { case inode(UInt), directory, nothing }
            var expected: [[UInt8]: Expected] = [:]
            for operation in entry.entry.operations {
                switch operation {
                case .link(let source, _, let destination):
                    guard let file = try Files.status("\(folder)/\(String(decoding: source, as: UTF8.self))") else { return false }
                    expected[destination] = .inode(UInt(file.st_ino))
                case .remove(let path): expected[path] = .nothing
                case .makeDirectory(let path, _): expected[path] = .directory
                case .setKey, .deleteKey: break
                }
            }
            for (path, state) in expected {
                guard String(validating: path, as: UTF8.self) != nil else { return false }
                let status = try Files.status("\(storage)/\(String(decoding: path, as: UTF8.self))")
                switch (state, status) {
                case (.nothing, nil): continue
                case (.inode(let inode), let status?): guard UInt(status.st_ino) == inode else { return false }
                case (.directory, let status?): guard status.st_mode & S_IFMT == S_IFDIR else { return false }
                default: return false
                }
            }
            return true
        }

        // MARK: Links inside the storage

        /// Copies the repositories anew that a link inside the storage touched during the copy; after some tries the archived copies
        /// of the linked content have to do.
        private mutating func retryLinks(starts: [String: UInt64], after: inout [String: Place], archived: [String: UInt64]) throws {
            var looked: [String: UInt64] = starts
            for attempt in 1...GitalySnapshot.retries {
                var repositories: Set<[UInt8]> = []
                for (partition, place) in after {
                    guard let wal = place.wal, let highest = place.highest else { continue }
                    let from = max(looked[partition] ?? place.lowest ?? highest, place.lowest ?? highest)
                    guard from <= highest else { continue }
                    for lsn in from...highest {
                        // Not what is linked: it may lie where nothing can be read.
                        guard let (_, entry) = try EntryReader(storage: storage).manifest(partition: partition, lsn: lsn, wal: wal) else { continue }
                        for case .link(let source, true, let destination) in entry.operations {
                            for path in [source, destination] { if let repository = Self.repository(of: path) { repositories.insert(repository) } }
                        }
                    }
                    looked[partition] = highest
                }
                guard !repositories.isEmpty else { return }
                if attempt == GitalySnapshot.retries {
                    warnings.append(
                        "links inside the storage crossed the copy \(attempt) times; their content is taken from the archived log")
                    return
                }
                for repository in repositories.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                    try sink.discard(under: repository)
                    let place = TreeLoss(path: repository, reason: "")
                    losses.removeAll { place.covers($0.path) }
                    try copyDirectory(repository, depth: 1)
                }
                after = try positions()
            }
        }

        /// The part of a path before `objects`, which is the only place that such links lead to.
        private static func repository(of path: [UInt8]) -> [UInt8]? {
            let parts = path.split(separator: 0x2F)
            guard let at = parts.firstIndex(where: { $0.elementsEqual("objects".utf8) }), at > 0 else { return nil }
            return Array(parts[..<at].joined(separator: [0x2F]))
        }

        // MARK: The copy

        private func full(_ path: [UInt8]) -> String { path.isEmpty ? storage : storage + "/" + String(decoding: path, as: UTF8.self) }

        private mutating func copyDirectory(_ path: [UInt8], depth: Int) throws {
            guard let status = try examine(path), status.st_mode & S_IFMT == S_IFDIR else { return }
            try sink.directory(entry(.directory, path, status))
            try copy(path, depth: depth)
        }

        private mutating func copy(_ path: [UInt8], depth: Int) throws {
            if stop.isSet { throw CancellationError() }
            guard depth < 256 else {
                warnings.append("'\(String(decoding: path, as: UTF8.self))' lies too deep and was left out")
                return
            }
            let names: [[UInt8]]
            do throws(ArchiveError) { names = try Files.rawNames(at: cPath(path)) } catch {
                // Gone since its parent was listed: it was seen absent.
                var status = stat()
                let isThere = cPath(path).withUnsafeBufferPointer { lstat($0.baseAddress!, &status) } == 0
                guard isThere || (errno != ENOENT && errno != ENOTDIR) else { return }
                try sink.discard(under: path)
                try lose(path, "the directory '\(text(path))' was left out with everything in it: \(error.message)")
                return
            }
            for name in names.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                if path.isEmpty, [Array("+gitaly".utf8), Array("lost+found".utf8), Array(".gitaly-metadata".utf8)].contains(name) { continue }
                let child = path.isEmpty ? name : path + [0x2F] + name
                guard let status = try examine(child) else { continue }
                switch status.st_mode & S_IFMT {
                case S_IFDIR:
                    try sink.directory(entry(.directory, child, status))
                    try copy(child, depth: depth + 1)
                case S_IFREG: try copyFile(child)
                case S_IFLNK: try copyLink(child, status)
                default: warnings.append("'\(String(decoding: child, as: UTF8.self))' is neither a file nor a directory and was left out")
                }
            }
        }

        /// - Returns: `nil` when there is nothing at `path`, or when it cannot be examined: then it is lost.
        private mutating func examine(_ path: [UInt8]) throws -> stat? {
            var status = stat()
            if cPath(path).withUnsafeBufferPointer({ lstat($0.baseAddress!, &status) }) == 0 { return status }
            if errno != ENOENT, errno != ENOTDIR { try lose(path, "'\(text(path))' was left out: \(ArchiveError.system("examine", full(path)).message)") }
            return nil
        }

        private mutating func copyFile(_ path: [UInt8]) throws {
            let descriptor = cPath(path).withUnsafeBufferPointer { open($0.baseAddress!, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) }
            guard descriptor >= 0 else {
                if errno == ENOENT || errno == ENOTDIR || errno == ELOOP { return }
                return try lose(path, "the file '\(text(path))' was left out: \(ArchiveError.system("open", full(path)).message)")
            }
            defer { close(descriptor) }
            var status = stat()
            guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return }
            let size = UInt64(status.st_size)
            try sink.file(entry(.file, path, status))
            var buffer = [UInt8](repeating: 0, count: Int(min(max(size, 1), 1 << 20)))
            var done: UInt64 = 0
            while done < size {
                let n = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, min($0.count, Int(size - done))) }
                if n < 0 {
                    if errno == EINTR { continue }
                    let error = ArchiveError.system("read", full(path))
                    // What was read of it is in the tar, and no longer in the index.
                    try sink.discard(under: path)
                    return try lose(path, "the file '\(text(path))' was left out: \(error.message)")
                }
                if n == 0 {
                    warnings.append("'\(String(decoding: path, as: UTF8.self))' became shorter while it was copied")
                    break
                }
                try buffer.withUnsafeBytes { try sink.write(UnsafeRawBufferPointer(rebasing: $0[..<n])) }
                done += UInt64(n)
                if stop.isSet { throw CancellationError() }
            }
            copied += done
            sink.progress(bytes: copied, of: nil)
        }

        private mutating func copyLink(_ path: [UInt8], _ status: stat) throws {
            var buffer = [UInt8](repeating: 0, count: 4096)
            let n = cPath(path).withUnsafeBufferPointer { p in
                buffer.withUnsafeMutableBytes { readlink(p.baseAddress!, $0.bindMemory(to: CChar.self).baseAddress!, $0.count) }
            }
            guard n >= 0 else {
                if errno == ENOENT || errno == EINVAL { return }
                return try lose(path, "the symbolic link '\(text(path))' was left out: \(ArchiveError.system("read the symbolic link", full(path)).message)")
            }
            var link = entry(.symlink, path, status)
            link.target = Array(buffer[..<n])
            link.size = 0
            try sink.symlink(link)
        }

        /// - Throws: `.sourceRefused` when that is too much, or the storage itself.
        private mutating func lose(_ path: [UInt8], _ reason: String) throws {
            losses.append(TreeLoss(path: path, reason: reason))
            guard path.isEmpty || losses.count > GitalySnapshot.maximumLosses else { return }
            throw ArchiveError(
                .sourceRefused, "The storage '\(storage)' could not be copied: \(path.isEmpty ? "" : "more than \(GitalySnapshot.maximumLosses) paths could not be read; the last one: ")\(reason).",
                remedy: "Let tidemark's account read the storage, or see whether its disk fails; older bases serve meanwhile.")
        }

        private func text(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }

        private func entry(_ kind: TreeEntry.Kind, _ path: [UInt8], _ status: stat) -> TreeEntry {
            TreeEntry(
                kind: kind, path: path, mode: UInt32(status.st_mode & 0o7777), owner: status.st_uid, group: status.st_gid,
                modified: Moment(nanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)),
                size: kind == .file ? UInt64(status.st_size) : 0)
        }

        private func cPath(_ path: [UInt8]) -> [CChar] {
            (Array(storage.utf8) + (path.isEmpty ? [] : [0x2F] + path) + [0]).map(CChar.init(bitPattern:))
        }

    }
}
