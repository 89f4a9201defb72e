import ArchiveCore

/// What a world is like.
struct WorldOptions {
    enum Mutation { case none, secondListingBeforeMarker, firstListingAfterMarker }

    var storages = 1...2
    /// True seconds.
    var length: Int64 = 30
    var hasFences = true
    /// How far clocks deviate at most, in nanoseconds.
    var deviation = 5 * second
    /// Clocks are set and set back between two fences.
    var isHostile = false
    var mutation = Mutation.none
    /// The archive is complete up to the end.
    var isWholeAtEnd = false
}

/// A database and storages at work for a while, and what their agents see of it. Everything in true time.
struct World {
    struct Pack {
        /// Indices into the storage's entries.
        var entries: [Int]
        var fences: [FenceRecord] = []
    }
    struct Base {
        var begun: Moment
        var completed: Moment
        /// True times.
        var from: Int64
        var to: Int64
        var branch: UInt32 = 0
        var firstPiece: String
        var windows: [LogSpan]
    }
    struct Storage {
        var clock: HostClock
        /// Highest entry of every partition.
        var highest: [Int: UInt64] = [:]
        var deleted: Set<Int> = []
        var entries: [Entry] = []
        var packed = 0
        var packs: [Pack] = []
        var fences: [Fence] = []
        var watermark: Int64 = 0
        var bases: [Base] = []
        // Agent and load.
        var nextLook: Int64 = 0
        var nextFence: Int64 = 0
        var asking: (id: String, v: [Int: UInt64], asked: Int64, due: Int64)?
        var marked: (id: String, v: [Int: UInt64], asked: Int64, record: Int, due: Int64, early: [Int: UInt64])?
        var lastReading: Int64 = 0
        var basing: (begun: Moment, from: Int64, due: Int64, starts: [Int: UInt64], pack: Int)?
        var nextBase: Int64 = 0
        var rate = 0.1
        var due: [(time: Int64, partition: Int, flags: LogEvent.Flags)] = []
    }

    static let firstPosition: UInt64 = 100
    let seed: UInt64
    let options: WorldOptions
    var chance: Chance
    var now = beginning
    let end: Int64

    var clock: HostClock
    var records: [Record] = []
    var branch: UInt32 = 1
    var position = World.firstPosition
    var flushed = World.firstPosition
    /// By branch, how far the agent has shipped, and where its tails end.
    var shipped: [UInt32: UInt64] = [1: World.firstPosition]
    var tails: [UInt32: [UInt64]] = [:]
    var branches: [BranchRecord] = []
    /// Whether a new branch's first piece repeats what its ancestor has of it.
    let copies: Bool
    var anchorWatermark: Int64 = 0
    var anchorBases: [Base] = []
    var anchorBasing: (begun: Moment, from: Int64, due: Int64, start: UInt64, branch: UInt32)?
    var rowRate = 0.1
    var rowsDue: [(time: Int64, place: Place)] = []
    var storages: [Storage] = []
    var outage: ClosedRange<Int64>
    /// No marker that is written then is found in the anchor's log.
    let losses: ClosedRange<Int64>?
    var lastStep = beginning
    var stepBack: (time: Int64, host: Int, value: Int64)?
    private var number: UInt64 = 700
    private var fenceNumber = 0

    init(seed: UInt64, options: WorldOptions) {
        self.seed = seed
        self.options = options
        var chance = Chance(seed)
        end = beginning + options.length * second
        clock = HostClock(&chance, most: options.deviation)
        copies = chance.happens(0.5)
        for _ in 0..<Int.random(in: options.storages, using: &chance) { storages.append(Storage(clock: HostClock(&chance, most: options.deviation))) }
        let from = beginning + chance.pick(0...options.length) * second
        outage = options.hasFences ? from...(from + chance.pick(0...12) * second) : beginning...end
        // Longer than what is read behind a cut at first.
        losses = chance.happens(0.2) ? (end - 16 * second)...(end - 4 * second) : nil
        self.chance = chance
    }

    /// By place, the entry's index in its storage.
    func index(_ place: Place) -> Int? { entryIndex[place] }
    private var entryIndex: [Place: Int] = [:]

