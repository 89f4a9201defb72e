import ArchiveCore
import Foundation
import Planner
import Testing

@testable import Restore
@testable import tidemark

@Suite("tidemark log and window")
struct LogCommandTests {
    private func options(_ words: String...) throws -> TimelineOptions { try TimelineOptions(try Arguments(words, of: logCommand)) }

    private func event(
        _ kind: TimelineEvent.Kind, number: UInt64 = 0, subject: String = "", details: [String] = [], count: Int? = nil, flags: LogEvent.Flags = [],
        branch: UInt32 = 1, isLeft: Bool = false, target: PlanRequest = PlanRequest(target: .transaction(7), exclusive: true)
    ) -> TimelineEvent {
        TimelineEvent(
            kind: kind, source: "main", component: "toy", incarnation: "77-0001", branch: branch, stream: "wal", position: "0/100", time: Moment(rawValue: 2_000_000_000),
            ownTime: Moment(rawValue: 1_000_000_000), offset: branch == 0 ? 1_000_000...3_000_000 : nil, number: number, subject: subject, details: details,
            detailCount: count ?? details.count, flags: flags, isLeft: isLeft, target: target)
    }

    @Test("options are read, and what contradicts itself is refused with a way out")
    func read() throws {
        let given = try options("--since", "2026-11-24T11:00:00Z", "--until", "2026-11-24 13:00:00", "--zone", "Europe/Berlin", "--drops", "--limit", "5", "--source", "a", "--source", "b")
        #expect(given.query.since == Moment("2026-11-24T11:00:00Z") && given.query.until == Moment("2026-11-24T12:00:00Z"))
        #expect(given.query.onlyDrops && !given.query.includesHidden && given.limit == 5 && given.query.sources == ["a", "b"])
        for words in [
            ["--since", "11:00"], ["--since", "2026-11-24T11:00:00"], ["--since", "2026-11-24T11:00:00Z", "--until", "2026-11-24T10:00:00Z"], ["--xid", "2"], ["--xid", "-1"],
            ["--limit", "0"], ["--limit", "x"], ["--limit", "1000000"], ["--xid", "5", "--ref", "main"], ["--xid", "5", "--repository", "a"], ["--drops", "--ref", "main"],
            ["--zone", "UTC"],
        ] {
            let error = #expect(throws: ArchiveError.self) { try TimelineOptions(try Arguments(words, of: logCommand)) }
            #expect(error?.code == .usage, "\(words)")
        }
    }

    @Test("without a beginning it is the last hour, and that is said; a transaction is sought everywhere")
    func period() throws {
        let end = Moment("2026-11-24T13:00:00Z")
        var none = try options()
        #expect(none.complete(end: end)?.contains("the last hour of the archive") == true)
        #expect(none.query.since == Moment("2026-11-24T12:00:00Z"))
        var until = try options("--until", "2026-11-24T10:00:00Z")
        #expect(until.complete(end: end) != nil)
        #expect(until.query.since == Moment("2026-11-24T09:00:00Z"))
        var xid = try options("--xid", "700")
        #expect(xid.complete(end: end) == nil && xid.query.since == nil)
        var empty = try options()
        #expect(empty.complete(end: nil) == nil && empty.query.since == nil)
    }

    @Test("targets are options as restore takes them", arguments: [
        (PlanRequest(target: .transaction(733), exclusive: true), "--to-xid 733 --exclusive"),
        (PlanRequest(target: .position(0x1_0000_0200), exclusive: true, branch: 2), "--to-lsn 1/200 --exclusive --timeline 2"),
        (PlanRequest(target: .time(Moment("2026-11-24T12:00:00.5Z") ?? Moment(rawValue: 0))), "--to-time 2026-11-24T12:00:00.500Z"),
        (PlanRequest(target: .fence("f-1")), "--to-fence f-1"),
    ])
    func targets(_ request: PlanRequest, _ text: String) throws {
        #expect(TargetOptions.options(request) == text)
        let read = try TargetOptions.request(try Arguments(text.split(separator: " ").map(String.init), of: planCommand))
        #expect(read == request)
    }

    @Test("lines say what is gone in capitals, shorten ids, and hold nothing that a terminal obeys")
    func lines() {
        let drop = TimelineLine(event: event(.commit, number: 7, details: ["1663/5/1", "1663/5/2", "1663/5/3", "1663/5/4"], count: 40, flags: .drops))
        #expect(drop.isLoss && drop.text == "DROP: transaction 7 dropped 40 relations: 1663/5/1, 1663/5/2, 1663/5/3 and 37 more")
        let deletion = TimelineLine(event: event(.delete, subject: "a.git", flags: .deleted, branch: 0))
        #expect(deletion.isLoss && deletion.text == "DELETE: repository a.git")
        let id = String(repeating: "0123456789abcdef", count: 3).prefix(40)
        let zero = String(repeating: "0", count: 40)
        let push = TimelineLine(event: event(.push, subject: "a.git", details: ["refs/heads/main \(id)", "refs/heads/old \(zero)", "HEAD refs/heads/main"], branch: 0))
        #expect(!push.isLoss && push.text == "push to a.git: refs/heads/main 0123456789ab, refs/heads/old deleted, HEAD -> refs/heads/main")
        let hostile = TimelineLine(event: event(.restorePoint, subject: "a\u{1B}[2Jb\n"))
        #expect(hostile.text == "restore point 'a\u{FFFD}[2Jb\u{FFFD}'")
        #expect(TimelineLine(event: event(.commit, number: 7, branch: 1, isLeft: true)).text.hasSuffix("(on timeline 1, which was left)"))
    }

