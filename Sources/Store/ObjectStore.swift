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
    /// What people call this place; never with a secret in it.
    var description: String { get }
}

extension ObjectStore {
    public func get(_ key: ObjectKey) async throws -> [UInt8] { try await get(key, range: nil) }

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

/// The place that an archive's URL names.
public enum StoreLocation: Sendable, Hashable, CustomStringConvertible {
    case file(path: String)

    /// - Throws: `.usage` for anything but `file:///absolute/path`.
    public init(_ url: String) throws(ArchiveError) {
        guard let colon = url.firstRange(of: "://") else {
            throw ArchiveError(.usage, "'\(url)' is not an archive's URL.", remedy: "Write it as file:///srv/tidemark.")
        }
        guard url[..<colon.lowerBound] == "file" else {
            throw ArchiveError(
                .usage, "Archives at '\(url[..<colon.upperBound])…' are not supported by this version.",
                remedy: "Use a directory: file:///srv/tidemark.")
        }
        var path = String(url[colon.upperBound...])
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        guard path.hasPrefix("/"), path.count > 1, !path.utf8.contains(0), !path.contains("?") else {
            throw ArchiveError(.usage, "'\(url)' does not name an absolute directory.", remedy: "Write it as file:///srv/tidemark.")
        }
        self = .file(path: path)
    }

    public var description: String { switch self { case .file(let path): "file://\(path)" } }

    /// The store itself; a directory is not created before something is put into it.
    public func open() throws -> any ObjectStore { switch self { case .file(let path): FileStore(path: path) } }
}
