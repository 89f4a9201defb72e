import ArchiveCore
import ArchiveTesting
import Catalog
import Store
import Testing

@Suite("A lease of the archive")
struct LeaseTests {
    private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_000_000_000_000_000).adding(seconds: seconds) }
    private func holder(_ n: Int) -> LeaseHolder { LeaseHolder(host: "host\(n)", process: 100, incarnation: "boot\(n) pid:[1] 77") }
    private func catalog() async throws -> Catalog { try await Catalog.create(in: MemoryStore(), at: at(0), version: "test") }

    @Test("is had by one at a time, until it is released")
    func exclusive() async throws {
        let catalog = try await catalog()
        var first = Lease("base", in: catalog, holder: holder(1))
        var second = Lease("base", in: catalog, holder: holder(2))
        #expect(try await first.take(for: "a base of 'main'", at: at(0)) == .taken)
        guard case .held(let record) = try await second.take(for: "x", at: at(1)) else { return #expect(Bool(false), "two have it") }
        #expect(record.host == "host1" && record.purpose == "a base of 'main'")
        try await first.release(at: at(2))
        #expect(try await second.take(for: "x", at: at(2)) == .taken)
        // Another name is another lease.
        var third = Lease("expire", in: catalog, holder: holder(3))
        #expect(try await third.take(for: "y", at: at(2)) == .taken)
    }

    @Test("goes on as long as it is renewed, and is followed when it was not for its time, whatever the clocks say")
    func expiry() async throws {
        let catalog = try await catalog()
        var first = Lease("base", in: catalog, holder: holder(1))
        // A day ahead.
        var second = Lease("base", in: catalog, holder: holder(2))
        #expect(try await first.take(for: "x", at: at(0)) == .taken)
        for n in 1...20 {
            #expect(try await first.renew(at: at(Double(n) * 15)))
            guard case .held = try await second.take(for: "y", at: at(86_400 + Double(n) * 15)) else { return #expect(Bool(false), "it was followed while it was renewed") }
        }
        // The first dies. The second has to look on for its time.
        guard case .held = try await second.take(for: "y", at: at(86_400 + 300 + 59)) else { return #expect(Bool(false), "too early") }
        #expect(try await second.take(for: "y", at: at(86_400 + 300 + 61)) == .taken)
        // It was asleep only; it is told.
        #expect(try await !first.renew(at: at(400)))
        #expect(!first.isHeld)
        try await first.release(at: at(401))
        #expect(try await second.renew(at: at(86_400 + 400)))
    }

    @Test("of a process of this machine that is gone is followed at once")
    func dead() async throws {
        let catalog = try await catalog()
        let me = LeaseHolder.current
        try #require(!me.incarnation.isEmpty)
        var gone = Lease("base", in: catalog, holder: LeaseHolder(host: me.host, process: me.process, incarnation: me.incarnation + "0"))
        #expect(try await gone.take(for: "x", at: at(0)) == .taken)
        var other = Lease("base", in: catalog, holder: LeaseHolder(host: me.host, process: 1, incarnation: me.incarnation.split(separator: " ").dropLast().joined(separator: " ") + " 0"))
        #expect(try await other.take(for: "y", at: at(1)) == .taken)
        // One that lives is not.
        let second = try await Catalog.create(in: MemoryStore(), at: at(0), version: "test")
        var living = Lease("base", in: second, holder: me)
        #expect(try await living.take(for: "x", at: at(0)) == .taken)
        var waiting = Lease("base", in: second, holder: me)
        guard case .held = try await waiting.take(for: "y", at: at(1)) else { return #expect(Bool(false), "a living process was followed") }
    }

    @Test("is never had by two, whoever sleeps, dies or comes late", arguments: 0..<60)
    func property(seed: Int) async throws {
        var random = SeededRandom(seed: UInt64(seed))
        let catalog = try await catalog()
        let skew = (0..<4).map { _ in Double.random(in: -5000...5000, using: &random) }
        var leases = (0..<4).map { Lease("base", in: catalog, holder: holder($0)) }
        /// Until when each believes that it has it: as `holdingLease` does, not past the lifetime less a renewal after the last one.
        var believes = [Double](repeating: -1, count: 4)
        var time = 0.0
        var taken = 0
        for _ in 0..<400 {
            time += Double.random(in: 0...(Int.random(in: 0..<8, using: &random) == 0 ? 90 : 6), using: &random)
            let n = Int.random(in: 0..<4, using: &random)
            if believes[n] >= time {
                switch Int.random(in: 0..<10, using: &random) {
                case 0:
                    try await leases[n].release(at: at(time + skew[n]))
                    believes[n] = -1
                case 1:
                    // It dies, and comes again with another memory.
                    leases[n] = Lease("base", in: catalog, holder: LeaseHolder(host: "host\(n)", process: 1, incarnation: "boot\(n) pid:[1] \(time)"))
                    believes[n] = -1
                default: believes[n] = try await leases[n].renew(at: at(time + skew[n])) ? time + Lease.lifetime - Lease.renewal : -1
                }
            } else if try await leases[n].take(for: "x", at: at(time + skew[n])) == .taken {
                taken += 1
                believes[n] = time + Lease.lifetime - Lease.renewal
            }
            #expect(believes.count { $0 >= time } <= 1)
        }
        #expect(taken > 3)
        #expect(try await catalog.store.listAll(prefix: "leases/").count <= 3)
    }

    @Test("is waited for when its record cannot be read, and names that are no numbers are passed over")
    func damaged() async throws {
        let catalog = try await catalog()
        for name in ["zzz.json", "00000000000000FG.json", "FFFFFFFFFFFFFFFF.json", "0000000000000009.txt", "9.json"] {
            try await catalog.store.put([1], at: ObjectKey(known: "leases/base/\(name)"))
        }
        try await catalog.store.put(Array("{".utf8), at: ObjectKey(known: "leases/base/0000000000000005.json"))
        var lease = Lease("base", in: catalog, holder: holder(1))
        guard case .held(let record) = try await lease.take(for: "x", at: at(0)) else { return #expect(Bool(false), "it was taken at once") }
        #expect(record.purpose.contains("0000000000000005"))
        guard case .held = try await lease.take(for: "x", at: at(59)) else { return #expect(Bool(false), "it was taken too early") }
        #expect(try await lease.take(for: "x", at: at(61)) == .taken)
        #expect(try await lease.renew(at: at(76)))
    }

    @Test("a renewal whose answer was lost counts from when it was written, and is followed by another number")
    func lostAnswer() async throws {
        let store = CountingStore()
        let catalog = try await Catalog.create(in: store, at: at(0), version: "test")
        let mortal = MortalStore(store)
        var lease = Lease("base", in: try await Catalog.open(mortal), holder: holder(1))
        #expect(try await lease.take(for: "x", at: at(0)) == .taken)
        await mortal.die(after: 0, isMade: true)
        await #expect(throws: ArchiveError.self) { _ = try await lease.renew(at: at(15)) }
        await mortal.die(after: .max, isMade: false)
        #expect(try await lease.renew(at: at(30)))
        let names = try await catalog.store.listAll(prefix: "leases/").map(\.key.path)
        #expect(names.last == "leases/base/0000000000000003.json")
        try await lease.release(at: at(31))
        var other = Lease("base", in: catalog, holder: holder(2))
        #expect(try await other.take(for: "y", at: at(31)) == .taken)
    }

    @Test("is kept by what another process writes at the same moment")
    func race() async throws {
        let catalog = try await catalog()
        let results = try await withThrowingTaskGroup(of: Bool.self) { group in
            for n in 0..<20 {
                group.addTask {
                    var lease = Lease("base", in: catalog, holder: holder(n))
                    return try await lease.take(for: "x", at: at(0)) == .taken
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(results.count { $0 } == 1)
    }
}
