import ArchiveCore
import ArchiveTesting
import Catalog
import Glibc
import Lag
import Store

/// An archive with nothing but a week of lag history, for pictures and tests of the report. The same each time.
enum LagSample {
    /// - Parameter end: the week's end.
    static func write(to directory: String, end: Moment) async throws {
        let start = end.adding(seconds: -7 * 86_400)
        let catalog = try await Catalog.create(in: FileStore(path: directory), at: start, version: "generator")
        // Put together in memory: a week is 20,000 objects before that.
        let draft = try await Catalog.create(in: MemoryStore(), at: start, version: "generator")
        for (name, kind, seed) in [("main", "postgres", 1 as UInt64), ("default", "gitaly", 2)] {
            let incarnation = IncarnationRecord(source: name, id: "7-0001", kind: kind, identity: "7", number: 1, created: start, facts: [:], reason: nil)
            try await catalog.record(incarnation)
            for row in rows(seed: seed, kind: kind, from: start, to: end.adding(seconds: -40)) { try await draft.record(row, of: name) }
            try await draft.compactLag(of: name, at: end)
            try await draft.copyLag(of: name, to: catalog, at: end) { _, _ in }
            try await catalog.advanceWatermark(to: end.adding(seconds: -2), replacing: nil, totals: LogTotals(), of: incarnation)
            try await catalog.recordVerified(upTo: end.adding(seconds: -6 * 3600), contents: true, at: end.adding(seconds: -5 * 3600), of: incarnation)
        }
    }

    /// Busy days and quiet nights, a slow store, an agent that was away, and two hours that nobody measured.
    private static func rows(seed: UInt64, kind: String, from: Moment, to: Moment) -> [LagRow] {
        var random = SeededRandom(seed: seed)
        var meter = LagMeter(objective: 5)
        meter.begin(at: from, proven: from)
        var done: [LagRow] = []
        var time = from
        var sequence: UInt64 = 0
        while time < to {
            let hour = (time - from) / 3600
            let clock = hour.truncatingRemainder(dividingBy: 24)
            let busy = 0.15 + 0.85 * max(0, sin((clock - 6) / 24 * 2 * .pi + 0.3))
            let slow = (62..<62.7).contains(hour) || kind == "postgres" && (131..<131.2).contains(hour)
            let away = (97..<97.4).contains(hour)
            if (40..<42).contains(hour) {
                time = time.adding(seconds: 7200)
                meter.begin(at: time, proven: time)
                continue
            }
            let step = away ? 1440 : Double.random(in: 20...60, using: &random)
            let count = Int(Double(kind == "postgres" ? 40 : 12) * busy * min(step, 120) / 160)
            let commits = (0..<count).map { _ in time.adding(seconds: Double.random(in: 0...step, using: &random)) }.sorted()
            let next = time.adding(seconds: step)
            if away {
                // The next agent starts with a meter of its own.
                done += meter.takeRows(all: true)
                meter = LagMeter(objective: 5)
                meter.begin(at: next, proven: time)
                sequence += 1
                meter.gave(sequence, oldest: commits.first, bytes: 1 << 20, at: next)
                meter.archived(sequence, commits: commits, at: next.adding(seconds: 3))
            } else {
                var archived = time
                for commit in commits {
                    sequence += 1
                    let delay = slow ? Double.random(in: 4...38, using: &random) : Double.random(in: 0.08...1.15, using: &random) + (Double.random(in: 0...1, using: &random) < 0.004 ? 3 : 0)
                    archived = max(archived, commit.adding(seconds: delay))
                    meter.gave(sequence, oldest: commit, bytes: 4096, at: commit)
                    if slow { meter.failed(.store, at: commit) }
                    meter.archived(sequence, commits: [commit], at: archived)
                }
                meter.proven(upTo: next)
            }
            meter.sample([.received: .init(bytes: 0, seconds: 0), .synced: .init(bytes: 0, seconds: 0), .archived: .init(bytes: 18_432, seconds: 0.4)], at: next)
            time = next
        }
        return done + meter.takeRows(all: true)
    }
}
