import ArchiveCore
import Catalog
import Pack
import Store

extension World {
    /// Writes what the agents archived, through the catalog.
    func archive(chapterPieces: Int) async throws -> Catalog {
        var chance = Chance(seed ^ 0xA5A5)
        let catalog = try await Catalog.create(in: SortedStore(), at: Moment(rawValue: beginning), version: "test")
        try await archiveAnchor(in: catalog, chapterPieces, &chance)
        for s in storages.indices { try await archiveStorage(s, in: catalog, chapterPieces, &chance) }
        return catalog
    }

    static func name(_ storage: Int) -> String { "storage\(storage)" }

    private func incarnation(_ source: String, kind: String, identity: String) -> IncarnationRecord {
        IncarnationRecord(
            source: source, id: "\(identity)-0001", kind: kind, identity: identity, number: 1, created: Moment(rawValue: beginning), facts: [:], reason: nil)
    }

    /// Stores a piece, and the chapters that it closes unless the agent was killed before.
    private func store(_ piece: LogPiece, of i: IncarnationRecord, in catalog: Catalog, _ keeper: inout ChapterKeeper, isKilled: Bool = false) async throws {
        let packed = try PiecePacker.pack(piece, level: 1)
        try await catalog.store(packed, of: i)
        guard !isKilled else { return }
        for chapter in keeper.add(PieceSummary(packed.name, packed.index)) { try await catalog.record(chapter, of: i) }
    }

    private func record(_ bases: [Base], of i: IncarnationRecord, in catalog: Catalog) async throws {
        for (n, base) in bases.enumerated() {
            let whole = Moment(rawValue: base.begun.rawValue / second * second)
            _ = try await catalog.record(
                BaseRecord(
                    id: "\(whole)".filter { $0 != "-" && $0 != ":" } + "-\(hex(UInt64(n), 4))", source: i.source, incarnation: i.id, kind: i.kind,
                    started: base.begun, completed: base.completed, firstPiece: base.firstPiece, branch: base.branch, parts: [], indexSHA256: "", files: 0,
                    bytes: 0, warnings: [], facts: [:]), index: TreeIndex(entries: [], spans: base.windows), of: i)
        }
    }

    // MARK: The anchor

    /// Records that a branch's pieces hold, repeated ones included.
    private func held(_ branch: UInt32) -> (start: UInt64, records: [Record]) {
        let own = records.filter { $0.isArchived && $0.branch == branch }
        guard let ancestors = branches.first(where: { $0.branch == branch })?.ancestors, let fork = ancestors.last?.end else {
            return (World.firstPosition, own)
        }
        guard copies else { return (fork, own) }
        let start = fork / AnchorKind.pieceSize * AnchorKind.pieceSize
        let repeated = history(to: ancestors.last!.branch).filter { $0.start >= start && $0.end <= fork }
        return (start, repeated + own)
    }

    private func archiveAnchor(in catalog: Catalog, _ chapterPieces: Int, _ chance: inout Chance) async throws {
        let i = incarnation("main", kind: "anchor", identity: "A")
        try await catalog.record(i)
        for branch in branches { try await catalog.record(branch, of: i) }
        var keeper = ChapterKeeper(maximumPieces: chapterPieces)
        var sequence: UInt64 = 0
        let last = shipped.keys.max() ?? 1
        var totals = LogTotals()
        for branch in 1...last {
            let (begin, all) = held(branch)
            guard let end = shipped[branch], end > begin else { continue }
            var at = begin
            while at < end {
                let number = at / AnchorKind.pieceSize
                let limit = (number + 1) * AnchorKind.pieceSize
                let isClosed = end >= limit
                // A killed agent may have left tails beside their closed piece.
                if !isClosed || chance.happens(0.1) {
                    var from = at
                    for stop in (tails[branch] ?? []).filter({ $0 > at && $0 <= min(limit, end) }) + (isClosed ? [] : [end]) where stop > from {
                        sequence += 1
                        let tail = piece(number, branch, from..<stop, isTail: true, all, sequence)
                        try await store(tail, of: i, in: catalog, &keeper)
                        if !isClosed { for event in tail.events { totals.add(event) } }
                        from = stop
                    }
                }
                if isClosed {
                    sequence += 1
                    let closed = piece(number, branch, at..<limit, isTail: false, all, sequence)
                    try await store(closed, of: i, in: catalog, &keeper)
                    for event in closed.events { totals.add(event) }
                }
                at = limit
            }
        }
        try await record(anchorBases, of: i, in: catalog)
        try await catalog.advanceWatermark(to: Moment(rawValue: anchorWatermark), replacing: nil, totals: totals, of: i)
    }

    private func piece(_ number: UInt64, _ branch: UInt32, _ range: Range<UInt64>, isTail: Bool, _ records: [Record], _ sequence: UInt64) -> LogPiece {
        let own = records.filter { range.contains($0.end - 1) }
        return LogPiece(
            name: PieceName(branch: branch, name: AnchorKind.name(number, branch), part: isTail ? range : nil), frames: [[UInt8(branch)]],
            spans: [LogSpan(stream: "wal", branch: branch, start: range.lowerBound, end: range.upperBound, lastRecord: own.last?.start)],
            events: own.map {
                LogEvent(span: 0, start: $0.start, end: $0.end, time: Moment(rawValue: $0.time), kind: $0.kind, number: $0.number, subject: $0.subject)
            }, sequence: sequence)
    }

    // MARK: A storage

    private func archiveStorage(_ s: Int, in catalog: Catalog, _ chapterPieces: Int, _ chance: inout Chance) async throws {
        let storage = storages[s]
        let i = incarnation(Self.name(s), kind: "storage", identity: "S\(s)")
        try await catalog.record(i)
        var keeper = ChapterKeeper(maximumPieces: chapterPieces)
        // An agent that is killed leaves its last chapters out.
        let killed = chance.happens(0.3) ? Int.random(in: 0...storage.packs.count, using: &chance) : storage.packs.count
        var totals = LogTotals()
        for (n, pack) in storage.packs.enumerated() {
            var spans: [LogSpan] = []
            var numbers: [Int: Int] = [:]
            var events: [LogEvent] = []
            for entry in pack.entries.map({ storage.entries[$0] }) {
                let place = entry.place
                let span = numbers[place.partition] ?? spans.count
                if span == spans.count {
                    numbers[place.partition] = span
                    spans.append(LogSpan(stream: "\(place.partition)", branch: 0, start: place.offset, end: place.offset))
                }
                spans[span].end = place.offset + 1
                spans[span].lastRecord = place.offset
                events.append(
                    LogEvent(
                        span: span, start: place.offset, end: place.offset + 1, time: Moment(rawValue: entry.time), kind: .commit, flags: entry.flags,
                        subject: "r\(place.partition)"))
            }
            for event in events { totals.add(event) }
            let piece = LogPiece(
                name: PieceName(branch: 0, name: hex(UInt64(n + 1), 16), suffix: "tar.zst"), frames: [[1]], spans: spans, events: events,
                sequence: UInt64(n + 1), fences: pack.fences)
            try await store(piece, of: i, in: catalog, &keeper, isKilled: n >= killed)
        }
        try await record(storage.bases, of: i, in: catalog)
        try await catalog.advanceWatermark(to: Moment(rawValue: storage.watermark), replacing: nil, totals: totals, of: i)
    }
}