    mutating func run() {
        let anchorEnd = options.isWholeAtEnd ? end : end - chance.pick(0...1500) * millisecond
        let storageEnds = storages.map { _ in options.isWholeAtEnd ? end : end - chance.pick(0...1500) * millisecond }
        var nextMood = beginning
        var nextShip = beginning
        var nextAnchorBase = beginning + second
        for s in storages.indices { storages[s].nextBase = beginning + 1500 * millisecond }
        while now < end {
            now += chance.pick(200_000...14 * millisecond)
            if now >= nextMood {
                nextMood = now + chance.pick(1...5) * second
                rowRate = chance.pick([0, 0.02, 0.06, 0.2])!
                for s in storages.indices { storages[s].rate = chance.pick([0, 0.02, 0.06, 0.2])! }
            }
            moveClocks()
            commitRows()
            if chance.happens(1.0 / 5000) { crash() }
            if chance.happens(1.0 / 6000) { switchTimelines() }
            if now >= nextShip, now <= anchorEnd {
                nextShip = now + chance.pick(200...900) * millisecond
                shipAnchor()
            }
            if chance.happens(0.02) { flushed = position }
            baseOfAnchor(&nextAnchorBase, before: anchorEnd)
            for s in storages.indices {
                append(s)
                guard now <= storageEnds[s] else { continue }
                fence(s)
                if now >= storages[s].nextLook, storages[s].asking == nil || chance.happens(0.3) {
                    storages[s].nextLook = now + chance.pick(200...700) * millisecond
                    look(s)
                }
                base(s)
            }
        }
        if options.isWholeAtEnd {
            flushed = position
            shipAnchor()
            for s in storages.indices { look(s) }
        }
        settle()
    }

    // MARK: Clocks

    private mutating func moveClocks() {
        if let back = stepBack, now >= back.time {
            stepBack = nil
            set(back.host, to: back.value)
        }
        let isMeasured = storages.allSatisfy { $0.lastReading > lastStep }
        guard stepBack == nil, options.deviation > 0, chance.happens(1.0 / 500), options.isHostile || isMeasured || !options.hasFences else { return }
        let host = Int(chance.pick(0...Int64(storages.count)))
        if options.isHostile {
            let old = (host == 0 ? clock : storages[host - 1].clock).read(now) - now
            stepBack = (now + chance.pick(60...900) * millisecond, host, old)
        }
        set(host, to: chance.pick(-options.deviation...options.deviation))
        lastStep = now
    }

    private mutating func set(_ host: Int, to value: Int64) {
        if host == 0 { clock.set(to: value, at: now) } else { storages[host - 1].clock.set(to: value, at: now) }
    }

    // MARK: The anchor

    /// PostgreSQL's clock has microseconds.
    func anchorClock(_ time: Int64) -> Int64 { clock.read(time) / 1000 * 1000 }

    @discardableResult
    private mutating func append(_ kind: LogEvent.Kind, time: Int64, subject: String = "", names: [Place] = []) -> Int {
        let size = UInt64(chance.pick(24...300))
        number += 1
        records.append(
            Record(
                branch: branch, start: position, end: position + size, kind: kind, time: time, truth: now, number: kind == .fence ? 0 : number, subject: subject,
                names: names))
        position += size
        return records.count - 1
    }

    private mutating func commitRows() {
        for row in rowsDue where row.time <= now { commit([row.place]) }
        rowsDue.removeAll { $0.time <= now }
        guard chance.happens(rowRate) else { return }
        let dice = chance.pick(0...99)
        switch dice {
        case 0..<5: append(.abort, time: anchorClock(now))
        case 5..<8: append(.restorePoint, time: anchorClock(now), subject: "p\(number)")
        case 8..<11: append(.prepare, time: anchorClock(now))
        case 11..<40:
            // A row about something old.
            let s = Int.random(in: storages.indices, using: &chance)
            if let old = chance.pick(storages[s].entries.suffix(400).map(\.place)) { commit([old]) } else { commit([]) }
        case 40..<50: begin(.created)
        case 50..<54: begin(.deleted)
        default: commit([])
        }
    }

    private mutating func commit(_ names: [Place]) {
        append(.commit, time: anchorClock(now - chance.pick(0...150_000)), names: names)
        // The rest commits asynchronously.
        if chance.happens(0.7) { flushed = position }
    }

    /// A project's row comes before its repository, and goes before it.
    private mutating func begin(_ flags: LogEvent.Flags) {
        commit([])
        let s = Int.random(in: storages.indices, using: &chance)
        if flags == .created {
            storages[s].due.append((now + chance.pick(5...400) * millisecond, (storages[s].highest.keys.max() ?? 1) + 1 + storages[s].due.count, flags))
        } else if let partition = chance.pick(storages[s].highest.keys.sorted().filter { !storages[s].deleted.contains($0) }) {
            storages[s].due.append((now + chance.pick(5...3000) * millisecond, partition, flags))
        }
    }

    /// What was not flushed is taken back, and others get its positions.
    private mutating func crash() {
        for n in records.indices.reversed() {
            guard records[n].branch == branch, records[n].end > flushed else { break }
            records[n].isLost = true
        }
        position = flushed
        anchorBasing = nil
    }

