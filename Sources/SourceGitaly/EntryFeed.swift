import ArchiveCore
import DurableIO
import Glibc
import Source

/// A place where entries of all partitions can be found: the log itself, or the native archiver's spool. Calls block.
protocol EntryFeed: Sendable {
    /// Partitions that may have something new, and what lies there; looked at `time`.
    mutating func changes(at time: Moment) throws -> [(partition: String, lsns: [UInt64])]
    /// Makes sure that what was listed cannot be taken back by a crash. Called once before a partition's entries are read.
    func settle(_ partition: String) throws
    /// - Returns: `nil` when the entry is gone.
    func read(_ partition: String, _ lsn: UInt64) throws -> FoundEntry?
    /// Removes entries that are archived; of `log: wal` never the highest one of a partition.
    mutating func prune(_ partition: String, through lsn: UInt64) throws
    /// Lists the partition again next time, because not everything was taken.
    mutating func forget(_ partition: String)
}

/// `log: wal`: the partitions' own logs.
struct WALFeed: EntryFeed {
    private var directories: WALDirectories
    private let reader: EntryReader
    private let storage: String

    init(storage: String) {
        self.storage = storage
        directories = WALDirectories(storage: storage)
        reader = EntryReader(storage: storage)
    }

    mutating func changes(at time: Moment) throws -> [(partition: String, lsns: [UInt64])] {
        try directories.refresh(at: time)
        var result: [(String, [UInt64])] = []
        for id in directories.partitions.keys { if let lsns = try directories.changed(id, at: time) { result.append((id, lsns)) } }
        return result
    }

    func settle(_ partition: String) throws {
        if let wal = directories.partitions[partition]?.wal { try Files.syncDirectory(wal) }
    }

    func read(_ partition: String, _ lsn: UInt64) throws -> FoundEntry? {
        guard let wal = directories.partitions[partition]?.wal else { return nil }
        return try reader.read(partition: partition, lsn: lsn, wal: wal)
    }

    mutating func prune(_ partition: String, through lsn: UInt64) throws {
        guard let wal = directories.partitions[partition]?.wal else { return }
        let lsns = try WALDirectories.entries(in: wal, partition: partition)
        guard let highest = lsns.last else { return }
        let gone = lsns.filter { $0 <= lsn && $0 < highest }
        guard !gone.isEmpty else { return }
        let trash = "\(storage)/+gitaly/staging/tidemark-\(hex(UInt64.random(in: .min ... .max), 16))"
        guard mkdir(trash, 0o700) == 0 else { throw ArchiveError.system("create the directory", trash) }
        for lsn in gone {
            let name = PartitionLSN(rawValue: lsn).description
            guard rename("\(wal)/\(name)", "\(trash)/\(name)") == 0 else { throw ArchiveError.system("move away", "\(wal)/\(name)") }
        }
        try Files.syncDirectory(wal)
        try Files.removeTree(trash)
    }

    mutating func forget(_ partition: String) { directories.forget(partition) }
}

/// `log: spool`: tars that Gitaly's own archiver wrote, `<partition>/<LSN>.tar`, below a directory that may carry the storage's name.
struct SpoolFeed: EntryFeed {
    private let spool: String
    private let reader: EntryReader

    init(spool: String, storage: String) {
        self.spool = spool
        reader = EntryReader(storage: storage)
    }

    private func folders() throws -> [String: String] {
        func isNumber(_ name: String) -> Bool { !name.isEmpty && name.utf8.allSatisfy { (0x30...0x39).contains($0) } && UInt64(name) != nil }
        guard Files.exists(spool) else { return [:] }
        var result: [String: String] = [:]
        for name in try Files.names(in: spool) {
            let path = "\(spool)/\(name)"
            guard let status = try Files.status(path), status.st_mode & S_IFMT == S_IFDIR else { continue }
            if isNumber(name) { result[name] = path } else {
                for partition in try Files.names(in: path) where isNumber(partition) {
                    guard result[partition] == nil else {
                        throw ArchiveError(
                            .sourceUnsupported, "The spool '\(spool)' holds partition \(partition) of more than one storage.",
                            remedy: "Set 'spool' to the directory of one storage.")
                    }
                    result[partition] = "\(path)/\(partition)"
                }
            }
        }
        return result
    }

    func changes(at time: Moment) throws -> [(partition: String, lsns: [UInt64])] {
        try folders().map { partition, path in
            // Unfinished uploads end in .tmp.
            (partition, try Files.names(in: path).filter { $0.hasSuffix(".tar") }.compactMap { PartitionLSN(String($0.dropLast(4)))?.rawValue })
        }
    }

    func settle(_ partition: String) throws {}

    func read(_ partition: String, _ lsn: UInt64) throws -> FoundEntry? {
        let name = PartitionLSN(rawValue: lsn).description
        guard let folder = try folders()[partition], Files.exists("\(folder)/\(name).tar") else { return nil }
        let path = "\(folder)/\(name).tar"
        let bytes = try Files.read(path)
        func damaged(_ why: String) -> ArchiveError {
            ArchiveError(.logDamaged, "The native archiver's '\(path)' could not be read: \(why).", remedy: "Nothing after it in its partition is archived before that is settled.")
        }
        do {
            var manifest: (bytes: [UInt8], time: Int64)?
            var files: [String: ReplayableEntry.File] = [:]
            for member in try TarBlocks.members(of: bytes) where !member.isDirectory {
                guard member.name.hasPrefix(name + "/") else { throw damaged("'\(member.name)' does not belong to it") }
                let inner = String(member.name.dropFirst(name.utf8.count + 1))
                if inner == "RAFT" { throw EntryReader.raft(partition) }
                if inner == "MANIFEST" { manifest = (Array(member.content), member.modified) } else {
                    // The archiver loosened the modes; only the execute bit survived.
                    files[inner] = .init(bytes: Array(member.content), mode: member.mode & 0o100 != 0 ? 0o500 : 0o400)
                }
            }
            guard let manifest else { throw damaged("it has no MANIFEST") }
            let entry = try LogEntry(decoding: manifest.bytes)
            let ordered = try entry.fileNames.map { name in
                guard let file = files[name] else { throw damaged("its file '\(name)' is missing") }
                return (name: name, file: file)
            }
            let (links, unresolved) = try reader.materialise(entry)
            return FoundEntry(
                partition: partition, lsn: lsn, time: Moment(nanoseconds: manifest.time * 1_000_000_000), manifest: manifest.bytes,
                entry: entry, files: ordered, links: links, unresolvedLinks: unresolved)
        } catch let error as WireError { throw damaged(error.description) }
    }

    func prune(_ partition: String, through lsn: UInt64) throws {
        guard let folder = try folders()[partition] else { return }
        for name in try Files.names(in: folder) where name.hasSuffix(".tar") {
            guard let found = PartitionLSN(String(name.dropLast(4))), found.rawValue <= lsn else { continue }
            guard unlink("\(folder)/\(name)") == 0 || errno == ENOENT else { throw ArchiveError.system("remove", "\(folder)/\(name)") }
        }
    }

    func forget(_ partition: String) {}
}
