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

func at(_ n: Int) -> Moment { Moment(rawValue: 1_700_000_000_000_000_000).adding(seconds: Double(n)) }

/// An archive of one database that lives through whatever happens: commits, idle times, bases, failovers, holes, restores elsewhere.
actor History {
    static let size: UInt64 = 1 << 20
    static let kinds: [any ComponentKind] = [PostgresKind()]
    let catalog: Catalog
    private var chance: SeededRandom
    private(set) var clock = 1
    private(set) var incarnation: IncarnationRecord
    private var segment: UInt64 = 1
    private(set) var branch: UInt32 = 1
    private var ancestors: [BranchRecord.Ancestor] = []
    private var watermark: Moment?
    private var keeper = ChapterKeeper(maximumPieces: 3)
    private var totals = LogTotals()
    /// Ids of the bases that were recorded, in order.
    private(set) var bases: [BaseReference] = []

    init(in store: any ObjectStore, seed: UInt64, source: String = "main") async throws {
        chance = SeededRandom(seed: seed &* 0x9E37_79B9_7F4A_7C15 &+ 7)
        if let open = try? await Catalog.open(store) { catalog = open } else { catalog = try await Catalog.create(in: store, at: at(0), version: "test") }
        incarnation = IncarnationRecord(
            source: source, id: "77-0001", kind: "postgres", identity: "77", number: 1, created: at(0), facts: ["segment-size": "1048576"], reason: nil)
        try await catalog.record(incarnation)
    }

    /// Nothing happens until then.
    func wait(until time: Int) { clock = max(clock, time) }

    func number(_ below: Int) -> Int { Int(chance.next() % UInt64(below)) }

    private func name(_ segment: UInt64) -> String {
        SegmentName(timeline: TimelineID(rawValue: branch)!, containing: LSN(rawValue: segment * Self.size), size: SegmentSize(bytes: Self.size)!).description
    }

    /// Closes the open segment, with a few commits or none.
    func close(commits: Int) async throws {
        let start = segment * Self.size
        var events: [LogEvent] = []
        for n in 0..<commits {
            clock += 1 + number(4)
            events.append(LogEvent(span: 0, start: start + UInt64(n) * 100 + 8, end: start + UInt64(n) * 100 + 48, time: at(clock), kind: .commit, number: UInt64(clock)))
        }
        let packed = try catalog.pack(
            LogPiece(
                name: PieceName(branch: branch, name: name(segment)), frames: [Array("\(branch) \(segment)".utf8)],
                spans: [LogSpan(stream: "wal", branch: branch, start: start, end: start + Self.size, lastRecord: start + 1008)], events: events, sequence: 1))
        try await catalog.store(packed, of: incarnation)
        let summary = PieceSummary(packed.name, packed.index)
        totals += summary.totals
        for chapter in keeper.add(summary) { try await catalog.record(chapter, of: incarnation) }
        segment += 1
    }

    func advance() async throws {
        clock += 1
        try await catalog.advanceWatermark(to: at(clock), replacing: watermark, totals: totals, of: incarnation)
        watermark = at(clock)
    }

    /// A base whose window lies in the segment that is closed next; its log is archived with `close`.
    @discardableResult
    func base(isWhole: Bool = true) async throws -> BaseReference {
        clock += 1
        let started = at(clock)
        clock += 1 + number(3)
        let id = "\("\(started)".filter { $0 != "-" && $0 != ":" }.prefix(15))Z-0000"
        let (object, suffix) = try catalog.pack(part: Array("content of \(id)".utf8))
        let part = BaseRecord.Part(
            name: "part-000001\(suffix)", offset: 0, length: UInt64("content of \(id)".utf8.count), storedLength: UInt64(object.count), sha256: hexText(SHA256.of(object)))
        if isWhole { try await catalog.store.put(object, at: catalog.baseKey(part.name, base: id, of: incarnation)) }
        let start = segment * Self.size
        let first = segment > 2 && ancestors.isEmpty && number(3) == 0 ? name(segment - 1) : name(segment)
        _ = try await catalog.record(
            BaseRecord(
                id: id, source: incarnation.source, incarnation: incarnation.id, kind: incarnation.kind, started: started, completed: at(clock), firstPiece: first,
                branch: branch, parts: [part], indexSHA256: "", files: 1, bytes: 10, warnings: [], facts: [:]),
            index: TreeIndex(
                entries: [TreeEntry(kind: .file, path: Array("f".utf8), mode: 0o600, size: 10)],
                spans: [LogSpan(stream: "wal", branch: branch, start: start, end: start + 4)]),
            of: incarnation)
        let reference = BaseReference(source: incarnation.source, incarnation: incarnation.id, base: id)
        bases.append(reference)
        return reference
    }

    /// Segments that nobody archived.
    func lose(_ segments: UInt64, isRecorded: Bool) async throws {
        let start = segment * Self.size
        segment += segments
        if isRecorded {
            try await catalog.record(
                GapRecord(stream: "wal", branch: branch, start: start, end: segment * Self.size, noticed: at(clock), cause: "the slot was lost", provenUpTo: watermark),
                of: incarnation)
        }
    }

    /// A standby is promoted that had everything but the last segments.
    func failOver(losing segments: UInt64) async throws {
        let floor = ancestors.last.map { $0.end / Self.size } ?? 1
        let end = max(floor, segment - min(segments, segment - 1)) * Self.size
        ancestors.append(.init(branch: branch, end: end))
        branch += 1
        try await catalog.record(
            BranchRecord(branch: branch, ancestors: ancestors, file: Array("\(branch)".utf8), fileName: "\(hex(UInt64(branch), 8)).history"), of: incarnation)
        segment = end / Self.size
    }

    /// Another cluster takes the place of this one.
    func begin() async throws {
        clock += 1
        let number = incarnation.number + 1
        incarnation = IncarnationRecord(
            source: incarnation.source, id: "\(76 + number)-000\(number)", kind: "postgres", identity: "\(76 + number)", number: number, created: at(clock),
            facts: ["segment-size": "1048576"], reason: "restored")
        try await catalog.record(incarnation)
        (segment, branch, ancestors, watermark, totals) = (1, 1, [], nil, LogTotals())
        keeper = ChapterKeeper(maximumPieces: 3)
    }

    /// Takes the chapters up where the archive says that they end, as an agent does that starts again.
    func restart() async throws { keeper = try await catalog.resumeChapters(of: incarnation, maximumPieces: 3) }

    /// Bases and log without anything out of the ordinary.
    func liveCalmly(_ rounds: Int) async throws {
        for _ in 0..<rounds {
            try await base()
            for _ in 0..<3 { try await close(commits: 2) }
            try await advance()
        }
    }

    func live(_ steps: Int) async throws {
        try await base()
        try await close(commits: 2)
        for _ in 0..<steps {
            switch number(100) {
            case 0..<50: try await close(commits: number(4))
            case 50..<68: try await advance()
            case 68..<74: clock += number(30)
            case 74..<90:
                try await base(isWhole: number(8) > 0)
                // Now and then the log of a base is lost, or not there yet.
                if number(8) > 0 { try await close(commits: number(3)) } else if number(2) == 0 { try await lose(1, isRecorded: number(2) == 0) }
            case 90..<94: try await failOver(losing: UInt64(number(3)))
            case 94..<97: try await lose(1 + UInt64(number(2)), isRecorded: number(3) > 0)
            case 97..<98: if incarnation.number < 4 { try await begin() }
            default: break
            }
        }
        try await close(commits: 1)
        try await advance()
    }
}

