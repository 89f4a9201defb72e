import ArchiveCore
import Catalog
import Glibc
import Planner
import Restore
import Testing

/// A database and its storages restored together, thousands of times, and compared with what truly happened.
///
/// `TIDEMARK_TEST_TARGETS` asks for more targets, `TIDEMARK_TEST_SEED` for one world alone.
@Suite("Database and repositories", .serialized)
struct ConsistencyTests {
    private static let targetsPerWorld = 80
    private static let standardTargets = 1200

    private static func number(_ name: String) -> Int? { getenv(name).flatMap { Int(String(cString: $0)) } }

    /// Seeds of the worlds that hold so many targets.
    private static func seeds(_ targets: Int, from first: UInt64) -> [UInt64] {
        if let seed = number("TIDEMARK_TEST_SEED") { return [UInt64(seed)] }
        // The other tests grow with the main one.
        let wanted = targets * max(number("TIDEMARK_TEST_TARGETS") ?? 0, standardTargets) / standardTargets
        let count = (wanted + targetsPerWorld - 1) / targetsPerWorld
        return (0..<UInt64(count)).map { first + $0 }
    }

    /// Plans for random targets in worlds of these seeds.
    private static func run(_ seeds: [UInt64], _ options: WorldOptions, slack: @escaping @Sendable (World) -> [Int64] = { _ in [0, 0, 50 * millisecond, second] }) async throws -> Tally {
        try await withThrowingTaskGroup(of: Tally.self) { group in
            var total = Tally()
            for (n, seed) in seeds.enumerated() {
                if n >= 2, let done = try await group.next() { total += done }
                group.addTask { try await examine(seed, options, slack) }
            }
            for try await tally in group { total += tally }
            return total
        }
    }

    private static func examine(_ seed: UInt64, _ options: WorldOptions, _ slack: @Sendable (World) -> [Int64]) async throws -> Tally {
        var world = World(seed: seed, options: options)
        world.run()
        var chance = Chance(seed ^ 0x5A5A)
        let catalog = try await world.archive(chapterPieces: chance.pick([5, 10, 20, 20, 40, 512])!)
        let loader = PlanLoader(catalog: catalog, kinds: [AnchorKind(), StorageKind()])
        let sources = ["main"] + world.storages.indices.map(World.name)
        let slacks = slack(world)
        let oracle = Oracle(world)
        var tally = Tally()
        for n in 0..<targetsPerWorld {
            let target = target(in: world, &chance)
            let exclusive = chance.happens(0.3)
            let slack = chance.pick(slacks)!
            var found = Tally()
            do {
                let plan = try await loader.plan(PlanRequest(target: target, exclusive: exclusive, slack: slack), sources: sources)
                found = oracle.judge(plan, target, exclusive: exclusive, slack: slack)
            } catch let error as ArchiveError where error.code == .targetUnreachable {
                found.refused = 1
                if case .time(let time) = target, !oracle.mayRefuse(time, exclusive: exclusive) { found.problems.append("refused: \(error)") }
                if case .latest = target, !world.anchorBases.isEmpty, world.storages.allSatisfy({ !$0.bases.isEmpty }) { found.problems.append("refused: \(error)") }
            }
            if !found.problems.isEmpty {
                found.problems = found.problems.prefix(3).map { "seed \(seed), target \(n) (\(target)\(exclusive ? ", exclusive" : ""), slack \(slack)): \($0)" }
            }
            tally += found
        }
        return tally
    }

