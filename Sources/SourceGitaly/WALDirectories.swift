import ArchiveCore
import DurableIO
import Glibc
import Runtime

/// The `wal/` directories of a storage, looked at often: a directory is listed again only when it may have changed.
struct WALDirectories: Sendable {
    struct Partition: Sendable {
        var id: String
        var wal: String
        /// Modification time of `wal/` at the last listing, when it was old enough to be trusted.
        var seen: Moment?
    }

    let storage: String
    private(set) var partitions: [String: Partition] = [:]
    /// The same for the directories above: `partitions`, `xx` and `xx/yy`.
    private var shards: [String: (seen: Moment?, names: [String])] = [:]

    /// Two changes within one tick of the kernel's clock leave the same time; a directory that changed that lately is listed again.
    private static let trust = 0.1

    init(storage: String) { self.storage = storage }

    /// Finds partitions that are new. - Throws: `.sourceUnsupported` for partitions of Raft mode.
    mutating func refresh(at time: Moment) throws {
        let root = "\(storage)/+gitaly/partitions"
        for first in try names(root, at: time) {
            for second in try names("\(root)/\(first)", at: time) {
                for id in try names("\(root)/\(first)/\(second)", at: time) where partitions[id] == nil {
                    guard !id.isEmpty, id.utf8.allSatisfy({ (0x30...0x39).contains($0) }), UInt64(id) != nil else { throw EntryReader.raft(id) }
                    partitions[id] = Partition(id: id, wal: "\(root)/\(first)/\(second)/\(id)/wal", seen: nil)
                }
            }
        }
    }

    private mutating func names(_ path: String, at time: Moment) throws -> [String] {
        guard let modified = try Self.modified(path) else { return [] }
        if let known = shards[path], known.seen == modified { return known.names }
        let isOld = Self.isOld(modified, at: time)
        let names = try Files.names(in: path)
        shards[path] = (isOld ? modified : nil, names)
        return names
    }

    /// Whether a modification time, read just now, lies so far back that another change would leave another time. The clock may have been
    /// set back since `time`.
    private static func isOld(_ modified: Moment, at time: Moment) -> Bool { min(time, now()) - modified > trust }

    private static func modified(_ path: String) throws -> Moment? {
        guard let status = try Files.status(path), status.st_mode & S_IFMT == S_IFDIR else { return nil }
        return Moment(nanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec))
    }

    /// The LSNs that lie in a partition's `wal/`, ascending; `nil` when nothing can have changed since the last time.
    mutating func changed(_ id: String, at time: Moment) throws -> [UInt64]? {
        guard let partition = partitions[id], let modified = try Self.modified(partition.wal) else { return nil }
        if partition.seen == modified { return nil }
        let isOld = Self.isOld(modified, at: time)
        let lsns = try Self.entries(in: partition.wal, partition: id)
        partitions[id]?.seen = isOld ? modified : nil
        return lsns
    }

    /// Forces the next look at a partition to list it.
    mutating func forget(_ id: String) { partitions[id]?.seen = nil }

    static func entries(in wal: String, partition: String) throws -> [UInt64] {
        try Files.rawNames(in: wal).map { raw in
            let name = String(decoding: raw, as: UTF8.self)
            guard let lsn = PartitionLSN(name) else {
                throw ArchiveError(
                    .logDamaged, "'\(name)' in the log of partition \(partition) is no entry.",
                    remedy: "Nothing but Gitaly may write to '\(wal)'; move it away.")
            }
            return lsn.rawValue
        }.sorted()
    }

    /// Every partition and what lies in its `wal/` now.
    static func all(of storage: String) throws -> [String: (wal: String, lsns: [UInt64])] {
        var directories = WALDirectories(storage: storage)
        try directories.refresh(at: Moment(rawValue: 0))
        var result: [String: (wal: String, lsns: [UInt64])] = [:]
        for (id, partition) in directories.partitions {
            guard try Files.status(partition.wal) != nil else { continue }
            result[id] = (partition.wal, try entries(in: partition.wal, partition: id))
        }
        return result
    }
}
