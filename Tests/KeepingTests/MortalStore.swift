import ArchiveCore
import Store

/// The archive as one process reaches it, which dies at one of its changes: nothing that it does afterwards has any effect.
actor MortalStore: ObjectStore {
    private let inner: CountingStore
    private var left = Int.max
    private var isMade = false
    nonisolated let description = "counting"

    init(_ inner: CountingStore) { self.inner = inner }

    /// - Parameters:
    ///   - changes: that it still makes.
    ///   - isMade: whether the next one is made although its answer does not arrive.
    func die(after changes: Int, isMade: Bool) {
        left = changes
        self.isMade = isMade
    }

    private func change(_ body: () async throws -> Void) async throws {
        guard left > 0 else {
            if left == 0, isMade { try await body() }
            left = -1
            throw ArchiveError(.storeUnavailable, "The process died.")
        }
        left -= 1
        try await body()
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await change { try await inner.put(bytes, at: key) } }
    func remove(_ key: ObjectKey) async throws { try await change { try await inner.remove(key) } }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await inner.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
}
