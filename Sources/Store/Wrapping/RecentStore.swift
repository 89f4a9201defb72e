import ArchiveCore
import Synchronization

/// Remembers the objects that were put last, within a limit of memory, so that what copies them need not read them back, and counts what
/// changes, so that it need not look where nothing did.
public final class RecentStore: ObjectStore {
    private struct State {
        var objects: [ObjectKey: [UInt8]] = [:]
        /// Oldest first; keys of removed objects may be among them.
        var order: [ObjectKey] = []
        var bytes = 0
        var changes: [String: UInt64] = [:]
        var histories: UInt64 = 0
    }
    private let inner: any ObjectStore
    private let limit: Int
    private let state = Mutex(State())

    /// - Parameter limit: bytes that are remembered at most.
    public init(_ inner: any ObjectStore, limit: Int = 64 << 20) {
        self.inner = inner
        self.limit = limit
    }

    public var description: String { inner.description }
    public var parallelism: Int { inner.parallelism }

    /// How often anything of a source was put or removed through this.
    public func changes(of source: String) -> UInt64 { state.withLock { $0.changes[source] ?? 0 } }

    /// How often the record of a history was put or removed through this.
    public var histories: UInt64 { state.withLock { $0.histories } }

    public func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        try await inner.put(bytes, at: key)
        state.withLock { state in
            Self.count(key, in: &state)
            guard bytes.count <= limit, state.objects.updateValue(bytes, forKey: key) == nil else { return }
            state.order.append(key)
            state.bytes += bytes.count
            var gone = 0
            while state.bytes > limit {
                state.bytes -= state.objects.removeValue(forKey: state.order[gone])?.count ?? 0
                gone += 1
            }
            state.order.removeFirst(gone)
        }
    }

    public func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        if let bytes = state.withLock({ $0.objects[key] }), range.map({ $0.upperBound <= UInt64(bytes.count) }) ?? true {
            return range.map { Array(bytes[Int($0.lowerBound)..<Int($0.upperBound)]) } ?? bytes
        }
        return try await inner.get(key, range: range)
    }

    public func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        try await inner.list(prefix: prefix, after: key, limit: limit)
    }
    public func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey] { try await inner.keys(prefix: prefix, after: key, limit: limit) }
    public func folders(below prefix: String) async throws -> [String] { try await inner.folders(below: prefix) }

    public func remove(_ key: ObjectKey) async throws {
        forget([key])
        try await inner.remove(key)
    }

    public func remove(_ keys: [ObjectKey]) async throws {
        forget(keys)
        try await inner.remove(keys)
    }

    public func lockedUntil(_ key: ObjectKey) async throws -> Moment? { try await inner.lockedUntil(key) }

    public func examine() async -> [StoreFinding] { await inner.examine() }

    private func forget(_ keys: [ObjectKey]) {
        state.withLock { state in
            for key in keys {
                Self.count(key, in: &state)
                guard let bytes = state.objects.removeValue(forKey: key) else { continue }
                state.bytes -= bytes.count
                state.order.removeAll { $0 == key }
            }
        }
    }

    /// Keys are `<folder>/<source>/…`; what is below `probe/` is nobody's.
    private static func count(_ key: ObjectKey, in state: inout State) {
        let parts = key.path.split(separator: "/", maxSplits: 2)
        if parts.count > 1, parts[0] != "probe" { state.changes[String(parts[1]), default: 0] += 1 }
        if parts.first == "sources" { state.histories += 1 }
    }
}
