import ArchiveCore
import ArchiveTesting
import Catalog
import Planner
import Restore
import Retention
import Store
import Testing

let owner = LeaseHolder(host: "test", process: 1, incarnation: "")

func expiry(_ catalog: Catalog, copyOf primary: Catalog? = nil, at time: Moment, page: Int = 2000) -> ExpiryRun {
    ExpiryRun(catalog, copyOf: primary, kinds: History.kinds, owner: owner, page: page, clock: { time })
}

@Suite("Whatever a source lived through")
struct ExpiryPropertyTests {
    /// Probes of a history: times, each on the newest branch and on one other.
    private struct Probe: Hashable {
        var time: Moment
        var branch: UInt32?
    }

    private static func probes(_ history: History, from start: Moment, to end: Moment) async -> [Probe] {
        var probes: [Probe] = []
        let branches = await history.branch
        for _ in 0..<14 {
            let time = start.adding(seconds: Double(await history.number(Int(max(1, end - start)) + 2)))
            probes.append(Probe(time: time, branch: nil))
            probes.append(Probe(time: time, branch: 1 + UInt32(await history.number(Int(branches)))))
        }
        return probes + [Probe(time: start, branch: nil), Probe(time: end, branch: nil)]
    }

    private static func reach(_ catalog: Catalog, _ probes: [Probe]) async throws -> [Probe: Restorable] {
        var reached: [Probe: Restorable] = [:]
        for probe in probes { reached[probe] = try await restore(catalog, to: probe.time, branch: probe.branch) }
        return reached
    }

    private struct Case {
        var store: CountingStore
        var catalog: Catalog
        var now: Moment
        var policy: KeepPolicy
        var probes: [Probe]
        var before: [Probe: Restorable]
        var held: BaseReference?
    }

    private static func make(_ seed: UInt64) async throws -> Case {
        let store = CountingStore()
        let history = try await History(in: store, seed: seed)
        try await history.live(30 + (await history.number(60)))
        let end = await history.clock
        let (late, window, count) = (await history.number(3) * (await history.number(40)), await history.number(end + 20), await history.number(3))
        let now = at(end + late)
        let policy = KeepPolicy(window: Double(window), bases: 1 + count)
        var held: BaseReference?
        if await history.number(2) == 0 {
            let bases = await history.bases
            let base = bases[await history.number(bases.count)]
            held = base
            try await history.catalog.record(HoldRecord(id: "h1", created: at(1), host: "test", bases: [base], until: nil, reason: "why not"))
        }
        let probes = await probes(history, from: max(at(0), now.adding(seconds: -policy.window)), to: now)
        return Case(
            store: store, catalog: history.catalog, now: now, policy: policy, probes: probes, before: try await reach(history.catalog, probes), held: held)
    }

