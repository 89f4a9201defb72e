import ArchiveCore
import Catalog
import Planner
import Restore
import Retention
import Store
import Synchronization
import Testing

@Suite("What is held and used")
struct UseTests {
    private static let policy = ["main": KeepPolicy(window: 5, bases: 1)]

    private static func calm() async throws -> (store: CountingStore, catalog: Catalog, bases: [BaseReference], now: Moment) {
        let store = CountingStore()
        let history = try await History(in: store, seed: 3)
        try await history.liveCalmly(6)
        return (store, history.catalog, await history.bases, at(await history.clock))
    }

    private static func isThere(_ base: BaseReference, in store: CountingStore) async -> Bool {
        await store.objects["bases/main/\(base.incarnation)/\(base.base)/base.json"] != nil
    }

    @Test("stays, with all log from it on, and goes when it is let go or its time is over")
    func holds() async throws {
        let (store, catalog, bases, now) = try await Self.calm()
        try await catalog.record(HoldRecord(id: "h1", created: at(1), host: "here", bases: [bases[1]], until: nil, reason: "audit"))
        try await catalog.record(HoldRecord(id: "h2", created: at(1), host: "here", bases: [bases[0]], until: now, reason: nil))
        let report = try await expiry(catalog, at: now).run(Self.policy, apply: true)[0]
        #expect(report.plan.kept.first?.reasons == [.protected(.hold("h1"))])
        #expect(await !Self.isThere(bases[0], in: store))
        #expect(await Self.isThere(bases[1], in: store))
        let held = try #require(try await catalog.incarnations(of: "main").first)
        let record = try #require(try await catalog.base(bases[1].base, of: held))
        for second in 0...Int(now - record.completed) { #expect(try await restore(catalog, to: record.completed.adding(seconds: Double(second))) != nil) }
        #expect(try await catalog.holds().map(\.id) == ["h1"], "one that is over is removed")
        #expect(try await catalog.releaseHold("h1"))
        #expect(try await !catalog.releaseHold("h1"))
        _ = try await expiry(catalog, at: now).run(Self.policy, apply: true)
        #expect(await !Self.isThere(bases[1], in: store))
    }

    @Test("stays while it is used, and for an hour after its user has died")
    func uses() async throws {
        let (store, catalog, bases, now) = try await Self.calm()
        let use = try #require(try await UseKeeper.begin("restore", bases: [bases[2]], in: catalog, owner: owner, clock: { now }) { Issue.record("\($0)") })
        let report = try await expiry(catalog, at: now).run(Self.policy, apply: true)[0]
        #expect(report.plan.kept.map(\.base.reference).contains(bases[2]))
        #expect(report.plan.kept[0].reasons[0].description.hasPrefix("in use by the restore "))
        await use.end()
        #expect(try await catalog.uses() == [])
        // Died without a word.
        try await catalog.record(
            UseRecord(id: "u", what: "restore", host: "h", process: 1, started: now, expires: now.adding(seconds: UseKeeper.lifetime), bases: [bases[2]]), number: 0)
        _ = try await expiry(catalog, at: now.adding(seconds: UseKeeper.lifetime - 1)).run(Self.policy, apply: true)
        #expect(await Self.isThere(bases[2], in: store))
        _ = try await expiry(catalog, at: now.adding(seconds: UseKeeper.lifetime)).run(Self.policy, apply: true)
        #expect(await !Self.isThere(bases[2], in: store))
    }

    @Test("is kept for a while after a restore that only prepared")
    func prepared() async throws {
        let (_, catalog, bases, now) = try await Self.calm()
        let use = try #require(try await UseKeeper.begin("restore", bases: [bases[2]], in: catalog, owner: owner, clock: { now }) { Issue.record("\($0)") })
        await use.end(keepingFor: 500)
        let left = try await catalog.uses()
        #expect(left.map(\.expires) == [now.adding(seconds: 500)])
        #expect(try await catalog.store.listAll(prefix: "uses/").count == 1)
    }

    @Test("is not protected from a host that may only read, which is told")
    func readOnly() async throws {
        let (store, catalog, bases, now) = try await Self.calm()
        await store.refusePuts(ArchiveError(.inputOutput, "You may not put."))
        var notes: [String] = []
        let use = try await UseKeeper.begin("restore", bases: [bases[2]], in: catalog, owner: owner, clock: { now }) { notes.append($0) }
        #expect(use == nil)
        #expect(notes.count == 1 && notes[0].contains("not protected"))
    }

    @Test("is seen by the expiry or sees it, whenever it begins", arguments: 0..<3)
    func race(moment: Int) async throws {
        let (store, catalog, bases, now) = try await Self.calm()
        let outcome = Mutex<Result<UseKeeper?, ArchiveError>?>(nil)
        @Sendable func use() async throws {
            // Not by the store's hook again.
            await store.beforePut(nil)
            let result: Result<UseKeeper?, ArchiveError>
            do {
                result = .success(try await UseKeeper.begin("restore", bases: [bases[1]], in: catalog, owner: owner, clock: { now }, patience: 0) { _ in })
            } catch let error as ArchiveError { result = .failure(error) }
            outcome.withLock { $0 = result }
        }
        // Before the announcement, between it and the decision, and when the decision was made.
        switch moment {
        case 0: await store.beforePut { if $0.hasSuffix("wanted.json") { try await use() } }
        case 1: await store.beforePut { if $0.hasSuffix("decided.json") { try await use() } }
        default: break
        }
        let report = try await expiry(catalog, at: now).run(Self.policy, apply: true)[0]
        if moment == 2 { try await use() }
        let isKept = report.plan.kept.map(\.base.reference).contains(bases[1])
        #expect(await Self.isThere(bases[1], in: store) == isKept)
        switch try #require(outcome.withLock { $0 }) {
        case .success(let use):
            #expect(use != nil && isKept)
            await use?.end()
        case .failure(let error):
            #expect(!isKept)
            #expect(error.code == (moment == 1 ? .alreadyRunning : .targetUnreachable))
        }
        #expect(try await catalog.uses() == [])
    }

