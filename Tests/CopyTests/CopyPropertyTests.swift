import ArchiveCore
import ArchiveTesting
import Catalog
import Pack
import Restore
import Runtime
import Sidecar
import Source
import Store
import Synchronization
import Testing

/// What must be true of a copy at every moment, whatever its keeper was doing.
struct CopyCheck: Sendable {
    let world: World
    let copy: MemoryStore
    /// Opens what is encrypted.
    var keys = ArchiveKeys()

    /// - Returns: what is wrong.
    func problems(holes: Set<String> = []) async throws -> [String] {
        guard !(try await copy.listAll(prefix: "")).isEmpty else { return [] }
        let catalog = try await Catalog.open(copy, keys: keys)
        guard let incarnation = try await catalog.incarnations(of: "main").first else { return [] }
        var problems: [String] = []
        // Every index has its content, and it is the right one.
        var covered: [UInt32: [Range<UInt64>]] = [:]
        for key in try await copy.listAll(prefix: "log/").map(\.key.path) where key.hasSuffix(".idx") {
            guard let name = catalog.piece(at: String(key.dropFirst(catalog.logFolder(of: incarnation).utf8.count)))?.name else { continue }
            do { _ = try await catalog.stored(name, of: incarnation) } catch { problems.append("\(name): \(error)") }
            for span in try await catalog.index(of: name, of: incarnation).spans { covered[span.branch, default: []].append(span.start..<span.end) }
        }
        let branches = Set(try await catalog.branches(of: incarnation).map(\.branch))
        for branch in covered.keys where branch > 1 && !branches.contains(branch) { problems.append("nothing says where branch \(branch) begins") }
        // The watermark promises nothing that is not there.
        let promised = await world.promised
        for key in try await copy.listAll(prefix: "watermarks/").map(\.key.path) {
            guard let time = Int64(key.split(separator: "/").last ?? ""), let promise = promised[time] else { continue }
            var reached: UInt64 = World.size
            for range in covered.values.joined().sorted(by: { $0.lowerBound < $1.lowerBound }) where range.lowerBound <= reached { reached = max(reached, range.upperBound) }
            if reached < promise.end, holes.isEmpty { problems.append("the watermark promises \(promise.end), the log ends at \(reached)") }
        }
        // A checkpoint speaks of pieces that are there, and so does a chapter.
        if let last = try await catalog.checkpointedPiece(of: incarnation) {
            if try await catalog.missing([last], of: incarnation).contains(last) { problems.append("the checkpoint's piece \(last) is missing") }
        }
        for key in try await copy.listAll(prefix: "chapters/").map(\.key.path) {
            guard let name = ChapterName(path: String(key.dropFirst(catalog.chapterFolder(of: incarnation).utf8.count))) else { continue }
            let missing = try await catalog.missing(try await catalog.chapter(name, of: incarnation).pieces.map(\.name), of: incarnation)
            if !missing.isEmpty { problems.append("a chapter speaks of \(missing)") }
        }
        for base in try await catalog.bases(of: incarnation) {
            do {
                _ = try await catalog.treeIndex(of: base, in: incarnation)
                _ = try await catalog.spans(of: base, in: incarnation)
                for part in base.parts { _ = try await catalog.read(part, of: base, in: incarnation) }
            } catch { problems.append("base \(base.id): \(error)") }
        }
        _ = try await catalog.resume(incarnation, cleaning: false)
        return problems
    }

    /// Everything that the window promises can be planned and read.
    func promises() async throws -> [String] {
        guard try await !copy.listAll(prefix: "").isEmpty else { return [] }
        let catalog = try await Catalog.open(copy, keys: keys)
        guard try await !catalog.incarnations(of: "main").isEmpty else { return [] }
        var problems: [String] = []
        for window in try await World.loader(catalog).windows(of: "main") where window.isNewest {
            for range in window.ranges {
                for time in [range.lowerBound, range.upperBound] {
                    do { _ = try await restored(catalog, rule: .time(time, exclusive: false)) } catch { problems.append("\(time): \(error)") }
                }
            }
        }
        return problems
    }
}

/// A generator that several tasks draw from.
final class SharedChance: Sendable {
    private let state: Mutex<SeededRandom>
    init(seed: UInt64) { state = Mutex(SeededRandom(seed: seed)) }
    func next() -> UInt64 { state.withLock { $0.next() } }
}