    @Test("every moment of the window that could be restored still can, to the very same state", arguments: 0..<60 as Range<UInt64>)
    func window(seed: UInt64) async throws {
        let made = try await Self.make(seed)
        let problems = try await Self.problems(made.catalog)
        let untouched = await made.store.objects
        let dry = try await expiry(made.catalog, at: made.now).run(["main": made.policy], apply: false)
        #expect(await made.store.objects == untouched, "a dry run changes nothing")
        let done = try await expiry(made.catalog, at: made.now, page: 3 + Int(seed % 5)).run(["main": made.policy], apply: true)
        #expect(dry[0].total == done[0].total, "a dry run tells what goes")
        #expect(try await Self.reach(made.catalog, made.probes) == made.before)
        #expect(try await Self.problems(made.catalog).subtracting(problems) == [], "nothing is damaged by it")
        if let held = made.held { #expect(await made.store.objects["bases/main/\(held.incarnation)/\(held.base)/base.json"] != nil) }
        let again = try await expiry(made.catalog, at: made.now).run(["main": made.policy], apply: true)
        #expect(again[0].removesNothing, "once is enough")
        let names = await made.store.objects.keys
        #expect(!names.contains { $0.hasPrefix("expiry/") })
    }

    @Test("these histories have times that can be reached, in the window and held, and bases and log that go")
    func substance() async throws {
        var (reached, bases, objects, holds) = (0, 0, 0, 0)
        for seed in 0..<12 as Range<UInt64> {
            let made = try await Self.make(seed)
            let report = try await expiry(made.catalog, at: made.now).run(["main": made.policy], apply: true)[0]
            reached += made.before.count
            bases += report.plan.removed.count
            objects += report.total.objects
            holds += report.plan.kept.count { $0.reasons == [.protected(.hold("h1"))] }
        }
        #expect(reached > 60)
        #expect(bases > 12)
        #expect(objects > 150)
        #expect(holds > 0)
    }

    @Test("an agent that starts again on what is left takes up where it was, and what it writes then is whole", arguments: 0..<8 as Range<UInt64>)
    func resume(seed: UInt64) async throws {
        var totals: [LogTotals] = []
        for isExpired in [false, true] {
            let history = try await History(in: CountingStore(), seed: seed)
            try await history.liveCalmly(8)
            let (incarnation, catalog) = (await history.incarnation, history.catalog)
            let (before, _) = try await catalog.resume(incarnation, cleaning: true)
            if isExpired {
                let report = try await expiry(catalog, at: at(await history.clock)).run(["main": KeepPolicy(window: 5, bases: 1)], apply: true)[0]
                #expect(report.plan.removed.count >= 5)
                #expect(report.total.objects > 30)
            }
            let (after, _) = try await catalog.resume(incarnation, cleaning: true)
            #expect(after.lastPiece == before.lastPiece)
            #expect(after.positions == before.positions)
            try await history.restart()
            try await history.liveCalmly(3)
            #expect(try await Self.problems(catalog) == [])
            #expect(try await restore(catalog, to: at(await history.clock)) != nil)
            let last = try #require(try await catalog.lastChapter(of: incarnation, branch: 1))
            totals.append(try await catalog.chapter(last, of: incarnation).totals)
        }
        #expect(totals[0] == totals[1], "totals go on, so that plans tell what lies behind their cut")
    }

    @Test("a process that dies at any step leaves the window whole, and the next one finishes", arguments: 100..<108 as Range<UInt64>)
    func death(seed: UInt64) async throws {
        let made = try await Self.make(seed)
        let problems = try await Self.problems(made.catalog)
        let whole = await made.store.objects
        let reference = CountingStore(whole)
        _ = try await expiry(try await Catalog.open(reference), at: made.now, page: 7).run(["main": made.policy], apply: true)
        let left = await reference.objects
        let steps = await reference.changes
        for step in 1..<steps + 1 where steps < 60 || step % (1 + steps / 60) == 0 || step < 12 || step > steps - 4 {
            let store = CountingStore(whole)
            let catalog = try await Catalog.open(store)
            await store.die(at: step, made: step % 2 == 0)
            await #expect(throws: ArchiveError.self) { _ = try await expiry(catalog, at: made.now, page: 7).run(["main": made.policy], apply: true) }
            await store.die(at: .max, made: false)
            #expect(try await Self.reach(catalog, made.probes) == made.before, "died at step \(step)")
            let found = try await Self.problems(catalog).subtracting(problems)
            #expect(found == [], "died at step \(step)")
            _ = try await expiry(catalog, at: made.now, page: 7).run(["main": made.policy], apply: true)
            let names = await Set(store.objects.keys)
            #expect(names.symmetricDifference(left.keys) == [], "died at step \(step)")
        }
    }

    /// Objects or sentences of what verify calls missing or damaged.
    private static func problems(_ catalog: Catalog) async throws -> Set<String> {
        let reports = try await catalog.verify(source: "main", kinds: History.kinds, options: VerifyOptions(contents: false))
        return Set(reports.flatMap(\.findings).filter(\.isProblem).map(\.message))
    }
}
