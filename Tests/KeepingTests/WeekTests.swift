import ArchiveCore
import ArchiveTesting
import Catalog
import Foundation
import Planner
import Restore
import Retention
import Store
import Testing

@Suite("A week of three agents that die at random")
struct WeekTests {
    @Test("keeps its window, what is in use, one base at a time, and bases coming", arguments: 0..<6 as Range<UInt64>)
    func week(seed: UInt64) async throws {
        let week = try await Week(seed: seed)
        try await week.run(days: 7)
        let counts = await week.counts
        #expect(counts.bases > 25, "\(counts)")
        #expect(counts.deaths > 20 && counts.expired > 5 && counts.probes > 100, "\(counts)")
    }
}

/// An archive whose log is written by others, and the agents that take its bases and remove what is old. Time is a number of seconds.
private actor Week {
    struct Counts { var bases = 0, deaths = 0, lost = 0, expired = 0, probes = 0, checked = 0 }

    private struct Agent {
        let number: Int
        /// By how much its clock is wrong.
        let skew: Double
        var store: MortalStore
        var catalog: Catalog
        var lease: Lease
        var born: Int
        /// Dead, or not scheduled by its machine.
        var awayUntil = 0
        var isDead = false
        var nextExpiry: Int
        var failures = 0
        var lastFailure: Moment?
        /// Seconds at which the base that it takes is done, its unfinished name, and when the lease was renewed last.
        var work: (until: Int, id: String, renewed: Int)?
    }

    private static let policy = KeepPolicy(window: 86_400, bases: 2)
    private let store = CountingStore()
    private let history: History
    private var chance: SeededRandom
    private var agents: [Agent] = []
    private var time = 1
    private var probes: [(time: Moment, what: Restorable)] = []
    private var protected: [(base: BaseReference, until: Int)] = []
    private let base: BasePolicy
    private(set) var counts = Counts()

    init(seed: UInt64) async throws {
        chance = SeededRandom(seed: seed &+ 1000)
        history = try await History(in: store, seed: seed)
        base = BasePolicy(schedule: try CronSchedule("0 */4 * * *", zone: try #require(TimeZone(identifier: "Europe/Berlin"))), jitter: 600)
        for n in 0..<3 {
            let made = try await Self.process(n, born: 1, in: store)
            agents.append(Agent(number: n, skew: Double(number(600)) - 300, store: made.0, catalog: made.1, lease: made.2, born: 1, nextExpiry: number(20_000)))
        }
    }

    private func number(_ below: Int) -> Int { Int(chance.next() % UInt64(below)) }

    private static func process(_ n: Int, born: Int, in store: CountingStore) async throws -> (MortalStore, Catalog, Lease) {
        let mortal = MortalStore(store)
        let catalog = try await Catalog.open(mortal)
        // Each on a machine of its own; the processes before this one there are gone.
        return (mortal, catalog, Lease("base", in: catalog, holder: LeaseHolder(host: "host\(n)", process: 1, incarnation: "boot\(n) pid:[1] \(born)")))
    }

    func run(days: Int) async throws {
        var nextClose = 1
        var nextLook = 3600
        while time < days * 86_400 {
            if time >= nextClose {
                nextClose += 1800
                try await write()
            }
            for n in agents.indices { try await live(n) }
            if time >= nextLook {
                nextLook += 3600
                try await look()
            }
            // Slowly where leases are at work.
            time += agents.contains { $0.work != nil } ? 10 : 120
        }
        try await check()
    }

    // MARK: The source

    private func write() async throws {
        await history.wait(until: time)
        if number(60) == 0 { try await history.lose(1, isRecorded: true) }
        try await history.close(commits: 1 + number(3))
        try await history.advance()
    }

    // MARK: An agent

    private func live(_ n: Int) async throws {
        guard time >= agents[n].awayUntil else { return }
        if agents[n].isDead {
            let made = try await Self.process(n, born: time, in: store)
            (agents[n].store, agents[n].catalog, agents[n].lease) = made
            (agents[n].born, agents[n].isDead, agents[n].failures, agents[n].lastFailure) = (time, false, 0, nil)
        }
        let isBusy = agents[n].work != nil
        switch number(isBusy ? 40 : 400) {
        case 0: return die(n)
        // In the middle of what it does next.
        case 1: await agents[n].store.die(after: number(8), isMade: number(2) == 0)
        case 2: agents[n].awayUntil = time + 20 + number(200)
        default: break
        }
        do {
            if isBusy { try await goOn(n) } else { try await decide(n) }
            if agents[n].work == nil, time >= agents[n].nextExpiry { try await expire(n) }
        } catch let error as ArchiveError where error.code == .storeUnavailable {
            die(n)
        }
    }

    private func die(_ n: Int) {
        counts.deaths += 1
        agents[n].work = nil
        agents[n].isDead = true
        agents[n].awayUntil = time + 30 + number(5400)
    }

    private func clock(_ n: Int) -> Moment { at(time).adding(seconds: agents[n].skew) }

    private func verdict(_ n: Int) async throws -> BaseDecision.Verdict {
        let catalog = agents[n].catalog
        let incarnation = try #require(try await catalog.incarnations(of: "main").last)
        var decision = BaseDecision(policy: base, source: "main", archive: catalog.identity.id, agentStarted: at(agents[n].born).adding(seconds: agents[n].skew))
        for id in try await catalog.baseIdentifiers(of: incarnation).reversed() {
            guard let base = try await catalog.base(id, of: incarnation) else { continue }
            decision.lastStarted = base.started
            break
        }
        decision.gapNoticed = try await catalog.gaps(of: incarnation).map(\.noticed).max()
        (decision.failures, decision.lastFailure) = (agents[n].failures, agents[n].lastFailure)
        return decision.verdict(at: clock(n))
    }

    private func decide(_ n: Int) async throws {
        guard case .take = try await verdict(n) else { return }
        var lease = agents[n].lease
        let attempt = try await lease.take(for: "a base of 'main'", at: clock(n))
        agents[n].lease = lease
        guard attempt == .taken else { return }
        // Somebody may have taken one while this waited.
        guard case .take = try await verdict(n) else { return try await release(n) }
        expectAlone(n)
        let catalog = agents[n].catalog
        let incarnation = await history.incarnation
        for id in try await catalog.unfinishedBases(of: incarnation) { try await catalog.removeUnfinishedBase(id, of: incarnation) }
        let id = "unfinished-\(time)-\(n)"
        try await catalog.store.put([1], at: catalog.baseKey("part-000001.tar.zst", base: id, of: incarnation))
        agents[n].work = (time + 30 + number(300), id, time)
    }

    /// Nobody else may do anything to a base now.
    private func expectAlone(_ n: Int) {
        let others = agents.filter { $0.number != n && !$0.isDead && $0.work.map { time < $0.renewed + Int(Lease.lifetime - Lease.renewal) } ?? false }
        #expect(others.isEmpty, "two bases at \(time)")
    }

    private func goOn(_ n: Int) async throws {
        guard var work = agents[n].work else { return }
        guard time < work.renewed + Int(Lease.lifetime - Lease.renewal) else { return try await lose(n, work.id) }
        expectAlone(n)
        let (catalog, incarnation) = (agents[n].catalog, await history.incarnation)
        if time >= work.renewed + Int(Lease.renewal) {
            var lease = agents[n].lease
            let isOurs = try await lease.renew(at: clock(n))
            agents[n].lease = lease
            guard isOurs else { return try await lose(n, work.id) }
            work.renewed = time
            agents[n].work = work
        }
        guard time >= work.until else { return }
        if number(10) == 0 {
            agents[n].failures += 1
            agents[n].lastFailure = clock(n)
        } else {
            await history.wait(until: time)
            try await history.base()
            try await history.close(commits: 1)
            counts.bases += 1
            (agents[n].failures, agents[n].lastFailure) = (0, nil)
        }
        agents[n].work = nil
        try await catalog.removeUnfinishedBase(work.id, of: incarnation)
        try await release(n)
    }

    private func release(_ n: Int) async throws {
        var lease = agents[n].lease
        try await lease.release(at: clock(n))
        agents[n].lease = lease
    }

    /// It slept, or was slow: what it began is of no use.
    private func lose(_ n: Int, _ id: String) async throws {
        counts.lost += 1
        agents[n].work = nil
        // The next holder may be at it already; this removes only what is this one's own.
        try await agents[n].catalog.removeUnfinishedBase(id, of: await history.incarnation)
    }

    private func expire(_ n: Int) async throws {
        agents[n].nextExpiry = time + 3600 * (2 + number(8))
        let catalog = agents[n].catalog
        var lease = Lease("expire", in: catalog, holder: LeaseHolder(host: "host\(n)", process: 1, incarnation: "boot\(n) pid:[1] \(agents[n].born)"))
        guard try await lease.take(for: "an expiry", at: clock(n)) == .taken else { return }
        // The right time: a clock that is wrong by minutes is a matter of retention's own tests.
        let now = at(time)
        let reports = try await ExpiryRun(catalog, kinds: History.kinds, owner: owner, page: 50, clock: { now }).run(["main": Self.policy], apply: true)
        try await lease.release(at: clock(n))
        for report in reports where !report.removesNothing { counts.expired += 1 }
        try await check()
    }

    // MARK: What must be true

    /// Looks at what can be restored now, begins to use something, and sees whether bases come.
    private func look() async throws {
        let catalog = history.catalog
        let incarnation = await history.incarnation
        let now = await history.clock
        let wanted = at(now - number(1800))
        if let what = try await restore(catalog, to: wanted) {
            probes.append((wanted, what))
            counts.probes += 1
        }
        probes.removeAll { $0.time < at(time).adding(seconds: -Self.policy.window) }
        protected.removeAll { $0.until <= time }
        let bases = try await catalog.bases(of: incarnation)
        if let base = bases.isEmpty ? nil : bases[number(bases.count)] {
            let reference = BaseReference(source: "main", incarnation: incarnation.id, base: base.id)
            switch number(16) {
            case 0:
                let hours = 1 + number(30)
                try await catalog.record(
                    HoldRecord(id: "h\(time)", created: at(time), host: "test", bases: [reference], until: at(time + hours * 3600), reason: "a look"))
                protected.append((reference, time + hours * 3600))
            case 1:
                let seconds = 1800 + number(40_000)
                try await catalog.record(
                    UseRecord(id: "u\(time)", what: "restore", host: "test", process: 1, started: at(time), expires: at(time + seconds), bases: [reference]), number: 0)
                protected.append((reference, time + seconds))
            case 2:
                let loader = PlanLoader(catalog: catalog, kinds: History.kinds)
                if let plan = try? await loader.plan(PlanRequest(target: .time(wanted)), sources: ["main"]) {
                    _ = try await loader.save(plan, target: "a time", at: at(time))
                    let base = BaseReference(source: "main", incarnation: incarnation.id, base: plan.plans[0].base.id)
                    protected.append((base, time + Int(RetentionLoader.planDays * 86_400)))
                }
            default: break
            }
        }
        if time > 86_400 {
            let newest = try #require(bases.last)
            #expect(at(time) - newest.started < 12 * 3600, "no base since \(newest.started)")
        }
        try await check()
    }

    private func check() async throws {
        let catalog = history.catalog
        let names = await store.objects
        for (base, until) in protected where until > time {
            #expect(names["bases/main/\(base.incarnation)/\(base.base)/base.json"] != nil, "\(base.base) went while it was in use, at \(time)")
        }
        let begin = at(time).adding(seconds: -Self.policy.window)
        let inWindow = probes.filter { $0.time >= begin }
        // The oldest, which goes first, and two others.
        for probe in inWindow.prefix(1) + (inWindow.isEmpty ? [] : [inWindow[number(inWindow.count)], inWindow[number(inWindow.count)]]) {
            counts.checked += 1
            #expect(try await restore(catalog, to: probe.time)?.cuts == probe.what.cuts, "\(probe.time) was in the window, at \(time)")
        }
        #expect(names.keys.count { $0.hasPrefix("leases/") } <= 8)
    }
}
