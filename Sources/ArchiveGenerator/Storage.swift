import ArchiveCore
import ArchiveTesting
import Catalog

/// The log and the bases of a Gitaly storage.
struct StorageLog {
    let shape: Shape
    let catalog: Catalog
    let incarnation: IncarnationRecord
    let anchor: IncarnationRecord

    static func incarnation(_ shape: Shape) -> IncarnationRecord {
        IncarnationRecord(
            source: "default", id: "6f1c0a52-0000-4000-8000-000000000001-0001", kind: "gitaly", identity: "6f1c0a52-0000-4000-8000-000000000001",
            number: 1, created: shape.start, facts: [:], reason: nil)
    }

    /// The entries of a pack: partition and position of each.
    private struct Drawn {
        var partitions: [Int] = []
        var positions: [UInt64] = []
    }

    /// A storage base that is under way.
    private struct Base {
        var started: Moment
        var firstPiece: String
        var positions: [UInt64]
    }

    func write(to root: String) async throws -> PieceWriter {
        var writer = PieceWriter(catalog: catalog, root: root, incarnation: incarnation)
        var regions = RealRegions(shape)
        let names = (1...shape.partitions).map { "\($0)" }
        /// By partition the next free position.
        var next = [UInt64](repeating: 1, count: shape.partitions)
        var nextBase = 0
        var base: Base?
        for n in 0..<shape.packs {
            let drawn = draw(n, &next)
            let time = shape.packTime(n)
            let content = content(n, drawn, names)
            var summary = PieceSummary(content.name, content.summaryIndex())
            summary.totals = content.totals
            try await writer.add(summary, isReal: regions.contains(time)) { content.index() }
            if base == nil, nextBase < shape.days, baseTime(nextBase) <= shape.packTime(n + 1) {
                base = Base(started: baseTime(nextBase), firstPiece: content.name.name, positions: next)
            } else if let begun = base, begun.started.adding(seconds: Double(Shape.storageBase.seconds)) <= time {
                try await record(begun, ends: next, names)
                base = nil
                nextBase += 1
            }
        }
        try await writer.finish()
        try await catalog.advanceWatermark(to: shape.end, replacing: nil, totals: writer.totals, of: incarnation)
        return writer
    }

    private func baseTime(_ day: Int) -> Moment {
        shape.start.adding(nanoseconds: Int64(day) * Shape.day + Int64(Shape.storageBase.hour) * 3600 * Shape.second)
    }

    /// A few partitions are busy and most are not: of 100,000 the first 1,000 have a fifth of the entries.
    private func draw(_ n: Int, _ next: inout [UInt64]) -> Drawn {
        // As many as are due by now, give or take half of a pack.
        func due(_ n: Int) -> Int { n >= shape.packs ? shape.entries : Int(Double(shape.entries) * (Double(n) + Double(shape.random(4, n) % 1000) / 1000) / Double(shape.packs)) }
        let count = max(1, due(n + 1) - (n == 0 ? 0 : due(n)))
        var random = SeededRandom(seed: shape.random(5, n))
        var drawn = Drawn()
        drawn.partitions.reserveCapacity(count)
        drawn.positions.reserveCapacity(count)
        for _ in 0..<count {
            let unit = random.unit()
            let partition = min(shape.partitions - 1, Int(Double(shape.partitions) * unit * unit * unit))
            drawn.partitions.append(partition)
            drawn.positions.append(next[partition])
            next[partition] += 1
        }
        return drawn
    }

    private func content(_ n: Int, _ drawn: Drawn, _ names: [String]) -> PackContent {
        let count = drawn.partitions.count
        // The partition's last entry in the pack came while the marker was written, now and then.
        let isLate = shape.random(6, n) % 20 == 0
        let late = isLate ? [FenceRecord.Late(stream: names[drawn.partitions[count - 1]], start: drawn.positions[count - 1])] : []
        return PackContent(
            name: PieceName(branch: 0, name: hex(UInt64(n + 1), 16), suffix: "tar.zst"), closed: shape.packTime(n),
            partitions: drawn.partitions, positions: drawn.positions, names: names, fence: shape.fence(n, anchor: anchor, late: late),
            dice: shape.random(7, n))
    }

