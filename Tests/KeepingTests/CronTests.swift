import ArchiveCore
import ArchiveTesting
import Foundation
import Testing

@testable import Planner

@Suite("A cron schedule")
struct CronTests {
    private func schedule(_ expression: String, _ zone: String = "UTC") throws -> CronSchedule { try CronSchedule(expression, zone: #require(TimeZone(identifier: zone))) }
    private func moment(_ text: String) throws -> Moment { try #require(Moment(text)) }

    @Test(
        "comes when crontab(5) says",
        arguments: [
            ("0 2 * * *", "UTC", "2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"), ("0 2 * * *", "Europe/Berlin", "2026-11-24T02:00:00Z", "2026-11-25T01:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-11-24T02:00:01Z", "2026-11-24T02:15:00Z"), ("@hourly", "UTC", "2026-11-24T02:59:59.9Z", "2026-11-24T03:00:00Z"),
            ("30 4 1,15 * 5", "UTC", "2026-11-24T00:00:00Z", "2026-11-27T04:30:00Z"), ("30 4 1,15 * 5", "UTC", "2026-11-27T04:30:00Z", "2026-12-01T04:30:00Z"),
            ("0 0 * * 7", "UTC", "2026-11-24T00:00:00Z", "2026-11-29T00:00:00Z"), ("0 0 * * sun", "UTC", "2026-11-24T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 12 29 feb *", "UTC", "2026-11-24T00:00:00Z", "2028-02-29T12:00:00Z"), ("5-7/2 1-3 * JAN-mar *", "UTC", "2026-11-24T00:00:00Z", "2027-01-01T01:05:00Z"),
            // The hour from 2 to 3 is left out on 2026-03-29 in Berlin: it comes at the change.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"), ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
            // It comes twice on 2026-10-25: the first time counts.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"), ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ])
    func next(expression: String, zone: String, after: String, expected: String) throws {
        #expect(try schedule(expression, zone).next(after: moment(after)) == moment(expected))
    }

    @Test("is what a look at every minute finds", arguments: 0..<30)
    func oracle(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        func field(_ range: ClosedRange<Int>) -> String {
            switch Int.random(in: 0...4, using: &random) {
            case 0, 1: return "*"
            case 2: return "*/\(Int.random(in: 1...7, using: &random))"
            case 3: return "\(Int.random(in: range, using: &random)),\(Int.random(in: range, using: &random))"
            default:
                let a = Int.random(in: range, using: &random)
                return "\(a)-\(Int.random(in: a...range.upperBound, using: &random))"
            }
        }
        let expression = [field(0...59), field(0...23), field(1...28), field(1...12), field(0...6)].joined(separator: " ")
        // Without changes of the clocks, but hours and halves of them away.
        let cron = try schedule(expression, ["UTC", "Asia/Kolkata", "America/Phoenix", "Asia/Tokyo"].randomElement(using: &random)!)
        let fields = expression.split(separator: " ").map(String.init)
        func allows(_ field: String, _ value: Int, _ low: Int) -> Bool {
            field.split(separator: ",").contains { item in
                if item == "*" { return true }
                if item.hasPrefix("*/") { return (value - low) % Int(item.dropFirst(2))! == 0 }
                let ends = item.split(separator: "-").compactMap { Int($0) }
                return ends.count == 2 ? (ends[0]...ends[1]).contains(value) : ends[0] == value
            }
        }
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = cron.zone
        let start = Int64.random(in: 1_700_000_000...1_900_000_000, using: &random) / 60 * 60
        var expected: Int64?
        for minute in 1...(60 * 24 * 10) {
            let seconds = start + Int64(minute) * 60
            let parts = calendar.dateComponents([.minute, .hour, .day, .month, .weekday], from: Date(timeIntervalSince1970: Double(seconds)))
            let (day, weekday) = (allows(fields[2], parts.day!, 1), allows(fields[4], parts.weekday! - 1, 0))
            let date = fields[2].hasPrefix("*") || fields[4].hasPrefix("*") ? day && weekday : day || weekday
            if allows(fields[0], parts.minute!, 0), allows(fields[1], parts.hour!, 0), allows(fields[3], parts.month!, 1), date {
                expected = seconds
                break
            }
        }
        let found = cron.next(after: Moment(rawValue: start * 1_000_000_000))
        if let expected {
            #expect(found == Moment(rawValue: expected * 1_000_000_000), "\(expression)")
            #expect(cron.previous(atOrBefore: Moment(rawValue: expected * 1_000_000_000)) == found)
        } else {
            #expect(found.map { $0.rawValue > (start + 10 * 86_400) * 1_000_000_000 } ?? true, "\(expression)")
        }
    }

    @Test("looks back as it looks forward, also over changes of the clocks", arguments: ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
    func bothWays(zone: String) throws {
        let cron = try schedule("*/20 1-3 * * *", zone)
        var time = try moment("2026-01-01T00:00:00Z")
        let end = try moment("2027-01-02T00:00:00Z")
        var last: Moment?
        while time < end {
            let next = try #require(cron.next(after: time))
            #expect(next > time && next - time <= 26 * 3600)
            #expect(cron.previous(atOrBefore: next) == next)
            if let last { #expect(cron.previous(atOrBefore: next.adding(nanoseconds: -1)) == last) }
            last = next
            time = next
        }
    }

    @Test(
        "that is none is refused, with the reason",
        arguments: [
            "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "a * * * *", "*/0 * * * *", "5-3 * * * *", "1,,2 * * * *", "@often", "0 0 31 2 *",
            "-1 * * * *", "1/2/3 * * * *", "99999999999999999999 * * * *", "* * * foo *",
        ])
    func refused(expression: String) throws {
        let error = #expect(throws: CronError.self) { try schedule(expression) }
        #expect(error?.reason.isEmpty == false)
    }

    @Test("is put off by the same part of the jitter each time, and by others for others")
    func jitter() throws {
        let policy = BasePolicy(schedule: try schedule("0 2 * * *"), jitter: 600)
        let time = try moment("2026-11-24T02:00:00Z")
        let delays = (0..<100).map { policy.delay(of: "s\($0)", in: "a", at: time) }
        #expect(delays == (0..<100).map { policy.delay(of: "s\($0)", in: "a", at: time) })
        #expect(delays.allSatisfy { (0..<600).contains($0) })
        #expect((delays.min() ?? 600) < 100 && (delays.max() ?? 0) > 500)
    }
}

@Suite("The decision to take a base")
struct BaseDecisionTests {
    private let start = Moment("2026-11-24T00:00:00Z")!
    private func decision(last: Double?, jitter: Double = 0) throws -> BaseDecision {
        var decision = BaseDecision(
            policy: BasePolicy(schedule: try CronSchedule("0 2 * * *", zone: TimeZone(secondsFromGMT: 0)!), jitter: jitter), source: "main", archive: "a", agentStarted: start)
        decision.lastStarted = last.map { start.adding(seconds: $0) }
        return decision
    }
    private func at(_ hours: Double) -> Moment { start.adding(seconds: hours * 3600) }

    @Test("waits for the schedule, and takes one then")
    func schedule() throws {
        let decision = try decision(last: -3600)
        #expect(decision.verdict(at: at(1)) == .wait(until: at(2)))
        #expect(decision.verdict(at: at(2)) == .take(.schedule))
        #expect(decision.verdict(at: at(9)) == .take(.schedule))
        #expect(try self.decision(last: 2 * 3600 + 5).verdict(at: at(9)) == .wait(until: at(26)))
    }

    @Test("makes up for what was missed while no agent ran, takes the first at once, and answers holes")
    func others() throws {
        #expect(try decision(last: -80 * 3600).verdict(at: at(0.1)) == .take(.catchUp))
        #expect(try decision(last: nil).verdict(at: at(0.1)) == .take(.first))
        var gap = try decision(last: -3600)
        gap.gapNoticed = at(0.5)
        #expect(gap.verdict(at: at(0.6)) == .take(.gap))
        gap.lastStarted = at(0.7)
        #expect(gap.verdict(at: at(0.8)) == .wait(until: at(2)))
        let none = BaseDecision(policy: nil, source: "main", archive: "a", agentStarted: start)
        #expect(none.verdict(at: at(100)) == .wait(until: nil))
    }

    @Test("waits longer after each failure")
    func backoff() throws {
        var decision = try decision(last: -3600)
        decision.lastFailure = at(2)
        for (failures, seconds) in [(1, 60.0), (2, 120), (3, 240), (7, 3600), (500, 3600)] {
            decision.failures = failures
            #expect(decision.verdict(at: at(2).adding(seconds: 30)) == .wait(until: at(2).adding(seconds: seconds)))
            #expect(decision.verdict(at: at(2).adding(seconds: seconds)) == .take(.retry))
        }
    }

    @Test("is late by the jitter only")
    func jitter() throws {
        let decision = try decision(last: -3600, jitter: 1800)
        guard case .wait(let until?) = decision.verdict(at: at(1)) else { return #expect(Bool(false), "nothing was to be waited for") }
        #expect(until >= at(2) && until < at(2.5))
        #expect(decision.verdict(at: until.adding(seconds: -1)) == .wait(until: until))
        #expect(decision.verdict(at: until) == .take(.schedule))
    }

    @Test("calls a base stale when two scheduled ones were not taken")
    func stale() throws {
        #expect(try decision(last: 0).staleSince(at: at(2.5)) == nil)
        #expect(try decision(last: 0).staleSince(at: at(27)) == at(26))
        #expect(try decision(last: 2.1 * 3600).staleSince(at: at(27)) == nil)
        #expect(try decision(last: nil).staleSince(at: at(2.5)) == nil)
        #expect(try decision(last: nil).staleSince(at: at(30)) == at(26))
    }
}
