import ArchiveCore
import DurableIO
import Glibc
import Source

/// A place where entries of all partitions can be found: the log itself, or the native archiver's spool. Calls block.
protocol EntryFeed: Sendable {
    /// Partitions that may have something new, and what lies there; looked at `time`.
    mutating func changes(at time: Moment) throws -> [Listing]
    /// Makes sure that what was listed cannot be taken back by a crash. Called once before a partition's entries are read.
    func settle(_ partition: String) throws
    /// - Returns: `nil` when the entry is gone.
    func read(_ partition: String, _ lsn: UInt64) throws -> FoundEntry?
    /// Removes entries that are archived; of `log: wal` never the highest one of a partition.
    mutating func prune(_ partition: String, through lsn: UInt64) throws
    /// Lists the partition again next time, because not everything was taken.
    mutating func forget(_ partition: String)
}

/// What lies in a partition's log.
struct Listing: Sendable {
    var partition: String
    /// Ascending.
    var lsns: [UInt64]
    /// The highest entry in Gitaly's own log, which is the highest of all; `nil` when that is empty.
    var highest: UInt64?
    /// Whether there are entries up to this one that `prune` would remove.
    var removable: UInt64?
}

/// `log: wal`: the partitions' own logs.
struct WALFeed: EntryFeed {
    private var directories: WALDirectories
    private let reader: EntryReader
    private let storage: String
    private var isSwept = false
    private static let trash = "tidemark-"

    init(storage: String) {
        self.storage = storage
        directories = WALDirectories(storage: storage)
        reader = EntryReader(storage: storage)
    }

    mutating func changes(at time: Moment) throws -> [Listing] {
        if !isSwept {
            isSwept = true
            try sweep()
        }
        try directories.refresh(at: time)
        var result: [Listing] = []
        for id in directories.partitions.keys {
            guard let lsns = try directories.changed(id, at: time) else { continue }
            result.append(Listing(partition: id, lsns: lsns, highest: lsns.last, removable: lsns.count > 1 ? lsns.first : nil))
        }
        return result
    }

    /// Removes what a killed agent had moved out of a log and not yet deleted.
    private func sweep() throws {
        let staging = "\(storage)/+gitaly/staging"
        guard Files.exists(staging) else { return }
        for name in try Files.names(in: staging) where name.hasPrefix(Self.trash) { try Files.removeTree("\(staging)/\(name)") }
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
        let trash = "\(storage)/+gitaly/staging/\(Self.trash)\(hex(UInt64.random(in: .min ... .max), 16))"
        guard mkdir(trash, 0o700) == 0 else { throw ArchiveError.system("create the directory", trash) }
        // Gitaly empties this folder when it starts, which it could not if root's leftovers lay in it after we were killed.
        if geteuid() == 0, let owner = try Files.status(wal), lchown(trash, owner.st_uid, owner.st_gid) != 0 {
            throw ArchiveError.system("give its owner to", trash)
        }
        for lsn in gone {
            let name = PartitionLSN(rawValue: lsn).description
            // Gitaly may remove them too.
            guard rename("\(wal)/\(name)", "\(trash)/\(name)") == 0 || errno == ENOENT else { throw ArchiveError.system("move away", "\(wal)/\(name)") }
        }
        try Files.syncDirectory(wal)
        try Files.removeTree(trash)
    }

    mutating func forget(_ partition: String) { directories.forget(partition) }
}

/// `log: spool`: tars that Gitaly's own archiver wrote, `<partition>/<LSN>.tar`, below a directory that may carry the storage's name,
/// and the log itself for what it still holds: an entry that lies there has its exact time, and one that is not uploaded yet, such as
/// those of a partition that nobody has opened since Gitaly started, is not missed.
struct SpoolFeed: EntryFeed {
    private let spool: String
    private var log: WALFeed
    private let reader: EntryReader
    /// What the log was seen to hold, since it is listed only when it changed.
    private var listed: [String: [UInt64]] = [:]
    /// When all was looked at before, the highest entry of each partition then, and for what came later that time.
    private var lastLook: Moment?
    private var known: [String: UInt64] = [:]
    private var since: [String: [UInt64: Moment]] = [:]

    init(spool: String, storage: String) {
        self.spool = spool
        log = WALFeed(storage: storage)
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

    mutating func changes(at time: Moment) throws -> [Listing] {
        // The log first: an entry leaves it only when it is in the spool.
        for listing in try log.changes(at: time) { listed[listing.partition] = listing.lsns }
        var spooled: [String: [UInt64]] = [:]
        for (partition, path) in try folders() {
            // Unfinished uploads end in .tmp.
            spooled[partition] = try Files.names(in: path).filter { $0.hasSuffix(".tar") }.compactMap { PartitionLSN(String($0.dropLast(4)))?.rawValue }
        }
        var result: [Listing] = []
        for partition in Set(spooled.keys).union(listed.keys) {
            let (tars, entries) = (spooled[partition] ?? [], listed[partition] ?? [])
            let lsns = Set(tars).union(entries).sorted()
            // Also of what lies in the log now: it may be gone from there before it is read.
            var times: [UInt64: Moment] = [:]
            for lsn in lsns { times[lsn] = since[partition]?[lsn] ?? (lsn > known[partition] ?? 0 ? lastLook : nil) }
            since[partition] = times.isEmpty ? nil : times
            guard let highest = lsns.last else { continue }
            known[partition] = max(known[partition] ?? 0, highest)
            result.append(Listing(partition: partition, lsns: lsns, highest: entries.last, removable: tars.min()))
        }
        lastLook = time
        return result
    }

    func settle(_ partition: String) throws { try log.settle(partition) }

    func read(_ partition: String, _ lsn: UInt64) throws -> FoundEntry? {
        if let entry = try log.read(partition, lsn) { return entry }
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
                partition: partition, lsn: lsn, time: try time(partition, lsn, tar: path, written: manifest.time), manifest: manifest.bytes,
                entry: entry, files: ordered, links: links, unresolvedLinks: unresolved)
        } catch let error as WireError { throw damaged(error.description) }
    }

    /// The best that is known of a commit time that only the log had.
    ///
    /// An entry that was neither in the log nor in the spool when we looked before was committed and uploaded since: its tar's own
    /// time is at most one look, and mostly milliseconds, late. Of one that lay there already it may be hours late; then the time at
    /// which Gitaly wrote its MANIFEST, rounded to a second, has to do.
    private func time(_ partition: String, _ lsn: UInt64, tar: String, written: Int64) throws -> Moment {
        let written = Moment(nanoseconds: written * 1_000_000_000)
        guard let status = try Files.status(tar) else { return written }
        let uploaded = Moment(nanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec))
        guard let look = since[partition]?[lsn] else { return min(written, uploaded) }
        return max(uploaded, look)
    }

    func prune(_ partition: String, through lsn: UInt64) throws {
        guard let folder = try folders()[partition] else { return }
        for name in try Files.names(in: folder) where name.hasSuffix(".tar") {
            guard let found = PartitionLSN(String(name.dropLast(4))), found.rawValue <= lsn else { continue }
            guard unlink("\(folder)/\(name)") == 0 || errno == ENOENT else { throw ArchiveError.system("remove", "\(folder)/\(name)") }
        }
    }

    mutating func forget(_ partition: String) {
        log.forget(partition)
        listed[partition] = nil
    }
}