    private func record(_ base: Base, ends: [UInt64], _ names: [String]) async throws {
        var spans: [LogSpan] = []
        spans.reserveCapacity(names.count)
        for (i, name) in names.enumerated() { spans.append(LogSpan(stream: name, branch: 0, start: base.positions[i], end: ends[i])) }
        spans.sort { $0.stream < $1.stream }
        _ = try await catalog.record(
            baseRecord(
                incarnation, started: base.started, completed: base.started.adding(seconds: Double(Shape.storageBase.seconds)),
                firstPiece: base.firstPiece, branch: 0, parts: 256),
            index: TreeIndex(entries: [TreeEntry(kind: .directory, path: Array("@hashed".utf8), mode: 0o700)], spans: spans), of: incarnation)
    }
}

/// One pack, from which its index is made where it is wanted.
struct PackContent: Sendable {
    var name: PieceName
    var closed: Moment
    var partitions: [Int]
    var positions: [UInt64]
    var names: [String]
    var fence: FenceRecord
    var dice: UInt64

    /// Entries of a pack came in the second before it was closed.
    private func event(_ i: Int, span: Int) -> LogEvent {
        var flags: LogEvent.Flags = []
        let path = "@hashed/\(hex(UInt64(partitions[i]) & 0xFF, 2))/\(partitions[i]).git"
        if i == 0, isCreation { flags.insert(.created) }
        if i == 0, isDeletion { flags.insert(.deleted) }
        return LogEvent(
            span: span, start: positions[i], end: positions[i] + 1,
            time: closed.adding(nanoseconds: -Shape.second / 2 + Shape.second / 2 * Int64(i) / Int64(partitions.count)), kind: .commit,
            flags: flags, subject: path, details: flags.contains(.deleted) ? [] : ["refs/heads/main 4b825dc642cb6eb9a060e54bf8d69288fbee4904"],
            frame: i)
    }
    private var isCreation: Bool { dice % 16 == 0 }
    private var isDeletion: Bool { dice % 64 == 1 }

    /// What the index of every entry adds up to.
    var totals: LogTotals {
        var totals = LogTotals()
        totals.commits = UInt64(partitions.count)
        totals.created = isCreation ? 1 : 0
        totals.deleted = isDeletion ? 1 : 0
        totals.pushes = totals.commits - totals.deleted
        return totals
    }

    private func spans() -> (spans: [LogSpan], of: [Int]) {
        var spans: [LogSpan] = []
        spans.reserveCapacity(partitions.count)
        var numbers: [Int: Int] = [:]
        var of: [Int] = []
        of.reserveCapacity(partitions.count)
        for (i, partition) in partitions.enumerated() {
            let at = positions[i]
            if let known = numbers[partition] {
                spans[known].end = at + 1
                spans[known].lastRecord = at
                of.append(known)
            } else {
                numbers[partition] = spans.count
                of.append(spans.count)
                spans.append(LogSpan(stream: names[partition], branch: 0, start: at, end: at + 1, lastRecord: at))
            }
        }
        return (spans, of)
    }

    /// The index with the first and the last entry alone, which are enough for the summary but for its totals.
    func summaryIndex() -> PieceIndex {
        let (spans, of) = spans()
        return make(spans, partitions.count == 1 ? [event(0, span: 0)] : [event(0, span: of[0]), event(of.count - 1, span: of[of.count - 1])])
    }

    func index() -> PieceIndex {
        let (spans, of) = spans()
        var index = make(spans, of.indices.map { event($0, span: of[$0]) })
        index.frames = (0...partitions.count).map {
            LogFrame(offset: UInt64($0) * 900, length: 900, rawLength: 4096, sha256: [UInt8](repeating: UInt8(truncatingIfNeeded: $0), count: 32))
        }
        return index
    }

    private func make(_ spans: [LogSpan], _ events: [LogEvent]) -> PieceIndex {
        PieceIndex(
            spans: spans, events: events, frames: [], storedLength: UInt64(partitions.count + 1) * 900,
            storedSHA256: [UInt8](repeating: 2, count: 32), fences: [fence])
    }
}
