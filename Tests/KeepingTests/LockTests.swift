import ArchiveCore
import Catalog
import Planner
import Retention
import Store
import Testing

@Suite("What a store has locked")
struct LockTests {
    private static let policy = ["main": KeepPolicy(window: 5, bases: 1)]

    @Test("stays with its log until the lock is over, and is told")
    func bases() async throws {
        let store = CountingStore()
        let history = try await History(in: store, seed: 3)
        try await history.liveCalmly(6)
        let (now, bases) = (at(await history.clock), await history.bases)
        await store.lock("bases/main/\(bases[2].incarnation)/\(bases[2].base)/base.json", until: now.adding(seconds: 60))
        let report = try await expiry(history.catalog, at: now).run(Self.policy, apply: true)[0]
        #expect(report.plan.kept[0].base.reference == bases[2])
        #expect(report.plan.kept[0].reasons == [.locked(now.adding(seconds: 60))])
        #expect(report.plan.removed.map(\.reference) == [bases[0], bases[1], bases[3], bases[4]])
        let later = try await expiry(history.catalog, at: now.adding(seconds: 61)).run(Self.policy, apply: true)[0]
        #expect(later.plan.removed.map(\.reference).contains(bases[2]))
    }

    @Test("is cut from the log at the first piece that is locked", arguments: [3, 5, 2000])
    func log(page: Int) async throws {
        let store = CountingStore()
        let history = try await History(in: store, seed: 3)
        try await history.liveCalmly(6)
        let now = at(await history.clock)
        // What was written later is locked longer.
        let keys = await store.objects.keys.filter { $0.hasPrefix("log/") }.sorted()
        for (n, key) in keys.enumerated() where n >= 9 { await store.lock(key, until: now.adding(seconds: Double(n))) }
        let report = try await expiry(history.catalog, at: now, page: page).run(Self.policy, apply: true)[0]
        #expect(report.locked == ["77-0001": now.adding(seconds: 9)])
        // Not a content without its index.
        #expect(await store.objects.keys.filter { $0.hasPrefix("log/") }.sorted() == Array(keys[8...]))
        #expect(try await expiry(history.catalog, at: now, page: page).run(Self.policy, apply: true)[0].total.objects == 0)
        _ = try await expiry(history.catalog, at: now.adding(seconds: 500), page: page).run(Self.policy, apply: true)
        #expect(await store.objects.keys.filter { $0.hasPrefix("log/") }.count < 12)
    }
}
