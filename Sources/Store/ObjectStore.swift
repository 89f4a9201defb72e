import ArchiveCore

public struct ObjectInfo: Sendable, Hashable {
    public let key: ObjectKey
    /// Bytes.
    public let size: UInt64

    public init(key: ObjectKey, size: UInt64) {
        self.key = key
        self.size = size
    }
}

/// Where archived objects live. The rules below are what the conformance suite checks for every kind of store.
public protocol ObjectStore: Sendable {
    /// Stores a new object, durably: on return it survives the loss of this process and of the machine's power.
    ///
    /// - Parameter bytes: at most `ObjectKey.maximumSize`, and in memory, so that a failed attempt can be repeated.
    /// - Throws: `.objectExists` when other bytes are already stored at `key`; the same bytes again succeed.
    func put(_ bytes: [UInt8], at key: ObjectKey) async throws
    /// - Parameter range: offsets within the object, in bytes; `nil` for all of it.
    /// - Throws: `.objectMissing`; `.objectDamaged` when the object ends before the range does.
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8]
    /// One page of objects whose keys begin with `prefix` and come after `key`, ascending by bytes; fewer than `limit` only at the end.
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo]
    /// The same without sizes, which a directory gives away much faster.
    func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey]
    /// The names of the folders right below `prefix`, which ends in `/`: the next part of every key that goes on behind it; ascending.
    func folders(below prefix: String) async throws -> [String]
    /// Removes an object; removing one that is not there succeeds.
    func remove(_ key: ObjectKey) async throws
    /// Removes several objects; some may be gone already. What is left when it throws is not known.
    func remove(_ keys: [ObjectKey]) async throws
    /// Until when the store refuses to let go of an object: a retention, or a hold (`Moment(rawValue: .max)`); `nil`: it may be removed, or is not there.
    func lockedUntil(_ key: ObjectKey) async throws -> Moment?
    /// What people call this place; never with a secret in it.
    var description: String { get }
    /// How many requests at once are worth it; at least 1.
    var parallelism: Int { get }

    /// Reads an object and proves it. Where an archive has copies, one that is missing, cannot be read or does not stand the proof is
    /// read from the next.
    ///
    /// - Parameter proof: makes of the bytes what is wanted; throws `.objectDamaged` or `.archiveDamaged` when they are not what was stored.
    func read<T: Sendable>(_ key: ObjectKey, range: Range<UInt64>?, proving proof: @Sendable ([UInt8]) async throws -> T) async throws -> T

    /// Takes what somebody should know though nothing failed, in one sentence without secrets.
    func notice(_ message: String)

    /// Finds out what may keep this place from holding an archive: permissions, conditional writes, clocks, rules that delete.
    func examine() async -> [StoreFinding]
}

/// One thing that `tidemark check` tells of a store.
public struct StoreFinding: Sendable, Hashable {
    public enum Level: Sendable { case ok, warning, failure }
    public var level: Level
    public var message: String
    /// The operator's next step; `nil` where all is well.
    public var remedy: String?

    public init(_ level: Level, _ message: String, remedy: String? = nil) {
        self.level = level
        self.message = message
        self.remedy = remedy
    }
}

extension ObjectStore {
    public func get(_ key: ObjectKey) async throws -> [UInt8] { try await get(key, range: nil) }

    public var parallelism: Int { 2 }

    public func lockedUntil(_ key: ObjectKey) async throws -> Moment? { nil }

    public func remove(_ keys: [ObjectKey]) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, key) in keys.enumerated() {
                if number >= max(1, parallelism) { try await group.next() }
                group.addTask { try await remove(key) }
            }
            try await group.waitForAll()
        }
    }

    public func read<T: Sendable>(_ key: ObjectKey, range: Range<UInt64>?, proving proof: @Sendable ([UInt8]) async throws -> T) async throws -> T {
        let first = try await get(key, range: range)
        do { return try await proof(first) } catch let error as ArchiveError where error.code == .objectDamaged || error.code == .archiveDamaged {
            // Damaged on the way here, or where it lies? A second look tells.
            let second = try await get(key, range: range)
            guard second != first else { throw error }
            let value = try await proof(second)
            notice("'\(key)' arrived damaged from \(description), and whole when it was read again: \(error.message)")
            return value
        }
    }

    public func notice(_ message: String) {}

    public func read<T: Sendable>(_ key: ObjectKey, proving proof: @Sendable ([UInt8]) async throws -> T) async throws -> T {
        try await read(key, range: nil, proving: proof)
    }

    /// Writes, reads, lists and removes an object of its own, and tries to write it twice.
    public func examine() async -> [StoreFinding] {
        let probe = ObjectKey(known: "probe/\(hex(UInt64.random(in: .min ... .max), 16))")
        do {
            try await put([1], at: probe)
            var refused = false
            do { try await put([2], at: probe) } catch let error as ArchiveError where error.code == .objectExists { refused = true }
            try await remove(probe)
            return [
                refused
                    ? StoreFinding(.ok, "an object is written once: a second write under its name is refused")
                    : StoreFinding(.failure, "a second write under an object's name was not refused", remedy: "Use another store.")
            ]
        } catch let error as ArchiveError {
            return [StoreFinding(.failure, error.message, remedy: error.remedy)]
        } catch {
            return [StoreFinding(.failure, "\(error)")]
        }
    }

    public func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey] {
        try await list(prefix: prefix, after: key, limit: limit).map(\.key)
    }

    /// Everything below `prefix`, page by page.
    public func listAll(prefix: String, after: String? = nil) async throws -> [ObjectInfo] {
        var found: [ObjectInfo] = []
        var last = after
        while true {
            let page = try await list(prefix: prefix, after: last, limit: 4096)
            found += page
            guard page.count == 4096, let end = page.last else { return found }
            last = end.key.path
        }
    }
}

extension ArchiveError {
    public static func objectExists(_ key: ObjectKey, in store: String) -> ArchiveError {
        ArchiveError(
            .objectExists, "Other bytes are already stored as '\(key)' in \(store).",
            remedy: "Two histories meet under one name; both were kept. See whether two agents or two clusters share this archive.")
    }
    public static func objectMissing(_ key: ObjectKey, in store: String) -> ArchiveError {
        ArchiveError(.objectMissing, "There is no object '\(key)' in \(store).")
    }
    public static func objectShort(_ key: ObjectKey, _ range: Range<UInt64>, size: UInt64) -> ArchiveError {
        ArchiveError(
            .objectDamaged, "The object '\(key)' has \(size) bytes; bytes \(range.lowerBound) to \(range.upperBound) were wanted.")
    }
}
