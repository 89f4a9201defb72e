import ArchiveCore
import ArchiveTesting
import Catalog
import Digests
import Pack
import Planner
import Restore
import Source
import SourcePostgres
import Store

func at(_ n: Int) -> Moment { Moment(rawValue: 1_700_000_000_000_000_000).adding(nanoseconds: Int64(n) * 1_000_000_000) }

/// An archive that grows as an agent makes it grow, one call of the catalog after the other: tails, closed pieces that replace them, chapters,
/// checkpoints, watermarks, forks, holes, bases; and now and then a killed agent that starts again.
actor World {
    static let size: UInt64 = 1 << 20
    let store: any ObjectStore
    let catalog: Catalog
    let incarnation: IncarnationRecord
    /// For each watermark the first position behind what it promises.
    private(set) var promised: [Int64: (branch: UInt32, end: UInt64)] = [:]
    private var chance: SeededRandom
    private var clock = 1
    private var segment: UInt64 = 1
    private var branch: UInt32 = 1
    private var end: UInt64 = 1 << 20
    private var tails: [PieceName] = []
    /// Of the open segment.
    private var events: [LogEvent] = []
    private var watermark: Moment?
    private var keeper = ChapterKeeper(maximumPieces: 3)
    private var checkpoint = Checkpoint()
    private var ancestors: [BranchRecord.Ancestor] = []
    private var bases = 0
    private var isBusy = false

    /// - Parameter identity: encrypts the archive for it; what the world itself reads needs it.
    init(in store: any ObjectStore, source: String = "main", seed: UInt64, identity: AgeIdentity? = nil) async throws {
        self.store = store
        chance = SeededRandom(seed: seed &* 0x9E37_79B9_7F4A_7C15 &+ 1)
        let keys = identity.map { ArchiveKeys(recipients: [$0.recipient], identities: [$0]) } ?? ArchiveKeys()
        catalog = try await Catalog.create(in: store, at: at(0), version: "test", keys: keys)
        incarnation = IncarnationRecord(
            source: source, id: "77-0001", kind: "postgres", identity: "77", number: 1, created: at(0), facts: ["segment-size": "1048576"], reason: nil)
        try await catalog.record(incarnation)
    }

    nonisolated static func loader(_ catalog: Catalog) -> PlanLoader { PlanLoader(catalog: catalog, kinds: [PostgresKind()]) }

    private func name(_ part: Range<UInt64>? = nil) -> PieceName {
        let name = SegmentName(timeline: TimelineID(rawValue: branch)!, containing: LSN(rawValue: segment * Self.size), size: SegmentSize(bytes: Self.size)!)
        return PieceName(branch: branch, name: name.description, part: part)
    }

    private func piece(_ range: Range<UInt64>, part: Bool, sequence: UInt64) throws -> PackedPiece {
        clock += 1
        // A closed piece holds what its tails held, and goes on behind them.
        let start = part ? range.lowerBound : end
        events.append(LogEvent(span: 0, start: start, end: start + 40, time: at(clock), kind: .commit, number: UInt64(clock)))
        return try catalog.pack(
            LogPiece(
                name: name(part ? range : nil), frames: [(0..<64).map { _ in UInt8(truncatingIfNeeded: chance.next()) }],
                spans: [LogSpan(stream: "wal", branch: branch, start: range.lowerBound, end: range.upperBound, lastRecord: start)],
                events: part ? [events[events.count - 1]] : events, sequence: sequence))
    }

    /// One step of the agent's, or several that belong together.
    func step() async throws {
        // One agent: another reader of the archive may ask for a step while one is under way.
        guard !isBusy else { return }
        isBusy = true
        defer { isBusy = false }
        switch chance.next() % 20 {
        case 0..<7: try await tail()
        case 7..<11: try await close()
        case 11..<16: try await advance()
        case 16: try await record(begin: bases == 0 || chance.next() % 2 == 0)
        case 17: if chance.next() % 3 == 0 { try await fork() }
        case 18: try await restart()
        default: try await unfinishedBase()
        }
    }

    func tail() async throws {
        let limit = (segment + 1) * Self.size
        let next = end + 1000 * (1 + chance.next() % 100)
        guard next < limit else { return try await close() }
        let packed = try piece(end..<next, part: true, sequence: 1)
        try await catalog.store(packed, of: incarnation)
        checkpoint.add(packed.name, packed.index)
        tails.append(packed.name)
        end = next
    }

    func close() async throws {
        let packed = try piece(segment * Self.size..<(segment + 1) * Self.size, part: false, sequence: 1)
        try await catalog.store(packed, of: incarnation)
        for tail in tails { try await catalog.remove(tail, of: incarnation) }
        checkpoint.add(packed.name, packed.index)
        for chapter in keeper.add(PieceSummary(packed.name, packed.index)) { try await catalog.record(chapter, of: incarnation) }
        if chance.next() % 3 == 0 { try await catalog.record(checkpoint, of: incarnation) }
        tails = []
        events = []
        segment += 1
        end = segment * Self.size
    }

    func advance() async throws {
        guard end > Self.size else { return }
        clock += 1
        promised[at(clock).rawValue] = (branch, end)
        try await catalog.advanceWatermark(to: at(clock), replacing: watermark, totals: checkpoint.totals, of: incarnation)
        watermark = at(clock)
    }

    func fork() async throws {
        guard tails.isEmpty, end > Self.size else { return }
        ancestors.append(.init(branch: branch, end: end))
        let old = branch
        branch += 1
        try await catalog.record(
            BranchRecord(branch: branch, ancestors: ancestors, file: Array("\(old)\t\(end)\n".utf8), fileName: "\(hex(UInt64(branch), 8)).history"), of: incarnation)
    }

    /// What a killed agent leaves behind, and the next one clears away.
    func restart() async throws {
        let orphan = try piece(end..<end + 500, part: true, sequence: 1)
        try await catalog.storeContent(orphan, of: incarnation)
        events.removeLast()
        _ = try await catalog.resume(incarnation, cleaning: true)
        keeper = try await catalog.resumeChapters(of: incarnation, maximumPieces: 3)
    }

    func unfinishedBase() async throws {
        let id = "2020010\(1 + bases % 9)T000000Z-ffff"
        try await store.put([1], at: catalog.baseKey("part-000001.tar.zst", base: id, of: incarnation))
        for abandoned in try await catalog.unfinishedBases(of: incarnation) { try await catalog.removeUnfinishedBase(abandoned, of: incarnation) }
    }

    /// A base of two parts at the beginning of the open segment, which the log so far goes up to.
    func record(begin: Bool) async throws {
        guard begin, end > segment * Self.size || segment > 1 else { return }
        bases += 1
        clock += 1
        let started = at(clock)
        clock += 1
        let id = "\(started)".filter { $0 != "-" && $0 != ":" }.prefix(15) + "Z-0000"
        var parts: [BaseRecord.Part] = []
        for n in 0..<2 as Range<UInt64> {
            let content = (0..<100).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
            let (object, suffix) = try catalog.pack(part: content)
            let name = "part-00000\(n + 1)\(suffix)"
            try await store.put(object, at: catalog.baseKey(name, base: String(id), of: incarnation))
            parts.append(.init(name: name, offset: n * 100, length: 100, storedLength: UInt64(object.count), sha256: hexText(SHA256.of(object))))
        }
        let isOpen = end > segment * Self.size
        let start = isOpen ? segment * Self.size : (segment - 1) * Self.size
        let first = SegmentName(timeline: TimelineID(rawValue: branch)!, containing: LSN(rawValue: start), size: SegmentSize(bytes: Self.size)!)
        // Right behind a fork the log of the base lies on the branch before.
        guard try await catalog.pieces(of: incarnation).contains(where: { $0.branch == branch && $0.name == first.description }) else { return }
        _ = try await catalog.record(
            BaseRecord(
                id: String(id), source: incarnation.source, incarnation: incarnation.id, kind: incarnation.kind, started: started, completed: at(clock),
                firstPiece: first.description, branch: branch, parts: parts, indexSHA256: "", files: 1, bytes: 200, warnings: [], facts: [:]),
            index: TreeIndex(
                entries: [TreeEntry(kind: .file, path: Array("f".utf8), mode: 0o600, size: 100)],
                spans: [LogSpan(stream: "wal", branch: branch, start: start, end: start + 100)]),
            of: incarnation)
    }

    /// Enough of everything that something can be restored.
    func grow(_ steps: Int) async throws {
        try await tail()
        try await record(begin: true)
        for _ in 0..<steps { try await step() }
        try await tail()
        try await advance()
    }
}

/// What a restore to the end reads: the base, its parts and every piece, as one digest; which base it was, and how far it goes.
func restored(_ catalog: Catalog, source: String = "main", rule: CutRule = .latest) async throws -> String {
    let plan = try await World.loader(catalog).plan(source: source, rule: rule)
    var content: [UInt8] = Array(plan.base.id.utf8)
    let index = try await catalog.treeIndex(of: plan.base, in: plan.incarnation)
    content += index.encoded()
    for part in plan.base.parts { content += try await catalog.read(part, of: plan.base, in: plan.incarnation) }
    let log = ArchivedLog(
        catalog: catalog, incarnation: plan.incarnation, pieces: plan.pieces.map { ArchivedPiece(name: $0.name, storedLength: $0.storedLength) }, branches: plan.branches)
    for piece in log.pieces {
        let index = try await log.index(of: piece)
        content += try await log.read(piece, index: index, frames: nil).flatMap { $0 }
    }
    return "\(plan.base.id) \(plan.cuts) \(hexText(SHA256.of(content)))"
}