    private mutating func switchTimelines() {
        crash()
        // The standby may not have had everything.
        let recent = records.suffix(30).filter { $0.branch == branch && !$0.isLost && $0.end > flushed - min(flushed, 600) }.map(\.end)
        let oldest = branches.last?.ancestors.last?.end ?? 0
        let fork = max(oldest, chance.happens(0.5) ? flushed : chance.pick(recent) ?? flushed)
        // Whatever of the old branch belongs to the new one is shipped from the new server.
        ship(branch, to: max(shipped[branch] ?? 0, fork))
        let ancestors = (branches.last?.ancestors ?? []) + [.init(branch: branch, end: fork)]
        branch += 1
        branches.append(BranchRecord(branch: branch, ancestors: ancestors, file: [], fileName: ""))
        (position, flushed) = (fork, fork)
        ship(branch, to: fork)
    }

    private mutating func ship(_ branch: UInt32, to end: UInt64) {
        guard end > shipped[branch] ?? 0 else { return }
        shipped[branch] = end
        tails[branch, default: []].append(end)
    }

    private mutating func shipAnchor() {
        ship(branch, to: flushed)
        // Everything committed by now is in what was shipped.
        if flushed == position { anchorWatermark = max(anchorWatermark, anchorClock(now)) }
    }

    private mutating func baseOfAnchor(_ next: inout Int64, before last: Int64) {
        if let base = anchorBasing {
            guard now >= base.due else { return }
            anchorBasing = nil
            flushed = position
            guard now < last, base.branch == branch else { return }
            anchorBases.append(
                Base(
                    begun: base.begun, completed: Moment(rawValue: anchorClock(now)), from: base.from, to: now, branch: branch,
                    firstPiece: AnchorKind.name(base.start / AnchorKind.pieceSize, branch),
                    windows: [LogSpan(stream: "wal", branch: branch, start: base.start, end: position)]))
        } else if now >= next {
            next = now + chance.pick(8...18) * second
            flushed = position
            anchorBasing = (Moment(rawValue: anchorClock(now)), now, now + chance.pick(100...1500) * millisecond, position, branch)
        }
    }

    // MARK: Storages

    private mutating func append(_ s: Int) {
        for due in storages[s].due where due.time <= now {
            append(s, due.partition, due.flags)
            if due.flags == .deleted { storages[s].deleted.insert(due.partition) }
        }
        storages[s].due.removeAll { $0.time <= now }
        guard chance.happens(storages[s].rate) else { return }
        let known = storages[s].highest.keys.filter { !storages[s].deleted.contains($0) || $0 % 5 == 0 }.sorted()
        let partition = known.count < 3 || chance.happens(0.02) ? (storages[s].highest.keys.max() ?? 0) + 1 : chance.pick(known)!
        let place = append(s, partition, [])
        if chance.happens(0.8) {
            let delay = chance.happens(0.7) ? chance.pick(1...60) : chance.pick(60...3000)
            rowsDue.append((now + delay * millisecond, place))
        }
    }

    @discardableResult
    private mutating func append(_ s: Int, _ partition: Int, _ flags: LogEvent.Flags) -> Place {
        let offset = (storages[s].highest[partition] ?? 0) + 1
        storages[s].highest[partition] = offset
        let place = Place(storage: s, partition: partition, offset: offset)
        entryIndex[place] = storages[s].entries.count
        storages[s].entries.append(Entry(place: place, truth: now, time: storages[s].clock.read(now), anchorTime: clock.read(now), flags: flags))
        now += 300_000
        return place
    }

    private mutating func look(_ s: Int) {
        storages[s].watermark = max(storages[s].watermark, storages[s].clock.read(now) - 20 * millisecond)
        guard storages[s].packed < storages[s].entries.count else { return }
        storages[s].packs.append(Pack(entries: Array(storages[s].packed..<storages[s].entries.count)))
        storages[s].packed = storages[s].entries.count
    }