/// What a restore of an archive gives, as far as a plan and what it reads tell.
struct Restorable: Equatable {
    var cuts: [StreamCut]
    var incarnation: String
    /// Digest of the base and of all pieces that the plan reads.
    var base: String
    var pieces: Int
}

/// Plans for a time, and reads everything that the plan names.
///
/// - Returns: `nil` when the time cannot be reached.
func restore(_ catalog: Catalog, to time: Moment, branch: UInt32? = nil, source: String = "main") async throws -> Restorable? {
    let plan: SourcePlan
    do { plan = try await PlanLoader(catalog: catalog, kinds: History.kinds).plan(source: source, rule: .time(time, exclusive: false), branch: branch) } catch let
        error as ArchiveError where error.code == .targetUnreachable { return nil }
    do {
        _ = try await catalog.treeIndex(of: plan.base, in: plan.incarnation)
        for part in plan.base.parts { _ = try await catalog.read(part, of: plan.base, in: plan.incarnation) }
    } catch let error as ArchiveError where error.code == .objectMissing { return nil }
    for piece in plan.pieces {
        let index = try await catalog.index(of: piece.name, of: plan.incarnation)
        _ = try await catalog.read(piece.name, index: index, of: plan.incarnation)
    }
    return Restorable(cuts: plan.cuts, incarnation: plan.incarnation.id, base: plan.base.id, pieces: plan.pieces.count)
}
