import ArchiveCore
import ArchiveTesting
import Catalog
import Runtime
import Sidecar
import Store
import Synchronization
import Testing

@Suite("An archive read from several places")
struct FallbackTests {
    /// Seconds that only pass when they are told to.
    private final class Clock: Sendable {
        private let seconds = Mutex(0.0)
        var now: Double { seconds.withLock { $0 } }
        func pass(_ more: Double) { seconds.withLock { $0 += more } }
    }

    private let primary = MemoryStore()
    private let copy = MemoryStore()
    private let clock = Clock()

    /// An archive of some length in both places.
    private func world(_ seed: UInt64 = 7, steps: Int = 30) async throws -> World {
        let world = try await World(in: primary, seed: seed)
        try await world.grow(steps)
        try await level()
        return world
    }

    private func level() async throws {
        let keeper = CopyKeeper(primary: try await Catalog.open(primary), copy: copy, interval: 0, output: Log("test"))
        try #require(try await keeper.catchUp())
    }

    private func open(_ stores: [any ObjectStore], patience: Double = 10) async throws -> (catalog: Catalog, store: FallbackStore, report: FallbackReport) {
        let report = FallbackReport()
        let store = try await FallbackStore.open(
            primary: stores[0], copies: Array(stores.dropFirst()), rules: Catalog.placeRules, report: report, patience: patience, clock: { clock.now })
        return (try await Catalog.open(store), store, report)
    }

    @Test("with a whole primary nothing comes from elsewhere, and nothing is told")
    func whole() async throws {
        let world = try await world()
        let (catalog, _, report) = try await open([FaultyStore(primary, "primary"), FaultyStore(copy, "copy")])
        #expect(try await restored(catalog) == restored(world.catalog))
        #expect(report.warnings.isEmpty)
    }

    private enum Harm: String, CaseIterable, Sendable { case missing, damaged, unavailable }