    private static func target(in world: World, _ chance: inout Chance) -> RecoveryTarget {
        let commits = world.records.filter { $0.isDecisive && $0.isArchived && $0.kind == .commit }
        let first = world.anchorBases.first?.completed.rawValue ?? beginning
        let last = max(first, world.anchorWatermark - (world.options.isWholeAtEnd ? 12 * second : 0))
        func near(_ time: Int64) -> RecoveryTarget { .time(Moment(rawValue: time + chance.pick([-1000, 0, 0, 1000])!)) }
        switch chance.pick(0...99) {
        case 0..<30: return .time(Moment(rawValue: chance.pick(first...last)))
        case 30..<35: return .time(Moment(rawValue: chance.pick(first - 3 * second...last + 3 * second)))
        case 35..<55:
            let some = commits.filter { $0.time >= first && $0.time <= last }
            return near(chance.pick(some)?.time ?? first)
        case 55..<68:
            let some = world.storages.flatMap(\.fences).map(\.record.anchorTime.rawValue).filter { $0 >= first && $0 <= last }
            return near(chance.pick(some) ?? last)
        case 68..<71 where !world.options.isWholeAtEnd: return .latest
        case 71..<80: if let record = chance.pick(world.records.filter { $0.isArchived && $0.time >= first && $0.time <= last }) { return .position(record.start + UInt64(chance.pick(0...3))) }
        case 80..<90: if let record = chance.pick(commits.filter { $0.time >= first && $0.time <= last }) { return .transaction(record.number) }
        case 90..<93: if let record = chance.pick(world.records.filter { $0.kind == .restorePoint && $0.isArchived && $0.time >= first && $0.time <= last }) { return .name(record.subject) }
        default: if let fence = chance.pick(world.storages.flatMap(\.fences).filter { $0.record.anchorTime.rawValue <= last }) { return .fence(fence.record.id) }
        }
        return .time(Moment(rawValue: chance.pick(first...last)))
    }

    private static func report(_ what: String, _ tally: Tally) {
        print("\(what): \(tally.description)")
        for problem in tally.problems.prefix(10) { Issue.record("\(problem)") }
        #expect(tally.problems.isEmpty)
        #expect(tally.planned * 10 >= (tally.planned + tally.refused) * 6, "most targets were refused")
    }

