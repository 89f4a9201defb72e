import ArchiveCore
import Lag
import Testing

@testable import Sidecar

private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_000_000_000_000_000).adding(seconds: seconds) }
private let broken = ArchiveError(.storeUnavailable, "The store is away.", remedy: "Bring it back.")

@Suite("What an administrator is told of the archiving")
struct AlarmTests {
    @Test("a blip is not told, nor its end")
    func blip() {
        var alarm = FailureAlarm()
        #expect(alarm.failed(broken, source: "main", at: at(0)) == nil)
        #expect(alarm.failed(broken, source: "main", at: at(1)) == nil)
        #expect(alarm.looked("main", at: at(29)) == nil)
        #expect(alarm.succeeded("main", at: at(29)) == nil)
        #expect(alarm.failed(broken, source: "main", at: at(30)) == nil)
    }

    @Test("a failure that lasts is told once, with its remedy, and so is its end", arguments: [true, false])
    func lasting(byAttempts: Bool) {
        var alarm = FailureAlarm()
        var events = [alarm.failed(broken, source: "main", at: at(0))]
        if byAttempts {
            for second in 1...9 { events.append(alarm.failed(broken, source: "main", at: at(Double(second)))) }
        } else {
            for second in 1...90 { events.append(alarm.looked("main", at: at(Double(second)))) }
        }
        let told = events.compactMap { $0 }
        #expect(told.map(\.kind) == [.failure])
        #expect(told.first?.time == (byAttempts ? at(2) : at(30)))
        #expect(told.first?.message.contains("The store is away.") == true && told.first?.remedy == "Bring it back.")
        #expect(alarm.succeeded("main", at: at(100))?.kind == .recovered)
        #expect(alarm.succeeded("main", at: at(101)) == nil)
    }

    @Test("a refusal is told at once")
    func refused() {
        var alarm = FailureAlarm()
        let event = alarm.refused(ArchiveError(.twoHistories, "Two histories.", remedy: "Look."), source: "main", at: at(0))
        #expect(event?.kind == .failure && event?.remedy == "Look.")
    }

    @Test("an objective that is missed now and then is one event, until it was kept for a while")
    func objective() {
        var alarm = ObjectiveAlarm()
        var events: [AgentEvent] = []
        for second in 0..<200 {
            // Missed every tenth second for a minute, then never again.
            let exposure = second < 60 && second % 10 == 5 ? 6.5 : 0.5
            if let event = alarm.look(exposure, objective: 5, source: "main", at: at(Double(second))) { events.append(event) }
            #expect(alarm.isMissed == (second >= 5 && second < 85))
        }
        #expect(events.map(\.kind) == [.rpoMissed, .rpoRecovered])
        #expect(events.map(\.time) == [at(5), at(85)])
        #expect(events[0].message.contains("6.5 s") && events[0].message.contains("objective is 5 s"))
        #expect(events[1].message.contains("up to 6.5 s"))
    }
}

@Suite("Rows that wait for the store")
struct PendingRowsTests {
    private func rows(_ count: Int, from start: Double = 0, gap: Double = 0) -> [LagRow] {
        (0..<count).map { n in
            var row = LagRow(start: at(start + Double(n) * (60 + gap)), end: at(start + Double(n) * (60 + gap) + 60), objective: 5)
            row.commits.add(1)
            row.exposure.add(0, weight: 60_000)
            return row
        }
    }

    @Test("a long outage of the store loses nothing, in fewer rows")
    func joined() {
        var pending = PendingRows()
        for row in rows(2000) { #expect(pending.add([row]) == 0) }
        #expect(pending.rows.count <= PendingRows.comfortable)
        #expect(pending.rows.reduce(0) { $0 + $1.commits.total } == 2000)
        #expect(pending.rows.first?.start == at(0) && pending.rows.last?.end == at(120_000))
        for (a, b) in zip(pending.rows, pending.rows.dropFirst()) { #expect(a.end == b.start) }
    }

    @Test("what was not measured in between is not made up, and the oldest go first")
    func apart() {
        var pending = PendingRows()
        let given = rows(PendingRows.most + 7, gap: 1)
        #expect(pending.add(given) == 7)
        #expect(pending.rows == Array(given.dropFirst(7)))
    }

    @Test("rows are stored in order, none twice, and one failure is told of many")
    func stored() async {
        var pending = PendingRows()
        _ = pending.add(rows(3))
        var stored: [LagRow] = []
        for attempt in 0..<3 {
            let error = await pending.store { row in
                if stored.count == 1 { throw broken }
                stored.append(row)
            }
            #expect((error != nil) == (attempt == 0))
        }
        #expect(stored == Array(rows(1)) && pending.rows.count == 2)
        #expect(await pending.store { stored.append($0) } == nil)
        #expect(stored == rows(3) && pending.rows.isEmpty)
    }
}
