import ArchiveCore
import ArchiveTesting
import Catalog
import Planner
import Restore
import Source
import Testing

@Suite("The timeline")
struct TimelineTests {
    private let both = ["main", "default"]
    private let zero = String(repeating: "0", count: 40)
    private let id = String(repeating: "a", count: 40)

    @Test("commits, drops, restore points, pushes, repositories made and deleted stand in one order, each with the target just before it")
    func merged() async throws {
        let archive = try await Archive()
        try await archive.segment(1, [
            commit(1, 200, at(10), 731), commit(1, 300, at(12), 732, drops: 40), restorePoint(1, 400, at(14), "before lunch"),
            commit(1, 500, at(15), 733, kind: .abort), commit(1, 600, at(16), 734, kind: .prepare),
        ])
        try await archive.pack([
            ("2", entry(1, at(11), "a.git", ["refs/heads/main \(id)"], flags: .created)), ("2", entry(2, at(13), "a.git", ["refs/heads/main \(id)"])),
            ("3", entry(7, at(10.5), "b.git", flags: .housekeeping)), ("3", entry(8, at(12.5), "b.git", flags: .deleted)), ("3", entry(9, at(17), "", flags: .empty)),
        ])
        let events = try await archive.events(TimelineQuery(sources: both))
        #expect(events.map(\.kind) == [.commit, .create, .commit, .delete, .push, .restorePoint, .prepare])
        #expect(events.map(\.time) == [10, 11, 12, 12.5, 13, 14, 16].map(at))
        let drop = events[2]
        #expect(drop.detailCount == 40 && drop.details.count == 32 && drop.details[0] == "1663/5/16384" && drop.flags.contains(.drops))
        #expect(drop.target == PlanRequest(target: .transaction(732), exclusive: true))
        #expect(events[3].target == PlanRequest(target: .time(at(12.5).adding(nanoseconds: -1000))))
        #expect(events[3].subject == "b.git" && events[3].stream == "3" && events[3].position == "0000000000008")
        #expect(events[5].target == PlanRequest(target: .position(Archive.size + 400), exclusive: true))
        #expect(events[6].target == PlanRequest(target: .position(Archive.size + 600), exclusive: true))
        #expect(events.allSatisfy { !$0.isLeft && $0.offset == nil })

        var all = TimelineQuery(sources: both)
        all.includesHidden = true
        #expect(try await archive.events(all).map(\.kind) == [.commit, .housekeeping, .create, .commit, .delete, .push, .restorePoint, .abort, .prepare, .entry])
        #expect(try await archive.events(TimelineQuery(sources: ["default"])).map(\.kind) == [.create, .delete, .push])
        #expect(try await archive.loader.endOfArchive(of: both) == at(17))
        try await archive.watermark(50, of: archive.main)
        #expect(try await archive.loader.endOfArchive(of: both) == at(50))
        let unknown = await #expect(throws: ArchiveError.self) { try await archive.events(TimelineQuery(sources: ["other"])) }
        #expect(unknown?.code == .targetUnreachable)
    }