    @Test("waits for an expiry that is about to decide, and goes on when it wants something else")
    func waiting() async throws {
        let (_, catalog, bases, now) = try await Self.calm()
        func record(_ bases: [BaseReference]) -> ExpiryRecord {
            ExpiryRecord(id: "x", started: now, host: "h", process: 1, source: "main", bases: bases, log: [], incarnations: [])
        }
        try await catalog.announce(record([bases[0], bases[1]]), isDecided: false)
        #expect(try await catalog.lost(of: [bases[3]], patience: 0) == [])
        var pauses = 0
        let lost = try await catalog.lost(of: [bases[0], bases[1]], patience: 5) { _ in
            pauses += 1
            if pauses == 3 { try await catalog.announce(record([bases[0]]), isDecided: true) }
        }
        #expect(lost == [bases[0]])
        #expect(pauses == 3)
    }

    @Test("is refused where a record of it cannot be read: nothing goes then")
    func damaged() async throws {
        for key in ["holds/h.json", "uses/u/00000000.json"] {
            let (store, catalog, _, now) = try await Self.calm()
            try await store.put(Array("{".utf8), at: ObjectKey(known: key))
            let before = await store.objects
            await #expect(throws: ArchiveError.self) { _ = try await expiry(catalog, at: now).run(Self.policy, apply: true) }
            #expect(await store.objects == before)
        }
    }

    @Test("saved plans keep what they begin with for a week, and go then")
    func plans() async throws {
        let (store, catalog, bases, now) = try await Self.calm()
        let loader = PlanLoader(catalog: catalog, kinds: History.kinds)
        let first = try #require(try await catalog.incarnations(of: "main").first)
        let completed = try #require(try await catalog.base(bases[1].base, of: first)).completed
        let plan = try await loader.plan(PlanRequest(target: .time(completed)), sources: ["main"])
        let id = try await loader.save(plan, target: "a time", at: now)
        _ = try await expiry(catalog, at: now.adding(seconds: 6 * 86_400)).run(Self.policy, apply: true)
        #expect(await Self.isThere(bases[1], in: store))
        #expect(try await loader.load(id, sources: []).plan.plans[0].base.id == bases[1].base)
        _ = try await expiry(catalog, at: now.adding(seconds: 7 * 86_400)).run(Self.policy, apply: true)
        #expect(await !Self.isThere(bases[1], in: store))
        #expect(try await catalog.store.listAll(prefix: "plans/") == [])
    }
}