    @Test("any object that the primary has lost, damaged or does not give is read from the copy, and told", arguments: Harm.allCases)
    private func each(_ harm: Harm) async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        let whole = try await primary.everything()
        var told = 0
        for (key, bytes) in whole.sorted(by: { $0.key < $1.key }) {
            let (first, second) = (FaultyStore(primary, "the primary"), FaultyStore(copy, "the copy"))
            switch harm {
            case .missing: await primary.remove(ObjectKey(known: key))
            // An index or a record has no digest: what can be noticed is that it cannot be read.
            case .damaged where key.hasSuffix(".idx") || key.hasSuffix(".json") || key.hasPrefix("watermarks/"):
                await primary.remove(ObjectKey(known: key))
                try await primary.put([0x7B], at: ObjectKey(known: key))
            case .damaged: try await primary.damage(key)
            case .unavailable: first.set { call, asked in call == "get" && asked == key ? .before : .none }
            }
            let (catalog, _, report) = try await open([first, second])
            #expect(try await restored(catalog) == expected, "\(harm) \(key)")
            // What a restore to the end has no need of is not read, and not told.
            if let warning = report.warnings.first {
                told += 1
                #expect(warning.contains("the copy"), "\(warning)")
                if harm != .unavailable { #expect(warning.contains(key) || key == "tidemark.json", "\(key): \(warning)") }
            }
            // Nothing was put in order.
            if harm == .missing { #expect(try await !primary.listAll(prefix: key).contains { $0.key.path == key }) }
            await primary.remove(ObjectKey(known: key))
            try await primary.put(bytes, at: ObjectKey(known: key))
        }
        #expect(told > 10)
    }

    @Test("when no place has it whole, the primary's error says so and names what the others said")
    func both() async throws {
        let world = try await world()
        let plan = try await World.loader(world.catalog).plan(source: "main", rule: .latest)
        let key = world.catalog.dataKey(try #require(plan.pieces.last).name, of: world.incarnation)
        for (harmPrimary, harmCopy, code) in [
            (true, true, ArchiveError.Code.objectDamaged), (true, false, .objectDamaged), (false, true, .objectDamaged), (false, false, .objectMissing),
        ] {
            try await primary.damage(key.path)
            try await copy.damage(key.path)
            let saved = (try await primary.get(key), try await copy.get(key))
            if !harmPrimary { await primary.remove(key) }
            if !harmCopy { await copy.remove(key) }
            let (catalog, _, report) = try await open([FaultyStore(primary, "file:///primary"), FaultyStore(copy, "s3://copy")])
            let index = try await catalog.index(of: try #require(plan.pieces.last).name, of: world.incarnation)
            let error = await #expect(throws: ArchiveError.self) { try await catalog.read(plan.pieces.last!.name, index: index, of: world.incarnation) }
            #expect(error?.code == code, "\(String(describing: error))")
            #expect(error?.message.contains(key.path) == true && error?.message.contains("tried too") == true, "\(String(describing: error))")
            #expect(error?.message.contains("s3://copy") == true || error?.message.contains("file:///primary") == true)
            #expect(report.entries.isEmpty)
            for store in [primary, copy] { await store.remove(key) }
            try await primary.put(saved.0, at: key)
            try await copy.put(saved.1, at: key)
            try await primary.damage(key.path)
            try await copy.damage(key.path)
        }
    }

    @Test("a dead primary is asked once in a while, not for each object, and the restore comes from the copy")
    func dead() async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        let (first, second) = (FaultyStore(primary, "the primary"), FaultyStore(copy, "the copy"))
        first.set { _, _ in .before }
        let (catalog, store, report) = try await open([first, second])
        #expect(try await restored(catalog) == expected)
        let asked = ["get", "list"].map(first.count).reduce(0, +)
        #expect(asked == 1, "it was asked \(asked) times")
        #expect(report.warnings.first?.contains("did not answer") == true, "\(report.warnings)")
        #expect(report.entries.first?.listing != nil)
        // It comes back: after the pause it is asked, and serves again.
        first.set { _, _ in .none }
        _ = try await store.get(ObjectKey(known: "tidemark.json"))
        #expect(first.count("get") == 1)
        clock.pass(31)
        let before = second.count("get")
        #expect(try await restored(catalog) == expected)
        #expect(second.count("get") == before)
    }

    @Test("a primary that dies on the way is left after its first failure")
    func dies() async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        for after in [1, 2, 5, 9, 20] {
            let (first, second) = (FaultyStore(primary, "the primary"), FaultyStore(copy, "the copy"))
            let (catalog, _, report) = try await open([first, second])
            let calls = Mutex(0)
            first.set { _, _ in calls.withLock { $0 += 1; return $0 > after ? .before : .none } }
            #expect(try await restored(catalog) == expected)
            #expect(calls.withLock { $0 } == after + 1)
            #expect(!report.warnings.isEmpty)
        }
    }

    @Test("a primary that was moved away altogether is replaced by the copy")
    func gone() async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        let (catalog, _, report) = try await open([FaultyStore(MemoryStore(), "the primary"), FaultyStore(copy, "the copy")])
        #expect(try await restored(catalog) == expected)
        #expect(report.warnings.first?.contains("There is no archive at the primary") == true, "\(report.warnings)")
    }