    @Test("JSON has the documented fields")
    func json() throws {
        let report = TimelineReport(
            since: "2026-11-24T12:00:00Z", until: nil,
            events: [
                .init(event(.commit, number: 7, details: ["1663/5/1"], flags: .drops)),
                .init(event(.push, subject: "a.git", details: ["r x"], branch: 0, target: PlanRequest(target: .time(Moment(rawValue: 0))))),
            ], more: true, next: "2026-11-24T12:30:00Z")
        let object = try #require(try JSONSerialization.jsonObject(with: JSONEncoder().encode(report)) as? [String: Any])
        #expect(Set(object.keys) == ["since", "events", "more", "next"])
        let events = try #require(object["events"] as? [[String: Any]])
        #expect(Set(events[0].keys) == ["time", "source", "kind", "incarnation", "timeline", "position", "xid", "details", "detailCount", "flags", "left", "target"])
        #expect(events[0]["target"] as? String == "--to-xid 7 --exclusive" && events[0]["flags"] as? [String] == ["drops"] && events[0]["kind"] as? String == "commit")
        #expect(Set(events[1].keys) == ["time", "ownTime", "clockOffset", "source", "kind", "incarnation", "position", "partition", "subject", "details", "detailCount", "flags", "left", "target"])
        #expect(events[1]["ownTime"] as? String == "1970-01-01T00:00:01Z")
    }

    @Test("help names every option and an example")
    func help() {
        for option in ["since TIME", "until TIME", "zone ZONE", "repository PATH", "ref NAME", "xid XID", "drops", "all", "limit N", "json", "source NAME"] {
            #expect(logCommand.help.contains("--\(option) "), "\(option)")
        }
        #expect(logCommand.help.contains("tidemark log --drops --since"))
        #expect(Main.commands.contains { $0.name == "log" } && Main.help.contains("What happened when"))
    }

    @Test("window says what to do where nothing can be restored, and tells holes with their causes")
    func window() {
        func moment(_ s: Int64) -> Moment { Moment(rawValue: s * 1_000_000_000) }
        let incarnation = IncarnationRecord(source: "main", id: "77-0001", kind: "toy", identity: "77", number: 1, created: moment(0), facts: [:], reason: nil)
        let range = moment(10)...moment(20)
        let hole = BranchWindow.Hole(stream: "wal", offset: 100, position: "0/64", last: moment(20), next: nil, cause: "the slot was lost")
        let one = BranchWindow(
            incarnation: incarnation, branch: 1, ranges: [range], anchored: [range], fence: nil, holes: [hole], unusable: [], watermark: moment(30), isNewest: true)
        let gap = GapRecord(stream: "wal", branch: 1, start: 90, end: 200, noticed: moment(25), cause: "the slot was lost")
        let other = GapRecord(stream: "wal", branch: 1, start: 900, end: 2000, noticed: moment(26), cause: "it was stopped")
        let main = WindowResult.Found(name: "main", windows: [one], gaps: [gap, other], isAnchor: true, hasBases: true)
        var storage = one
        storage.ranges = [moment(12)...moment(19)]
        storage.anchored = [moment(13)...moment(18)]
        storage.branch = 0
        storage.holes = []
        let found = [main, WindowResult.Found(name: "default", windows: [storage], gaps: [], isAnchor: false, hasBases: true)]
        let lines = WindowResult.lines(found).joined(separator: "\n")
        #expect(lines.contains("hole: stream wal at 0/64: the slot was lost"))
        #expect(lines.contains("nothing after it can be restored: take a new base"))
        #expect(lines.components(separatedBy: "the slot was lost").count == 2, "the recorded gap is the hole's cause, told once")
        #expect(lines.contains("it was stopped"))
        #expect(lines.contains("'default' by its own clock"))
        let result = WindowResult(found)
        #expect(result.together.intervals.map(\.from) == ["1970-01-01T00:00:13Z"] && result.together.intervals.map(\.to) == ["1970-01-01T00:00:18Z"])
        #expect(result.sources[0].histories[0].holes[0].lastBefore == "1970-01-01T00:00:20Z")
        #expect(result.sources[1].intervals.map(\.from) == ["1970-01-01T00:00:12Z"])
        let bare = WindowResult.Found(name: "new", windows: [], gaps: [], isAnchor: true, hasBases: false)
        #expect(bare.remedy?.contains("tidemark backup --source new") == true)
    }
}
