import ArchiveCore
import ArchiveTesting
import Catalog
import Pack
import Planner
import Restore
import Source
import SourceGitaly
import SourcePostgres
import Store

/// Seconds after an arbitrary moment, as a time.
func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_700_000_000_000_000_000).adding(nanoseconds: Int64(seconds * 1e9)) }

/// Numbers that follow from a seed; neighbouring seeds give others.
func dice(_ seed: UInt64) -> SeededRandom { SeededRandom(seed: seed &* 0x9E37_79B9_7F4A_7C15 &+ 1) }

/// Counts what is read.
actor CountingStore: ObjectStore {
    private let inner = MemoryStore()
    private(set) var reads: [String: Int] = [:]
    nonisolated let description = "memory"

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await inner.put(bytes, at: key) }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        let name = key.path.hasPrefix("chapters/") ? "chapters" : key.path.hasSuffix(".idx") ? "indexes" : "others"
        reads[name, default: 0] += 1
        return try await inner.get(key, range: range)
    }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
    func forget() { reads = [:] }
}

/// An archive that is written piece by piece, with its chapters.
final class Archive {
    let store = CountingStore()
    let catalog: Catalog
    let main = IncarnationRecord(
        source: "main", id: "77-0001", kind: "postgres", identity: "77", number: 1, created: at(0), facts: ["segment-size": "1048576"], reason: nil)
    let storage = IncarnationRecord(
        source: "default", id: "u-0001", kind: "gitaly", identity: "u", number: 1, created: at(0), facts: [:], reason: nil)
    static let size: UInt64 = 1 << 20
    private var keepers: [String: ChapterKeeper] = [:]
    private var packs: UInt64 = 0

    var loader: PlanLoader { PlanLoader(catalog: catalog, kinds: [PostgresKind(), GitalyKind()]) }

    init() async throws {
        catalog = try await Catalog.create(in: store, at: at(0), version: "test")
        try await catalog.record(main)
        try await catalog.record(storage)
    }

    func segmentName(_ number: UInt64, timeline: UInt32 = 1, part: Range<UInt64>? = nil) -> PieceName {
        let name = SegmentName(timeline: TimelineID(rawValue: timeline)!, containing: LSN(rawValue: number * Self.size), size: SegmentSize(bytes: Self.size)!)
        return PieceName(branch: timeline, name: name.description, part: part)
    }

    /// A segment of the database's log, or a tail of it; spans of events are set here.
    @discardableResult
    func segment(_ number: UInt64, timeline: UInt32 = 1, _ events: [LogEvent], part: Range<UInt64>? = nil, of incarnation: IncarnationRecord? = nil) async throws -> PieceName {
        let range = part ?? number * Self.size..<(number + 1) * Self.size
        let name = segmentName(number, timeline: timeline, part: part)
        try await store(
            LogPiece(
                name: name, frames: [[UInt8(number & 255)]],
                spans: [LogSpan(stream: "wal", branch: timeline, start: range.lowerBound, end: range.upperBound, lastRecord: events.last?.start ?? range.lowerBound)],
                events: events, sequence: number), of: incarnation ?? main)
        return name
    }

    /// A pack of entries: of each its partition.
    func pack(_ entries: [(partition: String, event: LogEvent)], fences: [FenceRecord] = []) async throws {
        packs += 1
        var spans: [LogSpan] = []
        var events: [LogEvent] = []
        for (partition, event) in entries {
            var event = event
            if let known = spans.firstIndex(where: { $0.stream == partition }) {
                spans[known].end = event.end
                spans[known].lastRecord = event.start
                event.span = known
            } else {
                event.span = spans.count
                spans.append(LogSpan(stream: partition, branch: 0, start: event.start, end: event.end, lastRecord: event.start))
            }
            event.frame = events.count
            events.append(event)
        }
        try await store(
            LogPiece(
                name: PieceName(branch: 0, name: hex(packs, 16), suffix: "tar.zst"), frames: events.map { _ in [1] } + [[0]], spans: spans, events: events,
                sequence: packs, fences: fences), of: storage)
    }

    private func store(_ piece: LogPiece, of incarnation: IncarnationRecord) async throws {
        let packed = try PiecePacker.pack(piece)
        try await catalog.store(packed, of: incarnation)
        for chapter in keepers[incarnation.id, default: ChapterKeeper()].add(PieceSummary(packed.name, packed.index)) {
            try await catalog.record(chapter, of: incarnation)
        }
    }

    /// A base whose window is `spans`.
    func base(_ seconds: Double, of incarnation: IncarnationRecord, _ spans: [LogSpan], first: String?, timeline: UInt32) async throws {
        let time = at(seconds)
        let id = "\(time)".filter { $0 != "-" && $0 != ":" }.prefix(15) + "Z-0000"
        _ = try await catalog.record(
            BaseRecord(
                id: String(id), source: incarnation.source, incarnation: incarnation.id, kind: incarnation.kind, started: time, completed: time,
                firstPiece: first, branch: timeline, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:]),
            index: TreeIndex(entries: [], spans: spans), of: incarnation)
    }

    /// A base of the database whose window is the first bytes of a segment.
    func base(_ seconds: Double, segment number: UInt64, timeline: UInt32 = 1, length: UInt64 = 100) async throws {
        let start = number * Self.size
        try await base(
            seconds, of: main, [LogSpan(stream: "wal", branch: timeline, start: start, end: start + length)], first: segmentName(number, timeline: timeline).name,
            timeline: timeline)
    }

    func watermark(_ seconds: Double, of incarnation: IncarnationRecord) async throws {
        try await catalog.advanceWatermark(to: at(seconds), replacing: try await catalog.watermark(of: incarnation), totals: LogTotals(), of: incarnation)
    }

    func events(_ query: TimelineQuery) async throws -> [TimelineEvent] {
        var timeline = try await loader.timeline(query)
        var events: [TimelineEvent] = []
        while let event = try await timeline.next() { events.append(event) }
        return events
    }
}

/// A record of the database's log, `offset` bytes into a segment.
func commit(_ segment: UInt64, _ offset: UInt64, _ time: Moment, _ xid: UInt64, drops: Int = 0, kind: LogEvent.Kind = .commit) -> LogEvent {
    let start = segment * Archive.size + offset
    return LogEvent(
        span: 0, start: start, end: start + 40, time: time, kind: kind, flags: drops > 0 ? .drops : [], number: xid,
        details: drops > 0 ? ["\(drops)"] + (0..<min(32, drops)).map { "1663/5/\(16384 + $0)" } : [])
}

func restorePoint(_ segment: UInt64, _ offset: UInt64, _ time: Moment, _ name: String) -> LogEvent {
    let start = segment * Archive.size + offset
    return LogEvent(span: 0, start: start, end: start + 80, time: time, kind: .restorePoint, subject: name)
}

/// An entry of a partition's log.
func entry(_ lsn: UInt64, _ time: Moment, _ repository: String, _ details: [String] = [], flags: LogEvent.Flags = []) -> LogEvent {
    LogEvent(span: 0, start: lsn, end: lsn + 1, time: time, kind: .commit, flags: flags, subject: repository, details: details)
}
