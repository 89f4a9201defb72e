import ArchiveCore

/// The reference: an archive in memory, for tests.
public actor MemoryStore: ObjectStore {
    private var objects: [String: [UInt8]] = [:]
    public nonisolated let description = "memory"

    public init() {}

    public func put(_ bytes: [UInt8], at key: ObjectKey) throws {
        guard objects[key.path, default: bytes] == bytes else { throw ArchiveError.objectExists(key, in: description) }
        objects[key.path] = bytes
    }

    public func get(_ key: ObjectKey, range: Range<UInt64>?) throws -> [UInt8] {
        guard let bytes = objects[key.path] else { throw ArchiveError.objectMissing(key, in: description) }
        guard let range else { return bytes }
        guard range.upperBound <= UInt64(bytes.count) else {
            throw ArchiveError.objectShort(key, range, size: UInt64(bytes.count))
        }
        return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    public func list(prefix: String, after key: String?, limit: Int) -> [ObjectInfo] {
        let keys = objects.keys.compactMap(ObjectKey.init).filter { k in
            k.path.hasPrefix(prefix) && key.map { $0.utf8.lexicographicallyPrecedes(k.path.utf8) } ?? true
        }
        return keys.sorted().prefix(limit).map { ObjectInfo(key: $0, size: UInt64(objects[$0.path]?.count ?? 0)) }
    }

    public func folders(below prefix: String) -> [String] {
        let names = objects.keys.filter { $0.hasPrefix(prefix) }.compactMap { key -> String? in
            let rest = key.dropFirst(prefix.count)
            return rest.firstIndex(of: "/").map { String(rest[..<$0]) }
        }
        return Set(names).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    public func remove(_ key: ObjectKey) { objects[key.path] = nil }
}