    @Test("filters leave what was asked for, and both ends of the period are in it")
    func filters() async throws {
        let archive = try await Archive()
        try await archive.segment(1, [commit(1, 200, at(10), 731), commit(1, 300, at(12), 732, drops: 2), commit(1, 400, at(13), 731, kind: .abort)])
        let many = (0..<50).map { "refs/heads/b\($0) \(id)" }
        try await archive.pack([
            ("2", entry(1, at(11), "@hashed/aa/bb/one.git", many + ["refs/tags/v1 \(id)"])), ("2", entry(2, at(12), "@hashed/aa/cc/two.git", ["refs/heads/main \(zero)"])),
            ("3", entry(1, at(13), "@hashed/aa/bb/one.git", flags: .deleted)), ("3", entry(2, at(14), "@hashed/aab/x.git", ["refs/heads/feature/main \(id)"])),
        ])
        func found(_ change: (inout TimelineQuery) -> Void) async throws -> [String] {
            var query = TimelineQuery(sources: both)
            change(&query)
            return try await archive.events(query).map { "\($0.kind.rawValue) \($0.stream)/\($0.number)/\($0.time - at(0))" }
        }
        #expect(try await found { $0.onlyDrops = true } == ["commit wal/732/12.0", "delete 3/0/13.0"])
        #expect(try await found { $0.transaction = 731 } == ["commit wal/731/10.0", "abort wal/731/13.0"])
        #expect(try await found { $0.repository = NamePattern("@hashed/aa") } == ["push 2/0/11.0", "push 2/0/12.0", "delete 3/0/13.0"])
        #expect(try await found { $0.repository = NamePattern("@hashed/aa/bb/one") }.count == 2)
        #expect(try await found { $0.repository = NamePattern("*/one.git") }.count == 2)
        #expect(try await found { $0.repository = NamePattern("*x.gi?"); $0.onlyDrops = true } == [])
        #expect(try await found { $0.reference = NamePattern("main") } == ["push 2/0/12.0", "push 3/0/14.0"])
        #expect(try await found { $0.reference = NamePattern("refs/heads/main") } == ["push 2/0/12.0"])
        #expect(try await found { $0.reference = NamePattern("refs/*/v?") } == ["push 2/0/11.0"])
        #expect(try await found { $0.since = at(12); $0.until = at(13) } == ["commit wal/732/12.0", "push 2/0/12.0", "delete 3/0/13.0"])
        #expect(try await found { $0.since = at(14.5) } == [])
        // What was asked for comes first among many details, and the rest is counted.
        var query = TimelineQuery(sources: both)
        query.reference = NamePattern("refs/tags/*")
        let push = try await archive.events(query)[0]
        #expect(push.details.first == "refs/tags/v1 \(id)" && push.details.count == 32 && push.detailCount == 51)
    }