    @Test("with fences no row names a commit that is missing, whatever the clocks did, and nothing goes beyond its fence", .timeLimit(.minutes(10)))
    func fenced() async throws {
        let tally = try await Self.run(Self.seeds(Self.standardTargets, from: 1000), WorldOptions())
        Self.report("fenced", tally)
        #expect(tally.violations == 0 && tally.deletions == 0 && tally.broken == 0)
        if Self.number("TIDEMARK_TEST_SEED") == nil { #expect(tally.planned >= 1000) }
    }

    @Test("a stored plan is read back as it was", arguments: 200..<203 as Range<UInt64>)
    func stored(_ seed: UInt64) async throws {
        var world = World(seed: seed, options: WorldOptions())
        world.run()
        let loader = PlanLoader(catalog: try await world.archive(chapterPieces: 20), kinds: [AnchorKind(), StorageKind()])
        let sources = ["main"] + world.storages.indices.map(World.name)
        let plan = try await loader.plan(PlanRequest(target: .latest), sources: sources)
        let id = try await loader.save(plan, target: "--latest", at: Moment(rawValue: world.end))
        let (whole, target) = try await loader.load(id, sources: [])
        #expect(target == "--latest")
        #expect(whole.moment == plan.moment)
        #expect(whole.warnings == plan.warnings)
        #expect(whole.plans.map(\.source) == plan.plans.map(\.source))
        for (a, b) in zip(whole.plans, plan.plans) {
            #expect(a.incarnation == b.incarnation && a.base == b.base && a.spans == b.spans && a.cuts == b.cuts && a.pieces == b.pieces)
            #expect(a.branches == b.branches && a.applied == b.applied && a.left == b.left && a.lastApplied == b.lastApplied)
            #expect(a.precision?.before == b.precision?.before && a.precision?.after == b.precision?.after)
            #expect(a.precision?.undecided == b.precision?.undecided)
        }
        #expect(try await loader.load(id, sources: ["storage0"]).plan.plans.map(\.source) == ["storage0"])
        let unknown = await #expect(throws: ArchiveError.self) { try await loader.load(id, sources: ["storage9"]) }
        #expect(unknown?.code == .usage)
        let missing = await #expect(throws: ArchiveError.self) { try await loader.load("20260101T000000Z-00000000", sources: []) }
        #expect(missing?.code == .usage)
    }

    @Test("a cursor over chapters and branches gives out what the indexes say", arguments: 300..<306 as Range<UInt64>)
    func cursor(_ seed: UInt64) async throws {
        var world = World(seed: seed, options: WorldOptions())
        world.run()
        let catalog = try await world.archive(chapterPieces: 3)
        for source in ["main", "storage0"] {
            let i = try await catalog.incarnations(of: source)[0]
            let branches = try await catalog.branches(of: i)
            let first = try #require(try await catalog.archivedBranches(of: i).first)
            let path = try #require(BranchPath(from: first, to: max(first, branches.map(\.branch).max() ?? 0), by: branches))
            let all = try await catalog.indexedPieces(of: i).filter { piece in
                piece.index.spans.isEmpty || piece.index.spans[0].start < path.end(of: piece.name.branch) ?? 0
            }
            for begin in [nil] + all.filter({ $0.name.branch == first }).map({ Optional($0.name.name) }) {
                var cursor = LogCursor(catalog: catalog, incarnation: i, path: path, from: begin)
                // Tails that a closed piece replaced may be left where no chapter covers them.
                var found: [PieceSummary] = []
                while let piece = try await cursor.next() { found.append(piece) }
                let expected = all.filter { begin == nil || $0.name.branch > first || $0.name.name >= begin! }
                #expect(found.map(\.name) == expected.map(\.name), "seed \(seed), from \(begin ?? "the beginning")")
                #expect(found.map(\.spans) == expected.map(\.index.spans))
                #expect(found.map(\.fences) == expected.map(\.index.fences))
            }
        }
    }

    private static var unfenced: WorldOptions {
        var options = WorldOptions()
        options.hasFences = false
        options.isWholeAtEnd = true
        options.length = 35
        return options
    }

    @Test("without fences rows name commits that are missing, by no more than the clocks differ", .timeLimit(.minutes(10)))
    func weaker() async throws {
        let seeds = Self.seeds(240, from: 3000)
        let tally = try await Self.run(seeds, Self.unfenced, slack: { _ in [0] })
        Self.report("unfenced", tally)
        #expect(tally.violations + tally.unmeasured > 0, "clocks alone would do, and the test proves nothing")
        #expect(tally.missing <= seeds.map { seed in
            var world = World(seed: seed, options: Self.unfenced)
            world.run()
            return world.largestDifference()
        }.max() ?? 0)
    }

    @Test("without fences, but with as much slack as the clocks differ, no row names a commit that is missing", .timeLimit(.minutes(10)))
    func slack() async throws {
        let tally = try await Self.run(Self.seeds(80, from: 4000), Self.unfenced, slack: { [$0.largestDifference()] })
        Self.report("unfenced with slack", tally)
        #expect(tally.violations + tally.unmeasured == 0)
    }

    @Test("clocks that agree need no fences", .timeLimit(.minutes(10)))
    func agreeing() async throws {
        var options = Self.unfenced
        options.deviation = 0
        let tally = try await Self.run(Self.seeds(40, from: 5000), options, slack: { _ in [0] })
        Self.report("unfenced, clocks agree", tally)
        #expect(tally.violations + tally.unmeasured == 0)
    }

    @Test("a clock that is set and set back between two fences is the documented limit: nothing else is missing", .timeLimit(.minutes(10)))
    func hostile() async throws {
        var options = WorldOptions()
        options.isHostile = true
        let tally = try await Self.run(Self.seeds(160, from: 6000), options)
        Self.report("clocks set and set back between fences", tally)
        #expect(tally.violations == 0 && tally.deletions == 0)
    }

    @Test("fences that are made wrongly are noticed", arguments: [.secondListingBeforeMarker, .firstListingAfterMarker] as [WorldOptions.Mutation])
    func mutated(_ mutation: WorldOptions.Mutation) async throws {
        var options = WorldOptions()
        options.mutation = mutation
        let tally = try await Self.run(Self.seeds(160, from: 7000), options)
        print("\(mutation): \(tally.description)")
        #expect(!tally.problems.isEmpty)
        if mutation == .secondListingBeforeMarker { #expect(tally.violations > 0) } else { #expect(tally.broken > 0) }
    }
}
