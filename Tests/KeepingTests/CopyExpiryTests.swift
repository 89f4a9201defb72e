import ArchiveCore
import Catalog
import Planner
import Retention
import Runtime
import Sidecar
import Store
import Testing

@Suite("A copy")
struct CopyExpiryTests {
    private static let policy = ["main": KeepPolicy(window: 5, bases: 1)]

    private static func level(_ catalog: Catalog, _ copy: CountingStore) async throws {
        let keeper = CopyKeeper(primary: catalog, copy: copy, interval: 1, output: Log("copy"))
        var rounds = 0
        while try await !keeper.catchUp(page: 5) {
            rounds += 1
            try #require(rounds < 5)
        }
    }

    /// What a copy has to have of its primary.
    private static func content(_ store: CountingStore) async -> Set<String> {
        await Set(store.objects.keys.filter { name in !["uses/", "holds/", "expiry/", "plans/"].contains { name.hasPrefix($0) } })
    }

    @Test("lets go what the primary let go, by its own plan, and gets none of it again")
    func both() async throws {
        let (store, copy) = (CountingStore(), CountingStore())
        let history = try await History(in: store, seed: 3)
        try await history.liveCalmly(6)
        try await Self.level(history.catalog, copy)
        let second = try await Catalog.open(copy)
        let now = at(await history.clock)
        let dry = try await expiry(history.catalog, at: now).run(Self.policy, apply: false)
        let foreseen = try await expiry(second, copyOf: history.catalog, at: now).run(Self.policy, apply: false, after: dry)
        // Before the primary has let go, nothing goes.
        #expect(try await expiry(second, copyOf: history.catalog, at: now).run(Self.policy, apply: true)[0].removesNothing)
        _ = try await expiry(history.catalog, at: now).run(Self.policy, apply: true)
        let done = try await expiry(second, copyOf: history.catalog, at: now).run(Self.policy, apply: true)
        #expect(done[0].total == foreseen[0].total)
        #expect(done[0].plan.removed.count == 5)
        #expect(await Self.content(copy) == Self.content(store))
        // Also for a copying that begins anew, and goes on.
        for rounds in [0, 2] {
            try await history.liveCalmly(rounds)
            try await Self.level(history.catalog, copy)
            #expect(await Self.content(copy) == Self.content(store))
        }
        let findings = try await second.verify(source: "main", kinds: History.kinds, options: VerifyOptions()).flatMap(\.findings)
        #expect(findings == [], "\(findings)")
    }

    @Test("does not let go what only the primary lost, nor what is held or used there")
    func lost() async throws {
        let (store, copy) = (CountingStore(), CountingStore())
        let history = try await History(in: store, seed: 3)
        try await history.liveCalmly(6)
        try await Self.level(history.catalog, copy)
        let (second, now, bases) = (try await Catalog.open(copy), at(await history.clock), await history.bases)
        for key in await store.objects.keys where key.hasPrefix("bases/") || key.hasPrefix("log/") { try await store.remove(ObjectKey(known: key)) }
        try await history.catalog.record(HoldRecord(id: "h", created: at(1), host: "h", bases: [bases[1]], until: nil, reason: nil))
        let report = try await expiry(second, copyOf: history.catalog, at: now).run(Self.policy, apply: true)[0]
        #expect(report.plan.kept.map(\.base.reference) == [bases[1], bases[5]])
        for second in 0..<5 { #expect(try await restore(Catalog.open(copy), to: now.adding(seconds: -Double(second))) != nil) }
    }

    @Test("is copied on while the primary expires what is being copied")
    func during() async throws {
        let (store, copy) = (CountingStore(), CountingStore())
        let history = try await History(in: store, seed: 5)
        try await history.liveCalmly(8)
        let (catalog, now) = (history.catalog, at(await history.clock))
        // In the middle of the first round.
        await copy.beforePut { key in
            guard key.hasPrefix("log/"), key.hasSuffix(".idx") else { return }
            await copy.beforePut(nil)
            _ = try await expiry(catalog, at: now).run(Self.policy, apply: true)
        }
        try await Self.level(catalog, copy)
        let second = try await Catalog.open(copy)
        #expect(try await restore(second, to: now) != nil)
        _ = try await expiry(second, copyOf: catalog, at: now).run(Self.policy, apply: true)
        #expect(await Self.content(copy) == Self.content(store))
        #expect(try await second.verify(source: "main", kinds: History.kinds, options: VerifyOptions()).flatMap(\.findings).filter(\.isProblem) == [])
    }
}