    @Test("patterns", arguments: [
        ("a", "a", true), ("a", "ab", false), ("*", "", true), ("a*c", "abc", true), ("a*c", "ac", true), ("a*c", "acb", false), ("a*b*c", "aXbYbZc", true),
        ("?", "", false), ("?b", "ab", true), ("**a", "ba", true), ("*a*a*a*a*b", String(repeating: "a", count: 200), false), ("refs/heads/*", "refs/heads/x/y", true),
    ])
    func pattern(_ pattern: String, _ text: String, _ fits: Bool) { #expect(NamePattern(pattern).matches(text) == fits) }

    /// What a log holds, written down beside the archive.
    private struct Written {
        var stream: String
        var event: LogEvent
    }

    /// 560 segments and packs, a chapter and some of each, written while clocks go wrong now and then.
    private func world(_ dice: inout SeededRandom, damaged: Bool) async throws -> (archive: Archive, written: [Written]) {
        let archive = try await Archive()
        var written: [Written] = []
        var time = 0.0
        func tick(_ dice: inout SeededRandom) -> Moment {
            time += Double.random(in: 0.001...2, using: &dice)
            return at(damaged && Int.random(in: 0..<40, using: &dice) == 0 ? time + Double.random(in: -3000...3000, using: &dice) : time)
        }
        var next: [String: UInt64] = [:]
        for n in 0..<560 as Range<UInt64> {
            var events: [LogEvent] = []
            for i in 0..<UInt64.random(in: 0...3, using: &dice) {
                let moment = tick(&dice)
                let event =
                    switch Int.random(in: 0..<10, using: &dice) {
                    case 0: commit(n, i * 100, moment, n * 8 + i + 3, kind: .abort)
                    case 1: restorePoint(n, i * 100, moment, "p\(n)")
                    case 2: commit(n, i * 100, moment, n * 8 + i + 3, drops: 1)
                    default: commit(n, i * 100, moment, n * 8 + i + 3)
                    }
                events.append(event)
                written.append(Written(stream: "wal", event: event))
            }
            try await archive.segment(n, events)
            var entries: [(partition: String, event: LogEvent)] = []
            for _ in 0..<Int.random(in: 1...3, using: &dice) {
                let partition = String(Int.random(in: 2...5, using: &dice))
                let lsn = next[partition, default: 1]
                next[partition] = lsn + 1
                let deletes = Int.random(in: 0..<20, using: &dice) == 0
                let event = entry(lsn, tick(&dice), "r\(partition).git", deletes ? [] : ["refs/heads/b\(lsn % 7) \(id)"], flags: deletes ? .deleted : [])
                entries.append((partition, event))
                written.append(Written(stream: partition, event: event))
            }
            try await archive.pack(entries)
        }
        return (archive, written)
    }

    @Test("nothing of a period is missed and nothing else is shown, across chapters, whatever the clocks did", arguments: [1, 2] as [UInt64], [false, true])
    func complete(_ seed: UInt64, _ damaged: Bool) async throws {
        var dice = RestoreLogTests.dice(seed)
        let (archive, written) = try await world(&dice, damaged: damaged)
        let chapters = try await archive.catalog.chapters(of: archive.main, branch: 1)
        #expect(chapters.count == 1)
        #expect(try await archive.catalog.chapters(of: archive.storage, branch: 0).count == 1)
        let end = written.map(\.event.time).max() ?? at(0)
        for _ in 0..<8 {
            let a = Double.random(in: -100...(end - at(0)) + 100, using: &dice)
            let b = a + Double.random(in: 0...400, using: &dice)
            var query = TimelineQuery(sources: both, since: at(a), until: at(b))
            let filter = Int.random(in: 0..<5, using: &dice)
            if filter == 1 { query.onlyDrops = true }
            if filter == 2 { query.repository = NamePattern("r3.git") }
            if filter == 3 { query.reference = NamePattern("b1") }
            if filter == 4 { query.includesHidden = true }
            func isWanted(_ w: Written) -> Bool {
                let e = w.event
                guard e.time >= at(a), e.time <= at(b) else { return false }
                return switch filter {
                case 1: e.flags.contains(.drops) || e.flags.contains(.deleted)
                case 2: w.stream == "3"
                case 3: e.details.first?.hasPrefix("refs/heads/b1 ") ?? false
                case 4: true
                default: e.kind != .abort
                }
            }
            let found = try await archive.events(query)
            let expected = written.filter(isWanted)
            #expect(found.count == expected.count)
            for stream in ["wal", "2", "3", "4", "5"] {
                // Within one log in its order.
                #expect(found.filter { $0.stream == stream }.map(\.ownTime) == expected.filter { $0.stream == stream }.map(\.event.time))
            }
            if !damaged { #expect(found.map(\.time) == found.map(\.time).sorted()) }
        }
    }

    @Test("chapters outside of the period and indexes that hold nothing wanted are not read")
    func cheap() async throws {
        let archive = try await Archive()
        for n in 0..<1400 as Range<UInt64> {
            try await archive.segment(n, [commit(n, 100, at(Double(n)), n + 3, drops: n == 700 ? 1 : 0)])
        }
        await archive.store.forget()
        var query = TimelineQuery(sources: ["main"], since: at(520), until: at(1000))
        query.onlyDrops = true
        #expect(try await archive.events(query).map(\.number) == [703])
        // One chapter, one index of it, and those from the last piece of the last chapter on.
        let reads = await archive.store.reads
        #expect(reads["chapters"] == 1)
        #expect(reads["indexes"] == 1 + 1400 - 1023)
    }

    @Test("packs that overlap in time are put in order, while each partition keeps its own")
    func overlapping() async throws {
        let archive = try await Archive()
        // A backlog: all of one partition, then all of the other.
        try await archive.pack((1...5 as ClosedRange<UInt64>).map { ("2", entry($0, at(Double($0) * 10), "a.git", ["r x"])) })
        try await archive.pack([("3", entry(1, at(5), "b.git", ["r x"])), ("3", entry(2, at(35), "b.git", ["r x"])), ("2", entry(6, at(1), "a.git", ["r x"]))])
        let events = try await archive.events(TimelineQuery(sources: ["default"]))
        #expect(events.map { "\($0.stream)/\($0.position.suffix(1))" } == ["3/1", "2/1", "2/2", "2/3", "3/2", "2/4", "2/5", "2/6"])
    }

    @Test("a tail that its closed segment replaces while it is read loses nothing and doubles nothing")
    func tail() async throws {
        let archive = try await Archive()
        let start = 2 * Archive.size
        let events = [commit(2, 0, at(20), 5), commit(2, 100, at(21), 6), commit(2, 200, at(22), 7)]
        try await archive.segment(1, [commit(1, 0, at(10), 3)])
        let tail = try await archive.segment(2, Array(events.prefix(2)), part: start..<start + 150)
        var timeline = try await archive.loader.timeline(TimelineQuery(sources: ["main"]))
        #expect(try await timeline.next()?.number == 3)
        #expect(try await timeline.next()?.number == 5)
        var slow = try await archive.loader.timeline(TimelineQuery(sources: ["main"], since: at(15)))
        try await archive.segment(2, events)
        try await archive.catalog.remove(tail, of: archive.main)
        #expect(try await timeline.next()?.number == 6)
        #expect(try await timeline.next() == nil)
        var numbers: [UInt64] = []
        while let event = try await slow.next() { numbers.append(event.number) }
        #expect(numbers == [5, 6, 7])
    }

    @Test("a timeline that was left keeps its events, the copy at the beginning of the next one does not show twice")
    func branches() async throws {
        let archive = try await Archive()
        let fork = Archive.size + 350
        try await archive.base(5, segment: 1)
        try await archive.segment(1, [commit(1, 200, at(10), 11), commit(1, 300, at(11), 12), commit(1, 400, at(12), 13, drops: 1)])
        try await archive.segment(1, timeline: 2, [commit(1, 200, at(10), 11), commit(1, 300, at(11), 12), commit(1, 450, at(30), 13)])
        try await archive.catalog.record(BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: fork)], file: [], fileName: ""), of: archive.main)
        let events = try await archive.events(TimelineQuery(sources: ["main"]))
        #expect(events.map { "\($0.branch)/\($0.number)/\($0.isLeft)" } == ["1/11/false", "1/12/false", "1/13/true", "2/13/false"])
        #expect(events[1].target == PlanRequest(target: .transaction(12), exclusive: true))
        #expect(events[2].target == PlanRequest(target: .transaction(13), exclusive: true, branch: 1))
        let cuts: [(end: UInt64, branch: UInt32)] = [(240, 2), (340, 1), (340, 2)]
        for (event, cut) in zip(events.dropFirst(), cuts) {
            let plan = try await archive.loader.plan(event.target, sources: ["main"]).plans[0]
            #expect(plan.cuts[0].end == Archive.size + cut.end)
            #expect(plan.branch == cut.branch)
        }
    }

    @Test("an earlier incarnation is shown as such, and its targets are times")
    func incarnations() async throws {
        let archive = try await Archive()
        var newer = archive.main
        newer.id = "77-0002"
        newer.number = 2
        newer.created = at(50)
        try await archive.catalog.record(newer)
        try await archive.segment(1, [commit(1, 100, at(10), 7)])
        try await archive.segment(1, [commit(1, 100, at(60), 7)], of: newer)
        let events = try await archive.events(TimelineQuery(sources: ["main"]))
        #expect(events.map(\.incarnation) == ["77-0001", "77-0002"])
        #expect(events.map(\.isLeft) == [true, false])
        #expect(events[0].target == PlanRequest(target: .time(at(10).adding(nanoseconds: -1000))))
        #expect(events[1].target == PlanRequest(target: .transaction(7), exclusive: true))
    }

    // MARK: Clocks

    private func fence(_ n: Int, _ asked: Moment, _ position: UInt64, low: Double, high: Double) -> FenceRecord {
        // The anchor's clock is `low` ahead of the answer and `high` ahead of the question.
        let answered = asked.adding(nanoseconds: Int64((high - low) * 1e9))
        return FenceRecord(
            id: "f\(n)", anchor: "main", anchorIdentity: "77", branch: 1, position: position, anchorTime: asked.adding(nanoseconds: Int64(high * 1e9)), asked: asked,
            answered: answered)
    }

    @Test("entries stand where the nearest fence puts them, fences are listed, and the period is by the corrected time")
    func corrected() async throws {
        let archive = try await Archive()
        try await archive.segment(1, [commit(1, 100, at(1000), 7), commit(1, 200, at(1010), 8)])
        // The storage's clock is about 1000 s behind; later 1100 s.
        try await archive.pack([("2", entry(1, at(5), "a.git", ["r x"]))], fences: [fence(1, at(5.2), Archive.size + 150, low: 999.9, high: 1000.1)])
        try await archive.pack([("2", entry(2, at(5.5), "a.git", ["r x"])), ("2", entry(3, at(20), "a.git", ["r x"]))], fences: [fence(2, at(20.2), Archive.size + 300, low: 1100, high: 1100.2)])
        var query = TimelineQuery(sources: both)
        query.includesHidden = true
        let events = try await archive.events(query)
        #expect(events.map(\.kind) == [.commit, .push, .fence, .push, .commit, .push, .fence])
        #expect(events.filter { $0.kind == .push }.map { ($0.time - at(0)).rounded() } == [1005, 1006, 1120])
        #expect(events.filter { $0.kind == .push }.map { $0.ownTime - at(0) } == [5, 5.5, 20])
        #expect(events[2].target == PlanRequest(target: .fence("f1")) && events[2].position == "0/100096")
        // The lowest difference that the fences around it allow: then it is out whatever the clocks showed.
        #expect(events[3].target == PlanRequest(target: .time(at(5.5).adding(nanoseconds: 999_900_000_000 - 1000))))
        #expect(events[3].offset == 999_900_000_000...1_100_200_000_000)
        let period = try await archive.events(TimelineQuery(sources: both, since: at(1004), until: at(1005.4)))
        #expect(period.map(\.ownTime) == [at(5)])
    }

    @Test("every target is just before its event: the event is out, what came before it in its log is in", arguments: 1...6 as ClosedRange<UInt64>)
    func targets(_ seed: UInt64) async throws {
        var dice = RestoreLogTests.dice(seed)
        let archive = try await Archive()
        let skew = Double.random(in: -50...50, using: &dice)
        try await archive.base(1, segment: 1)
        try await archive.base(-100, of: archive.storage, [], first: nil, timeline: 0)
        var time = 200.0
        func tick(_ dice: inout SeededRandom) -> Double {
            time += Double.random(in: 0.01...0.5, using: &dice)
            return time
        }
        var next: [String: UInt64] = [:]
        var fences = 0
        for n in 1...30 as ClosedRange<UInt64> {
            var events: [LogEvent] = []
            for i in 1...UInt64.random(in: 1...3, using: &dice) { events.append(commit(n, i * 200, at(tick(&dice)), n * 10 + i, drops: i == 2 ? 1 : 0)) }
            var entries: [(partition: String, event: LogEvent)] = []
            for _ in 0..<Int.random(in: 1...4, using: &dice) {
                let partition = String(Int.random(in: 2...4, using: &dice))
                let lsn = next[partition, default: 1]
                next[partition] = lsn + 1
                let deletes = Int.random(in: 0..<5, using: &dice) == 0
                entries.append((partition, entry(lsn, at(tick(&dice) - skew), "r.git", deletes ? [] : ["refs/heads/x \(id)"], flags: deletes ? .deleted : [])))
            }
            var made: [FenceRecord] = []
            if Bool.random(using: &dice) {
                fences += 1
                let asked = tick(&dice)
                let before = Double.random(in: 0.001...0.05, using: &dice)
                let after = Double.random(in: 0.001...0.05, using: &dice)
                let position = n * Archive.size + 1000
                made.append(
                    FenceRecord(
                        id: "f\(fences)", anchor: "main", anchorIdentity: "77", branch: 1, position: position, anchorTime: at(asked + before), asked: at(asked - skew),
                        answered: at(asked + before + after - skew)))
                time = asked + before + after
                // Some markers were lost by a crash.
                if Int.random(in: 0..<4, using: &dice) > 0 {
                    events.append(LogEvent(span: 0, start: position - 60, end: position, time: Moment(rawValue: 0), kind: .fence, subject: "f\(fences)"))
                }
            }
            try await archive.segment(n, events)
            try await archive.pack(entries, fences: made)
        }
        try await archive.watermark(time + 100, of: archive.main)
        try await archive.watermark(time + 100 - skew, of: archive.storage)
        let timeline = try await archive.events(TimelineQuery(sources: both))
        #expect(timeline.count > 60)
        for event in timeline where Int.random(in: 0..<2, using: &dice) == 0 {
            let plan = try await archive.loader.plan(event.target, sources: both)
            let cut = plan.plans.first { $0.source == event.source }?.cuts.first { $0.stream == event.stream }
            let lsn = event.source == "main" ? LSN(event.position)?.rawValue : PartitionLSN(event.position)?.rawValue
            #expect(
                cut.map { $0.end <= lsn ?? 0 } ?? true,
                "\(event.kind) \(event.stream)/\(event.position) of \(event.time - at(0)), by its own clock \(event.ownTime - at(0)), is in: \(String(describing: cut))")
            if event.source == "main" {
                let previous = timeline.last { $0.source == "main" && $0.time < event.time }
                #expect(previous.flatMap { LSN($0.position)?.rawValue } ?? 0 < cut?.end ?? 0)
            }
        }
    }
}