    @Test("a copy that is dead, hangs, is empty, or holds another archive changes nothing")
    func copies() async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        let (dead, hanging, other) = (FaultyStore(copy, "dead"), FaultyStore(copy, "hanging"), MemoryStore())
        dead.set { _, _ in .before }
        _ = try await World(in: other, seed: 3)
        let (catalog, _, report) = try await open([primary, dead, hanging, FaultyStore(MemoryStore(), "empty"), FaultyStore(other, "other")], patience: 0.05)
        hanging.onRead { _ in try await Task.sleep(for: .seconds(3600)) }
        #expect(try await restored(catalog) == expected)
        #expect(report.entries.isEmpty)
        #expect(report.notes == ["other holds another archive and was not read"])
        #expect(hanging.count("list") == 1)
    }

    @Test("a copy that hangs from the beginning holds nothing up once the primary, or another copy, has answered", .timeLimit(.minutes(10)), arguments: [false, true])
    func hangs(_ isPrimaryDead: Bool) async throws {
        let world = try await world()
        let expected = try await restored(world.catalog)
        let (first, hanging) = (FaultyStore(primary, "primary"), FaultyStore(copy, "hanging"))
        if isPrimaryDead { first.set { _, _ in .before } }
        // It does not even mind that nobody waits any more.
        hanging.onRead { _ in await Task.detached { do { try await Task.sleep(for: .seconds(3600)) } catch { return } }.value }
        let (catalog, _, report) = try await open([first, hanging, FaultyStore(copy, "copy")], patience: 0.05)
        #expect(try await restored(catalog) == expected)
        #expect(report.warnings.isEmpty != isPrimaryDead)
        #expect(hanging.count("get") == 1)
    }

    @Test("a primary that is slow is waited for, though a copy has answered")
    func slow() async throws {
        _ = try await world()
        let first = FaultyStore(primary, "primary")
        first.onRead { _ in try await Task.sleep(for: .milliseconds(200)) }
        let (catalog, _, report) = try await open([first, FaultyStore(copy, "copy")], patience: 0.01)
        _ = try await catalog.sources()
        #expect(report.warnings.isEmpty)
    }

    @Test("without the primary, copies of different archives are refused, each with its archive's id", arguments: [false, true])
    func disagreement(_ isPrimaryEmpty: Bool) async throws {
        let world = try await world()
        let other = MemoryStore()
        let foreign = try await World(in: other, seed: 3)
        let first = FaultyStore(isPrimaryEmpty ? MemoryStore() : primary, "file:///primary")
        if !isPrimaryEmpty { first.set { _, _ in .before } }
        let (second, third) = (FaultyStore(other, "s3://wrong"), FaultyStore(copy, "s3://right"))
        let error = await #expect(throws: ArchiveError.self) { _ = try await open([first, second, third]) }
        #expect(error?.code == .twoHistories)
        for text in ["s3://wrong: archive \(foreign.catalog.identity.id)", "s3://right: archive \(world.catalog.identity.id)"] {
            #expect(error?.message.contains(text) == true, "\(String(describing: error))")
        }
        #expect(error?.remedy?.contains("--archive") == true)
        // Named alone it is read.
        #expect(try await open([first, third]).catalog.identity == world.catalog.identity)
    }

    @Test("what is not there anywhere is what it always was: no archive")
    func nothing() async throws {
        let error = await #expect(throws: ArchiveError.self) { _ = try await open([MemoryStore(), MemoryStore()]) }
        #expect(error?.code == .archiveMissing)
    }

    @Test("while an agent replaces what it wrote, a copy that lags is no reason to report anything", arguments: 1...20 as ClosedRange<UInt64>)
    func live(_ seed: UInt64) async throws {
        let world = try await World(in: primary, seed: seed)
        try await world.grow(20)
        try await level()
        // The copy stays behind from here on.
        let first = FaultyStore(primary, "the primary")
        let (catalog, _, report) = try await open([first, copy])
        let chance = SharedChance(seed: seed)
        first.onRead { _ in if chance.next() % 2 == 0 { try await world.step() } }
        for _ in 0..<10 {
            _ = try await World.loader(catalog).plan(source: "main", rule: .latest)
            _ = try await World.loader(catalog).windows(of: "main")
        }
        #expect(report.warnings.isEmpty, "seed \(seed): \(report.warnings)")
        // At rest it is what the primary alone gives.
        first.onRead(nil)
        try await world.advance()
        #expect(try await restored(catalog) == restored(world.catalog))
        #expect(report.warnings.isEmpty, "seed \(seed): \(report.warnings)")
    }

    @Test("pages of several places are put together, whatever their length", arguments: 1...50 as ClosedRange<UInt64>)
    func pages(_ seed: UInt64) async throws {
        var chance = SeededRandom(seed: seed)
        let stores = [MemoryStore(), MemoryStore(), MemoryStore()]
        var all: Set<String> = ["tidemark.json"]
        let identity = Array(#"{"format": 1, "id": "x"}"#.utf8)
        for store in stores { try await store.put(identity, at: ObjectKey(known: "tidemark.json")) }
        for _ in 0..<60 {
            let key = "\(["a", "b", "b/c", "d.e"][Int(chance.next() % 4)])/\(chance.next() % 40)"
            all.insert(key)
            try await stores[Int(chance.next() % 3)].put([1], at: ObjectKey(known: key))
        }
        let store = try await FallbackStore.open(
            primary: stores[0], copies: Array(stores[1...]), rules: Catalog.placeRules, report: FallbackReport(), clock: { 0 })
        let sorted = all.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        for limit in [1, 3, 7, 1000] {
            var paged: [String] = []
            while true {
                let page = try await store.keys(prefix: "", after: paged.last, limit: limit)
                #expect(try await store.list(prefix: "", after: paged.last, limit: limit).map(\.key) == page)
                paged += page.map(\.path)
                if page.count < limit { break }
            }
            #expect(paged == sorted)
        }
        #expect(try await store.folders(below: "b/") == (sorted.contains { $0.hasPrefix("b/c/") } ? ["c"] : []))
    }
}
