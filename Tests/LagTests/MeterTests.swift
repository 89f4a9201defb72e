import ArchiveCore
import ArchiveTesting
import Testing

@testable import Lag

/// Seconds since a full minute.
private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_000_000_000_000_000).adding(seconds: seconds) }

@Suite("The meter of lag")
struct MeterTests {
    @Test("agrees with a look at every instant, whatever happened", arguments: 0..<60)
    func oracle(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let objective = Double.random(in: 0.2...8, using: &random)
        var meter = LagMeter(objective: objective)
        meter.begin(at: at(0), proven: at(0))
        var commits: [(made: Double, archived: Double)] = []
        var time = 0.0
        var sequence: UInt64 = 0
        // Pieces in log order, each archived after the one before.
        var archivedLast = 0.0
        for _ in 0..<Int.random(in: 1...40, using: &random) {
            let made = (0..<Int.random(in: 0...5, using: &random)).map { _ in
                time += Double.random(in: 0...3, using: &random)
                return time
            }
            let given = time
            let archived = max(archivedLast, given) + Double.random(in: 0...(Bool.random(using: &random) ? 0.5 : 20), using: &random)
            archivedLast = archived
            sequence += 1
            meter.gave(sequence, oldest: made.first.map(at), bytes: 10, at: at(given))
            meter.archived(sequence, commits: made.map(at), at: at(archived))
            commits += made.map { ($0, archived) }
            if Bool.random(using: &random) {
                time += Double.random(in: 0...90, using: &random)
                // An idle source's clock.
                if time > archivedLast {
                    meter.proven(upTo: at(time))
                    archivedLast = time
                }
            }
        }
        let rows = meter.takeRows(all: true)
        #expect(rows.reduce(0) { $0 + $1.commits.total } == UInt64(commits.count))
        for (a, b) in zip(rows, rows.dropFirst()) { #expect(a.end == b.start) }
        let worst = commits.map { $0.archived - $0.made }.max() ?? 0
        #expect(abs((rows.map(\.commits.maximum).max() ?? 0) - worst) < 1e-6)
        guard let first = rows.first, let last = rows.last else { return }
        #expect(first.start == at(0))
        // Every 50 ms: how old the oldest commit is that is not archived.
        let step = 0.05
        var late = 0.0
        var exposed = 0.0
        var t = step / 2
        while at(t) < last.end {
            let age = commits.filter { $0.made <= t && t < $0.archived }.map { t - $0.made }.max() ?? 0
            if age > objective { late += step }
            exposed += age * step
            t += step
        }
        let measured = rows.flatMap(\.misses).reduce(0) { $0 + ($1.end - $1.start) }
        #expect(abs(measured - late) <= 0.2 + 0.1 * Double(rows.flatMap(\.misses).count), "\(measured) s of misses, \(late) s seen")
        // Buckets round up by at most an eighth of an octave.
        let sum = rows.reduce(0) { $0 + $1.exposure.sum } / 1000
        #expect(sum >= exposed * 0.98 - 0.5 && sum <= exposed * 1.095 + 0.5, "\(sum) for \(exposed)")
        let total = rows.reduce(0) { $0 + $1.exposure.total }
        #expect(abs(Double(total) - (last.end - first.start) * 1000) < 2 * Double(rows.count))
        let within = rows.reduce(0) { $0 + $1.exposure.total - $1.exposure.weight(upTo: objective) }
        #expect(Double(within) / 1000 <= late * 1.3 + 1)
    }

    @Test("an outage is an outage for as long as something was lacking, and nothing before")
    func outage() throws {
        var meter = LagMeter(objective: 5)
        // The agent was away from 0 to 600; the first commit that it had missed was made at 400.
        meter.begin(at: at(600), proven: at(0))
        meter.gave(1, oldest: at(400), bytes: 1, at: at(601))
        meter.archived(1, commits: [at(400), at(500)], at: at(602))
        let rows = meter.takeRows(all: true)
        let misses = rows.flatMap(\.misses).reduce(into: [Miss]()) { $0.append(joining: $1) }
        #expect(misses == [Miss(start: at(405), end: at(602), worst: 202, cause: .agent)])
        #expect(rows.first?.start == at(0))
        #expect(rows.last?.end == at(602))
        #expect(rows.count == 11)
    }

    @Test("time of which nobody can tell is left out")
    func unmeasured() throws {
        var meter = LagMeter(objective: 5)
        meter.begin(at: at(0), proven: at(0))
        meter.proven(upTo: at(10))
        // Another agent archived up to 100 meanwhile.
        meter.begin(at: at(120), proven: at(100))
        meter.proven(upTo: at(130))
        let rows = meter.takeRows(all: true)
        #expect(rows.map(\.start) == [at(0), at(100), at(120)])
        #expect(rows.map(\.end) == [at(10), at(120), at(130)])
        #expect(rows.allSatisfy { $0.exposure.maximum == 0 && $0.misses.isEmpty })
    }

    @Test("behind a hole everything is at stake until there is a base")
    func gap() throws {
        var meter = LagMeter(objective: 5)
        meter.begin(at: at(0), proven: at(0))
        meter.proven(upTo: at(10))
        meter.lost(since: at(10))
        meter.proven(upTo: at(20))
        #expect(meter.waiting(at: at(30)).seconds == 20)
        meter.mended(at: at(40))
        meter.proven(upTo: at(50))
        let rows = meter.takeRows(all: true)
        #expect(rows.flatMap(\.misses) == [Miss(start: at(15), end: at(40), worst: 30, cause: .gap)])
    }

    @Test("an objective is missed by the store, the network or the load, as was seen")
    func causes() throws {
        for (cause, fails) in [(Miss.Cause.store, Miss.Cause.store as Miss.Cause?), (.network, .network), (.store, nil), (.load, nil)] {
            var meter = LagMeter(objective: 1)
            meter.begin(at: at(0), proven: at(0))
            if let fails { meter.failed(fails, at: at(5)) }
            // A store that is slow has the piece for long; under load it comes late.
            meter.gave(1, oldest: at(1), bytes: 1, at: at(cause == .load ? 9.9 : 1.5))
            meter.archived(1, commits: [at(1)], at: at(10))
            #expect(meter.takeRows(all: true).flatMap(\.misses).map(\.cause) == [cause])
        }
    }
}

@Suite("Rows of lag in the archive")
struct RowTests {
    @Test("are read as they were written, and damage is noticed or harmless")
    func wire() throws {
        var row = LagRow(start: at(0), end: at(60), objective: 5)
        row.commits.add(0.25, weight: 7)
        row.exposure.add(12.5, weight: 60_000)
        row.worst = [.archived: .init(bytes: nil, seconds: 12.5), .received: .init(bytes: 0, seconds: 0)]
        row.last = [.synced: .init(bytes: 1 << 40, seconds: 0.001)]
        row.misses = [Miss(start: at(1), end: at(2), worst: 6, cause: .gap)]
        row.archivedUpTo = at(59.5)
        var next = LagRow(start: at(60), end: at(61), objective: 5)
        next.exposure.add(0, weight: 1000)
        let bytes = LagRow.encoded([row, next])
        #expect(try LagRow.decoded(bytes) == [row, next])
        for count in 0..<bytes.count { _ = try? LagRow.decoded(Array(bytes[..<count])) }
        for i in bytes.indices {
            var damaged = bytes
            damaged[i] ^= 0xFF
            if let rows = try? LagRow.decoded(damaged) { #expect(rows.allSatisfy { $0.start < $0.end }) }
        }
        #expect(throws: WireError.self) { try LagRow.decoded(LagRow.encoded([next, row])) }
        #expect(throws: WireError.self) { try LagRow.decoded([0x08, 0x02]) }
        #expect(throws: WireError.self) { try LagRow.decoded([]) }
    }

    @Test("put together, they tell what each told")
    func append() {
        var a = LagRow(start: at(0), end: at(60), objective: 5)
        a.misses = [Miss(start: at(50), end: at(60), worst: 12, cause: .store)]
        a.worst = [.archived: .init(bytes: 7, seconds: 12)]
        var b = LagRow(start: at(60), end: at(120), objective: 3)
        b.misses = [Miss(start: at(60), end: at(61), worst: 13, cause: .store), Miss(start: at(70), end: at(71), worst: 4, cause: .load)]
        b.worst = [.archived: .init(bytes: nil, seconds: 13)]
        a.append(b)
        #expect(a.end == at(120) && a.objective == 3)
        #expect(a.misses == [Miss(start: at(50), end: at(61), worst: 13, cause: .store), Miss(start: at(70), end: at(71), worst: 4, cause: .load)])
        #expect(a.worst[.archived] == .init(bytes: 7, seconds: 13))
    }
}