    private mutating func fence(_ s: Int) {
        if let marked = storages[s].marked {
            guard now >= marked.due else { return }
            storages[s].marked = nil
            let answered = storages[s].clock.read(now)
            now += chance.pick(50_000...3 * millisecond)
            let isEarly = options.mutation == .secondListingBeforeMarker
            // What the pack takes is what V₂ lists.
            let taken = (storages[s].packed..<storages[s].entries.count).filter { n in
                let place = storages[s].entries[n].place
                return !isEarly || place.offset <= marked.early[place.partition] ?? 0
            }
            guard !taken.isEmpty else { return }
            if isEarly { reorder(s, taken) }
            let record = records[marked.record]
            var fence = FenceRecord(
                id: marked.id, anchor: "main", anchorIdentity: "A", branch: record.branch, position: record.end, anchorTime: Moment(rawValue: record.time),
                asked: Moment(rawValue: storages[s].clock.read(marked.asked)), answered: Moment(rawValue: answered))
            let v2 = isEarly ? marked.early : storages[s].highest
            if options.mutation != .firstListingAfterMarker {
                for (partition, highest) in v2.sorted(by: { $0.key < $1.key }) where highest > marked.v[partition] ?? 0 {
                    fence.late.append(.init(stream: "\(partition)", start: (marked.v[partition] ?? 0) + 1))
                }
            }
            let count = taken.count
            storages[s].packs.append(Pack(entries: Array(storages[s].packed..<storages[s].packed + count), fences: [fence]))
            storages[s].packed += count
            storages[s].watermark = max(storages[s].watermark, answered - 20 * millisecond)
            storages[s].fences.append(Fence(record: fence, storage: s, v: marked.v, v2: v2, asked: marked.asked, listed: now))
            storages[s].lastReading = marked.asked
        } else if let asking = storages[s].asking {
            guard now >= asking.due else { return }
            storages[s].asking = nil
            guard !outage.contains(now) else { return }
            let record = append(.fence, time: anchorClock(now), subject: losses?.contains(now) ?? false ? "lost-\(asking.id)" : asking.id)
            let wait = chance.happens(0.9) ? chance.pick(0...5) : chance.pick(5...900)
            storages[s].marked = (asking.id, asking.v, asking.asked, record, now + wait * millisecond, asking.v)
        } else if now >= storages[s].nextFence {
            storages[s].nextFence = now + chance.pick(700...1100) * millisecond
            guard !outage.contains(now) else { return }
            fenceNumber += 1
            let wait = options.mutation == .none && chance.happens(0.9) ? chance.pick(0...5) : chance.pick(5...900)
            storages[s].asking = ("f\(fenceNumber)", storages[s].highest, now, now + wait * millisecond)
        }
    }

    /// Brings the entries that a pack takes before those that it leaves.
    private mutating func reorder(_ s: Int, _ taken: [Int]) {
        let chosen = Set(taken)
        let rest = (storages[s].packed..<storages[s].entries.count).filter { !chosen.contains($0) }
        let sorted = (taken + rest).map { storages[s].entries[$0] }
        storages[s].entries.replaceSubrange(storages[s].packed..., with: sorted)
        for n in storages[s].packed..<storages[s].entries.count { entryIndex[storages[s].entries[n].place] = n }
    }

    private mutating func base(_ s: Int) {
        if let base = storages[s].basing {
            guard now >= base.due else { return }
            storages[s].basing = nil
            let windows = storages[s].highest.sorted { $0.key < $1.key }.map { partition, highest in
                LogSpan(stream: "\(partition)", branch: 0, start: min(base.starts[partition] ?? 1, highest + 1), end: highest + 1)
            }
            storages[s].bases.append(
                Base(
                    begun: base.begun, completed: Moment(rawValue: storages[s].clock.read(now)), from: base.from, to: now,
                    firstPiece: hex(UInt64(base.pack), 16), windows: windows))
        } else if now >= storages[s].nextBase {
            storages[s].nextBase = now + chance.pick(8...18) * second
            // Applied lags a little behind; what is archived at most up to here is in packs before.
            var starts: [Int: UInt64] = [:]
            for (partition, highest) in storages[s].highest { starts[partition] = highest + 1 }
            for n in storages[s].packed..<storages[s].entries.count {
                let place = storages[s].entries[n].place
                starts[place.partition] = min(starts[place.partition] ?? .max, place.offset)
            }
            storages[s].basing = (
                Moment(rawValue: storages[s].clock.read(now)), now, now + chance.pick(50...1500) * millisecond, starts, storages[s].packs.count + 1
            )
        }
    }

    // MARK: The end

    private mutating func settle() {
        for n in records.indices { records[n].isArchived = !records[n].isLost && records[n].end <= shipped[records[n].branch] ?? 0 }
        for s in storages.indices { for n in 0..<storages[s].packed { storages[s].entries[n].isArchived = true } }
    }

    /// What the anchor's archive has of its history along a path of branches, in log order.
    func history(to tip: UInt32) -> [Record] {
        var ends: [UInt32: UInt64] = [tip: .max]
        for ancestor in branches.first(where: { $0.branch == tip })?.ancestors ?? [] { ends[ancestor.branch] = ancestor.end }
        return records.filter { $0.isArchived && $0.start < ends[$0.branch] ?? 0 }
    }

    /// The largest number of nanoseconds by which an entry's time lies behind that of a later commit.
    func largestDifference() -> Int64 {
        var events: [(truth: Int64, time: Int64, isEntry: Bool)] = []
        for storage in storages { events += storage.entries.map { ($0.truth, $0.time, true) } }
        events += records.filter(\.isDecisive).map { ($0.truth, $0.time, false) }
        events.sort { $0.truth < $1.truth }
        var latest: Int64 = 0
        var largest: Int64 = 0
        for event in events { if event.isEntry { latest = max(latest, event.time) } else { largest = max(largest, latest - event.time) } }
        return largest
    }
}
