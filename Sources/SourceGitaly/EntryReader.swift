import ArchiveCore
import DurableIO
import Glibc

/// An entry as it was found, before it is packed.
struct FoundEntry: Sendable {
    var partition: String
    var lsn: UInt64
    /// The commit time: the ctime of the entry's directory.
    var time: Moment
    var manifest: [UInt8]
    var entry: LogEntry
    var files: [(name: String, file: ReplayableEntry.File)]
    var links: [Int: ReplayableEntry.File]
    var unresolvedLinks: Int
}

/// Reads entries from `wal/` directories of a storage.
struct EntryReader: Sendable {
    let storage: String

    /// - Returns: `nil` when the entry was removed while it was read.
    /// - Throws: `.sourceUnsupported` for an entry of a Raft partition, `.logDamaged` for one that cannot be decoded.
    func read(partition: String, lsn: UInt64, wal: String) throws -> FoundEntry? {
        let folder = folder(of: lsn, in: wal)
        // First of all: nothing else keeps the time.
        guard let status = try Files.status(folder) else { return nil }
        let time = Moment(nanoseconds: Int64(status.st_ctim.tv_sec) * 1_000_000_000 + Int64(status.st_ctim.tv_nsec))
        guard let (manifest, entry) = try manifest(partition: partition, lsn: lsn, wal: wal) else { return nil }
        if Files.exists(folder + "/RAFT") { throw Self.raft(partition) }
        var files: [(name: String, file: ReplayableEntry.File)] = []
        for name in entry.fileNames {
            guard !name.contains("/") else {
                throw ArchiveError(.logDamaged, "Entry \(PartitionLSN(rawValue: lsn)) of partition \(partition) names the file '\(name)'.")
            }
            guard var file = try content("\(folder)/\(name)") else { return nil }
            // Only the execute bit is Gitaly's; whoever changed the rest changed no history.
            file.mode = file.mode & 0o100 != 0 ? 0o500 : 0o400
            files.append((name, file))
        }
        let (links, unresolved) = try materialise(entry)
        return FoundEntry(
            partition: partition, lsn: lsn, time: time, manifest: manifest, entry: entry, files: files, links: links,
            unresolvedLinks: unresolved)
    }

    /// What an entry does, without the content that it brings or links to. - Returns: `nil` when the entry was removed meanwhile.
    func manifest(partition: String, lsn: UInt64, wal: String) throws -> (bytes: [UInt8], entry: LogEntry)? {
        let folder = folder(of: lsn, in: wal)
        guard let manifest = try content(folder + "/MANIFEST") else { return nil }
        do { return (manifest.bytes, try LogEntry(decoding: manifest.bytes)) } catch {
            throw ArchiveError(
                .logDamaged, "Entry \(PartitionLSN(rawValue: lsn)) of partition \(partition) could not be decoded: \(error).",
                remedy: "Its directory is '\(folder)'. See whether this version of Gitaly is supported.")
        }
    }

    private func folder(of lsn: UInt64, in wal: String) -> String { "\(wal)/\(PartitionLSN(rawValue: lsn))" }

    /// Contents of in-storage links, read from their source, or once they are applied from their destination.
    func materialise(_ entry: LogEntry) throws -> (links: [Int: ReplayableEntry.File], unresolved: Int) {
        var links: [Int: ReplayableEntry.File] = [:]
        var unresolved = 0
        for (index, operation) in entry.operations.enumerated() {
            guard case .link(let source, true, let destination) = operation else { continue }
            let from = "\(storage)/\(String(decoding: source, as: UTF8.self))"
            let to = "\(storage)/\(String(decoding: destination, as: UTF8.self))"
            // Objects have the same content wherever they are. Other names may have been given to other content since: they count
            // only as long as both are one file.
            let isSame = try Self.isNamedByContent(destination) || Self.areOneFile(from, to)
            if isSame, let file = try content(to) ?? content(from) { links[index] = file } else { unresolved += 1 }
        }
        return (links, unresolved)
    }

    /// Whether a path of `objects` is a loose object or belongs to a pack: `aa/<38 or 62 digits>`, `pack/pack-<digits>.…`.
    private static func isNamedByContent(_ path: [UInt8]) -> Bool {
        let parts = path.split(separator: 0x2F)
        guard parts.count >= 2 else { return false }
        func isHex(_ bytes: ArraySlice<UInt8>) -> Bool { bytes.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) } }
        if parts[parts.count - 1].starts(with: "pack-".utf8) { return true }
        return parts[parts.count - 2].count == 2 && isHex(parts[parts.count - 2]) && parts[parts.count - 1].count >= 38 && isHex(parts[parts.count - 1])
    }

    private static func areOneFile(_ a: String, _ b: String) throws -> Bool {
        guard let a = try Files.status(a), let b = try Files.status(b) else { return false }
        return a.st_ino == b.st_ino && a.st_dev == b.st_dev
    }

    static func raft(_ partition: String) -> ArchiveError {
        ArchiveError(
            .sourceUnsupported, "Partition '\(partition)' belongs to Gitaly's Raft mode, which is not supported.",
            remedy: "Switch [raft] off in Gitaly's configuration.")
    }

    /// - Returns: `nil` when there is no such regular file.
    private func content(_ path: String) throws -> ReplayableEntry.File? {
        let descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT || errno == ENOTDIR || errno == ELOOP { return nil }
            throw ArchiveError.system("open", path)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw ArchiveError.system("examine", path) }
        guard status.st_mode & S_IFMT == S_IFREG else { return nil }
        let size = Int(status.st_size)
        var failed: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            while filled < size {
                let n = Glibc.read(descriptor, buffer.baseAddress! + filled, size - filled)
                if n == 0 { return }
                if n < 0 {
                    if errno == EINTR { continue }
                    failed = errno
                    return
                }
                filled += n
            }
        }
        guard failed == 0 else { throw ArchiveError.system("read", path, errno: failed) }
        guard bytes.count == size else { throw ArchiveError(.logDamaged, "'\(path)' became shorter while it was read.") }
        return ReplayableEntry.File(bytes: bytes, mode: UInt32(status.st_mode & 0o777))
    }
}
