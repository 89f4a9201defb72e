import ArchiveCore
import ArchiveTesting
import Store
import Synchronization

/// A store whose calls fail as they are told to, and that shows whoever wants to see it what changes.
final class FaultyStore: ObjectStore {
    enum Fault: Sendable {
        case none
        /// The call does nothing and fails; it does what it should and fails.
        case before, after
    }
    let inner: any ObjectStore
    let description: String
    let parallelism: Int
    private let rule = Mutex<@Sendable (_ call: String, _ key: String) -> Fault>({ _, _ in .none })
    private let changed = Mutex<(@Sendable (String) async throws -> Void)?>(nil)
    private let counted = Mutex<[String: Int]>([:])

    init(_ inner: any ObjectStore, _ description: String, parallelism: Int = 3) {
        self.inner = inner
        self.description = description
        self.parallelism = parallelism
    }

    func set(_ rule: @escaping @Sendable (_ call: String, _ key: String) -> Fault) { self.rule.withLock { $0 = rule } }
    /// Calls `body` before each call that reads.
    func onRead(_ body: (@Sendable (String) async throws -> Void)?) { changed.withLock { $0 = body } }
    func count(_ call: String) -> Int { counted.withLock { $0[call] ?? 0 } }

    private func call<T>(_ name: String, _ key: String, _ body: () async throws -> T) async throws -> T {
        counted.withLock { $0[name, default: 0] += 1 }
        if name != "put", name != "remove", let hook = changed.withLock({ $0 }) { try await hook(key) }
        let failure = ArchiveError(.storeUnavailable, "\(description) did not answer.")
        switch rule.withLock({ $0 })(name, key) {
        case .none: return try await body()
        case .before: throw failure
        case .after:
            _ = try await body()
            throw failure
        }
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await call("put", key.path) { try await inner.put(bytes, at: key) } }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await call("get", key.path) { try await inner.get(key, range: range) } }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        try await call("list", prefix) { try await inner.list(prefix: prefix, after: key, limit: limit) }
    }
    func folders(below prefix: String) async throws -> [String] { try await call("list", prefix) { try await inner.folders(below: prefix) } }
    func remove(_ key: ObjectKey) async throws { try await call("remove", key.path) { try await inner.remove(key) } }
}

extension ObjectStore {
    /// Everything, with its bytes.
    func everything() async throws -> [String: [UInt8]] {
        var result: [String: [UInt8]] = [:]
        for object in try await listAll(prefix: "") { result[object.key.path] = try await get(object.key) }
        return result
    }

    /// Other bytes under a name that is there.
    func damage(_ key: String) async throws {
        guard let key = ObjectKey(key) else { return }
        var bytes = try await get(key)
        bytes[bytes.count / 2] ^= 4
        try await remove(key)
        try await put(bytes, at: key)
    }
}