@Suite("A copy that is kept level")
struct CopyPropertyTests {
    /// Runs a keeper's attempts against an archive that grows under its hands.
    private func keep(_ seed: UInt64, steps: Int, identity: AgeIdentity? = nil) async throws {
        let chance = SharedChance(seed: seed)
        let (primary, copy) = (MemoryStore(), MemoryStore())
        let world = try await World(in: primary, seed: seed, identity: identity)
        // The keeper has no identity, as the agent has none.
        let check = CopyCheck(world: world, copy: copy, keys: ArchiveKeys(identities: identity.map { [$0] } ?? []))
        let (source, target) = (FaultyStore(primary, "primary"), FaultyStore(copy, "copy", parallelism: 1 + Int(seed % 4)))
        let problems = Mutex<[String]>([])
        // The agent goes on between any two looks of the keeper at its archive.
        source.onRead { _ in
            if chance.next() % 4 == 0 { try await world.step() }
            let found = try await check.problems()
            problems.withLock { $0 += found }
        }
        let rate = 2 + chance.next() % 60
        let faults: @Sendable (String, String) -> FaultyStore.Fault = { _, _ in
            switch chance.next() % (rate * 2) {
            case 0: .before
            case 1: .after
            default: .none
            }
        }
        try await world.grow(3)
        var rounds = 0
        var keeper = CopyKeeper(primary: try await Catalog.open(source), copy: target, interval: 0, output: Log("test"))
        for _ in 0..<steps {
            source.set(faults)
            target.set(faults)
            do { _ = try await keeper.catchUp(page: 2 + Int(chance.next() % 20), thoroughly: chance.next() % 3 == 0) } catch let error as ArchiveError {
                #expect(error.code == .storeUnavailable, "\(error)")
            }
            rounds += 1
            // A keeper that was killed, and one that goes on with what it knows.
            if chance.next() % 2 == 0 {
                source.set { _, _ in .none }
                keeper = CopyKeeper(primary: try await Catalog.open(source), copy: target, interval: 0, output: Log("test"))
            }
            let found = try await check.problems() + (try await check.promises())
            #expect(found.isEmpty, "seed \(seed), round \(rounds): \(found)")
        }
        // In peace it comes level, and has the same objects.
        source.onRead(nil)
        source.set { _, _ in .none }
        target.set { _, _ in .none }
        try await world.grow(4)
        #expect(try await keeper.catchUp(page: 7))
        let unseen = problems.withLock { $0 }
        #expect(unseen.isEmpty, "seed \(seed): \(unseen.prefix(3))")
        try await expectSame(primary, copy, world, seed)
        #expect(try await restored(try await Catalog.open(copy, keys: check.keys)) == restored(world.catalog), "seed \(seed)")
        #expect(try await copy.listAll(prefix: "log/").contains { $0.key.path.hasSuffix(".age") } == (identity != nil))
    }

    /// The same objects, but for what never counted in the primary, and checkpoints that were replaced.
    private func expectSame(_ primary: MemoryStore, _ copy: MemoryStore, _ world: World, _ seed: UInt64) async throws {
        let (ours, theirs) = (try await primary.everything(), try await copy.everything())
        var expected: Set<String> = []
        for key in ours.keys {
            if key.hasPrefix("log/"), !key.hasSuffix(".idx"), ours[key + ".idx"] == nil { continue }
            if key.hasPrefix("bases/"), !key.hasSuffix("/base.json"), let slash = key.lastIndex(of: "/"), ours[key[...slash] + "base.json"] == nil { continue }
            // Also the mark by which it is told whether both are one place, when it failed to be removed.
            if key.hasPrefix("positions/") || key.hasPrefix("probe/") { continue }
            expected.insert(key)
        }
        let have = Set(theirs.keys.filter { !$0.hasPrefix("positions/") && !$0.hasPrefix("probe/") })
        #expect(have == expected, "seed \(seed): lacks \(expected.subtracting(have).sorted()), more \(have.subtracting(expected).sorted())")
        for (key, bytes) in theirs { #expect(ours[key] == bytes, "seed \(seed): \(key)") }
        #expect(theirs.keys.filter { $0.hasPrefix("positions/") }.max() == ours.keys.filter { $0.hasPrefix("positions/") }.max(), "seed \(seed)")
    }

    @Test("is a whole archive at every moment, and comes level, whatever fails", arguments: 1...80 as ClosedRange<UInt64>)
    func property(_ seed: UInt64) async throws { try await keep(seed, steps: 6) }

    @Test("is copied as it is when it is encrypted, without an identity", arguments: 1...20 as ClosedRange<UInt64>)
    func encrypted(_ seed: UInt64) async throws { try await keep(seed, steps: 4, identity: AgeIdentity.generate()) }

    @Test("does not take over what the primary has damaged, says so once, goes on, and takes it when it is mended", arguments: 1...60 as ClosedRange<UInt64>)
    func damage(_ seed: UInt64) async throws {
        let chance = SharedChance(seed: seed)
        let (primary, copy) = (MemoryStore(), MemoryStore())
        let world = try await World(in: primary, seed: seed)
        try await world.grow(10 + Int(seed % 20))
        let whole = try await primary.everything()
        let candidates = whole.keys.filter { ($0.hasPrefix("log/") || $0.hasPrefix("bases/") || $0.hasPrefix("chapters/")) && !$0.contains(".tail.") }.sorted()
        var harmed: Set<String> = []
        for _ in 0..<3 { harmed.insert(candidates[Int(chance.next() % UInt64(candidates.count))]) }
        for key in harmed.sorted() {
            let isDamaged = chance.next() % 2 == 0
            // An index has no digest: that a bit of it was turned is not always seen.
            if isDamaged, !key.hasSuffix(".idx") { try await primary.damage(key) } else {
                await primary.remove(ObjectKey(known: key))
                if isDamaged { try await primary.put([0x7B], at: ObjectKey(known: key)) }
            }
        }
        let keeper = CopyKeeper(primary: try await Catalog.open(primary), copy: copy, interval: 0, output: Log("test"))
        _ = try await keeper.catchUp(page: 5)
        for (key, bytes) in try await copy.everything() { #expect(whole[key] == bytes, "seed \(seed): \(key)") }
        let check = CopyCheck(world: world, copy: copy)
        let found = try await check.problems(holes: harmed) + (try await check.promises())
        #expect(found.isEmpty, "seed \(seed), \(harmed.sorted()): \(found)")
        // Somebody puts the right bytes back.
        for key in harmed {
            await primary.remove(ObjectKey(known: key))
            try await primary.put(try #require(whole[key]), at: ObjectKey(known: key))
        }
        #expect(try await keeper.catchUp(page: 5), "seed \(seed)")
        // A chapter that was missing is not missed before the next start.
        let next = CopyKeeper(primary: try await Catalog.open(primary), copy: copy, interval: 0, output: Log("test"))
        #expect(try await next.catchUp(page: 5), "seed \(seed)")
        try await expectSame(primary, copy, world, seed)
    }
}
