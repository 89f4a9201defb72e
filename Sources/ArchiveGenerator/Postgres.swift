import ArchiveCore
import Catalog

/// The log and the bases of a PostgreSQL cluster.
struct PostgresLog {
    let shape: Shape
    let catalog: Catalog
    let incarnation: IncarnationRecord

    static func incarnation(_ shape: Shape) -> IncarnationRecord {
        IncarnationRecord(
            source: "main", id: "7570000000000000001-0001", kind: "postgres", identity: "7570000000000000001", number: 1, created: shape.start,
            facts: ["segment-size": "\(16 << 20)"], reason: nil)
    }

    func write(to root: String) async throws -> PieceWriter {
        var writer = PieceWriter(catalog: catalog, root: root, incarnation: incarnation)
        var regions = RealRegions(shape)
        var nextFence = 0
        var nextBase = 0
        for n in 0..<shape.segments {
            let begin = shape.segmentTime(n)
            let name = name(n)
            var fences: [FenceRecord] = []
            let end = UInt64(n + 2) * (16 << 20)
            while nextFence < shape.packs {
                let fence = shape.fence(nextFence, anchor: incarnation, late: [])
                guard fence.position <= end else { break }
                fences.append(fence)
                nextFence += 1
            }
            var summary = PieceSummary(name, index(n, fences, everyCommit: false))
            summary.totals = totals(n)
            try await writer.add(summary, isReal: regions.contains(begin)) { [self, fences] in index(n, fences, everyCommit: true) }
            let base = baseTime(nextBase)
            if nextBase < shape.days, base.adding(seconds: Double(Shape.postgresBase.seconds)) < shape.segmentTime(n + 1) {
                try await record(nextBase)
                nextBase += 1
            }
        }
        try await writer.finish()
        try await catalog.advanceWatermark(to: shape.end, replacing: nil, totals: writer.totals, of: incarnation)
        return writer
    }

    private func baseTime(_ day: Int) -> Moment {
        shape.start.adding(nanoseconds: Int64(day) * Shape.day + Int64(Shape.postgresBase.hour) * 3600 * Shape.second)
    }

    private func name(_ n: Int) -> PieceName {
        // 256 segments of 16 MiB in 4 GiB; the first segment of a cluster is number 1.
        PieceName(branch: 1, name: "00000001" + hex(UInt64(n + 1) / 256, 8) + hex(UInt64(n + 1) % 256, 8))
    }

    private func drops(_ n: Int) -> Bool { shape.random(3, n) % 20 == 0 }

    /// What the index of every commit adds up to.
    private func totals(_ n: Int) -> LogTotals {
        var totals = LogTotals()
        totals.commits = UInt64(shape.commitsInSegment)
        totals.drops = drops(n) ? 1 : 0
        return totals
    }

    /// - Parameter everyCommit: else the first and the last one, which are enough for the summary but for its totals.
    private func index(_ n: Int, _ fences: [FenceRecord], everyCommit: Bool) -> PieceIndex {
        let start = UInt64(n + 1) * (16 << 20)
        let begin = shape.segmentTime(n)
        let length = shape.segmentTime(n + 1).rawValue - begin.rawValue
        let count = shape.commitsInSegment
        func commit(_ i: Int) -> LogEvent {
            let at = start + 40 + UInt64(i) * ((16 << 20) / UInt64(count)) / 8 * 8
            let isDrop = i == count / 2 && drops(n)
            return LogEvent(
                span: 0, start: at, end: at + 64, time: begin.adding(nanoseconds: length * Int64(i) / Int64(count)), kind: .commit,
                flags: isDrop ? .drops : [], number: UInt64(UInt32(truncatingIfNeeded: 1000 + n * count + i)), details: isDrop ? ["2"] : [])
        }
        var events = everyCommit ? (0..<count).map(commit) : [commit(0), commit(count - 1)]
        for fence in fences {
            // A marker carries no time of its own.
            events.append(
                LogEvent(span: 0, start: fence.position - 88, end: fence.position, time: Moment(rawValue: 0), kind: .fence, subject: fence.id))
        }
        if !fences.isEmpty { events.sort { $0.start < $1.start } }
        let last = max(events.last?.start ?? 0, start + (16 << 20) - 8192)
        return PieceIndex(
            spans: [LogSpan(stream: "wal", branch: 1, start: start, end: start + (16 << 20), lastRecord: last)], events: events,
            frames: [LogFrame(offset: 0, length: 5 << 20, rawLength: 16 << 20, sha256: [UInt8](repeating: 1, count: 32))],
            storedLength: 5 << 20, storedSHA256: [UInt8](repeating: 2, count: 32))
    }

    private func record(_ day: Int) async throws {
        let started = baseTime(day)
        let completed = started.adding(seconds: Double(Shape.postgresBase.seconds))
        let start = shape.position(at: started)
        let first = name(Int(start / (16 << 20)) - 1).name
        _ = try await catalog.record(
            baseRecord(incarnation, started: started, completed: completed, firstPiece: first, branch: 1, parts: 64),
            index: TreeIndex(
                entries: [TreeEntry(kind: .file, path: Array("PG_VERSION".utf8), mode: 0o600, size: 3)],
                spans: [LogSpan(stream: "wal", branch: 1, start: start / (16 << 20) * (16 << 20), end: shape.position(at: completed))]),
            of: incarnation)
    }
}

/// A base whose parts are named and not stored: no plan reads them.
func baseRecord(
    _ incarnation: IncarnationRecord, started: Moment, completed: Moment, firstPiece: String?, branch: UInt32, parts: Int
) -> BaseRecord {
    let digits = "\(started)".filter { $0 != "-" && $0 != ":" }
    return BaseRecord(
        id: "\(digits)-0000", source: incarnation.source, incarnation: incarnation.id, kind: incarnation.kind, started: started,
        completed: completed, firstPiece: firstPiece, branch: branch,
        parts: (0..<parts).map { i in
            let digits = String(i)
            return .init(
                name: "part-\(String(repeating: "0", count: 6 - digits.count))\(digits).tar.zst", offset: UInt64(i) << 24, length: 1 << 24,
                storedLength: 6 << 20, sha256: String(repeating: "0", count: 64))
        }, indexSHA256: "", files: parts * 16, bytes: UInt64(parts) << 24, warnings: [], facts: [:])
}
