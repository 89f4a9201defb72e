import ArchiveCore
import Catalog
import Source
import Store
import Testing

@testable import Sidecar

/// A store whose lists of sources show nothing to the first who ask, as where two ask at the same moment.
private actor Blindfold: ObjectStore {
    private let inner: MemoryStore
    private var blind: Int
    nonisolated let description = "blindfold"

    init(_ inner: MemoryStore, blind: Int) {
        self.inner = inner
        self.blind = blind
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await inner.put(bytes, at: key) }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await inner.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        if prefix.hasPrefix("sources/"), blind > 0 {
            blind -= 1
            return []
        }
        return await inner.list(prefix: prefix, after: key, limit: limit)
    }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
}

@Suite("A history that two begin at the same moment")
struct AdoptTests {
    @Test("is that of whoever was first, and another source's is refused")
    func race() async throws {
        let store = MemoryStore()
        _ = try await Catalog.create(in: store, at: Moment(rawValue: 1), version: "test")
        let identity = SourceIdentity(identity: "77", facts: ["segment-size": "1048576"])
        let first = try await Catalog.open(Blindfold(store, blind: 1)).adopt(identity, source: "main", kind: "postgres", at: Moment(rawValue: 2), because: nil)
        let second = try await Catalog.open(Blindfold(store, blind: 1)).adopt(identity, source: "main", kind: "postgres", at: Moment(rawValue: 3), because: nil)
        #expect(second == first)
        let other = await #expect(throws: ArchiveError.self) {
            _ = try await Catalog.open(Blindfold(store, blind: 1)).adopt(identity, source: "main", kind: "gitaly", at: Moment(rawValue: 4), because: nil)
        }
        #expect(other?.code == .twoHistories)
    }
}
