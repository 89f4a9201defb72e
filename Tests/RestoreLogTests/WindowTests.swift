import ArchiveCore
import Catalog
import Planner
import Restore
import Source
import Testing

@Suite("The window")
struct WindowTests {
    /// Whether a source can be restored to a time, and where its log is then cut.
    private func isRestorable(_ archive: Archive, _ source: String, _ time: Moment, branch: UInt32? = nil) async throws -> Bool {
        do {
            _ = try await archive.loader.plan(source: source, rule: .time(time, exclusive: false), branch: branch)
            return true
        } catch let error as ArchiveError where error.code == .targetUnreachable { return false }
    }

    private func seconds(_ ranges: [ClosedRange<Moment>]) -> [[Double]] { ranges.map { [$0.lowerBound - at(0), $0.upperBound - at(0)] } }

    @Test("a hole ends one interval, the next base begins another; its cause and both its sides are told")
    func hole() async throws {
        let archive = try await Archive()
        for n in [1, 2, 3, 5, 6, 7] as [UInt64] { try await archive.segment(n, [commit(n, 200, at(Double(n) * 10), n + 3)]) }
        try await archive.base(12, segment: 1)
        // Inside of what the first one reaches.
        try await archive.base(22, segment: 2)
        try await archive.base(61, segment: 6)
        try await archive.catalog.record(
            GapRecord(stream: "wal", branch: 1, start: 4 * Archive.size, end: 5 * Archive.size, noticed: at(55), cause: "the slot was lost"), of: archive.main)
        try await archive.watermark(90, of: archive.main)
        let window = try #require(try await archive.loader.windows(of: "main").first)
        #expect(seconds(window.ranges) == [[12, 30], [61, 90]])
        #expect(window.anchored == window.ranges && window.isNewest && window.unusable.isEmpty)
        #expect(window.holes.map(\.position) == ["0/400000"])
        #expect(window.holes[0].last == at(30) && window.holes[0].next == at(61) && window.holes[0].cause == "the slot was lost")
        for (time, isIn) in [(11.0, false), (12, true), (30, true), (31, false), (60, false), (61, true), (90, true), (91, false)] {
            #expect(try await isRestorable(archive, "main", at(time)) == isIn, "\(time)")
        }
    }

    @Test("bases inside of an interval cost no further pass over the chapters")
    func onePass() async throws {
        let archive = try await Archive()
        for n in 1...1100 as ClosedRange<UInt64> { try await archive.segment(n, [commit(n, 200, at(Double(n)), n + 3)]) }
        for n in stride(from: 10, to: 1000, by: 100) as StrideTo<UInt64> { try await archive.base(Double(n) + 0.5, segment: n) }
        await archive.store.forget()
        #expect(seconds(try await archive.loader.windows(of: "main")[0].ranges) == [[10.5, 1100]])
        #expect(await archive.store.reads["chapters"] == 2)
    }

    @Test("a base whose own log is not all archived yields nothing, and is named")
    func notArchived() async throws {
        let archive = try await Archive()
        try await archive.segment(1, [commit(1, 200, at(10), 4)])
        try await archive.base(12, segment: 1, length: 3 * Archive.size)
        try await archive.watermark(90, of: archive.main)
        let window = try await archive.loader.windows(of: "main")[0]
        #expect(window.ranges.isEmpty && window.unusable.count == 1 && window.holes.isEmpty)
        for n in 2...3 as ClosedRange<UInt64> { try await archive.segment(n, []) }
        #expect(seconds(try await archive.loader.windows(of: "main")[0].ranges) == [[12, 90]])
    }

    @Test("each timeline has its own, and a segment that a timeline's end cuts lends nothing of what was left")
    func timelines() async throws {
        let archive = try await Archive()
        let fork = 2 * Archive.size + 300
        try await archive.base(12, segment: 1)
        try await archive.segment(1, [commit(1, 200, at(10), 3)])
        try await archive.segment(2, [commit(2, 200, at(20), 4), commit(2, 400, at(70), 5)])
        try await archive.catalog.record(BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: fork)], file: [], fileName: ""), of: archive.main)
        // Nothing of the new one yet: the abandoned commit at 70 is not on the way to it.
        let early = try await archive.loader.windows(of: "main")
        #expect(early.map(\.branch) == [1, 2])
        #expect(seconds(early[0].ranges) == [[12, 70]] && !early[0].isNewest)
        #expect(early[1].ranges.isEmpty)
        try await archive.segment(2, timeline: 2, [commit(2, 200, at(20), 4), commit(2, 500, at(80), 5)])
        try await archive.watermark(100, of: archive.main)
        let late = try await archive.loader.windows(of: "main")
        #expect(seconds(late[0].ranges) == [[12, 70]])
        #expect(seconds(late[1].ranges) == [[12, 100]] && late[1].isNewest)
        // A base on the new timeline serves that one alone.
        try await archive.base(95, segment: 2, timeline: 2)
        #expect(seconds(try await archive.loader.windows(of: "main")[0].ranges) == [[12, 70]])
    }

    @Test("a partition that no base knows belongs to it from its first entry; without that nothing can be restored")
    func laterStreams() async throws {
        let archive = try await Archive()
        try await archive.base(10, of: archive.storage, [LogSpan(stream: "2", branch: 0, start: 1, end: 1)], first: nil, timeline: 0)
        try await archive.pack([("2", entry(1, at(20), "a.git"))])
        try await archive.pack([("3", entry(1, at(30), "b.git"))])
        try await archive.watermark(50, of: archive.storage)
        #expect(seconds(try await archive.loader.windows(of: "default")[0].ranges) == [[10, 50]])
        try await archive.pack([("4", entry(5, at(40), "c.git"))])
        let window = try await archive.loader.windows(of: "default")[0]
        #expect(window.ranges.isEmpty)
        #expect(window.holes.map(\.stream) == ["4"] && window.holes[0].last == nil)
        for time in [25.0, 39, 40, 50] { #expect(try await !isRestorable(archive, "default", at(time))) }
    }

    @Test("a storage's times are moved inwards by what its first and its last fence say about the clocks")
    func fences() async throws {
        let archive = try await Archive()
        func fence(_ n: Int, _ asked: Double, _ low: Double, _ high: Double) -> FenceRecord {
            FenceRecord(
                id: "f\(n)", anchor: "main", anchorIdentity: "77", branch: 1, position: UInt64(n) * 1000, anchorTime: at(asked + high), asked: at(asked),
                answered: at(asked + high - low))
        }
        try await archive.base(10, of: archive.storage, [], first: nil, timeline: 0)
        try await archive.pack([("2", entry(1, at(20), "a.git"))], fences: [fence(1, 20.5, 100, 101)])
        try await archive.pack([("2", entry(2, at(30), "a.git"))], fences: [fence(2, 30.5, 102, 102.5)])
        try await archive.watermark(50, of: archive.storage)
        let window = try await archive.loader.windows(of: "default")[0]
        #expect(seconds(window.ranges) == [[10, 50]])
        #expect(seconds(window.anchored) == [[111, 152]])
        #expect(window.fence?.id == "f2")
    }

    @Test("whatever the window holds the planner plans", arguments: 1...12 as ClosedRange<UInt64>)
    func planned(_ seed: UInt64) async throws {
        var dice = RestoreLogTests.dice(seed)
        let archive = try await Archive()
        var time = 0.0
        func tick() -> Double {
            time += Double.random(in: 0.1...3, using: &dice)
            return time
        }
        var next: [String: UInt64] = [:]
        for n in 1...24 as ClosedRange<UInt64> {
            var events: [LogEvent] = []
            for i in 0..<UInt64.random(in: 0...2, using: &dice) { events.append(commit(n, 200 + i * 100, at(tick()), n * 8 + i + 3)) }
            if Int.random(in: 0..<10, using: &dice) > 0 { try await archive.segment(n, events) }
            var entries: [(partition: String, event: LogEvent)] = []
            for _ in 0..<Int.random(in: 0...3, using: &dice) {
                let partition = String(Int.random(in: 2...4, using: &dice))
                if Int.random(in: 0..<25, using: &dice) == 0 { next[partition] = next[partition, default: 1] + 1 }
                let lsn = next[partition, default: 1]
                next[partition] = lsn + 1
                entries.append((partition, entry(lsn, at(tick()), "r.git")))
            }
            if !entries.isEmpty { try await archive.pack(entries) }
            if n % 6 == 1 {
                try await archive.base(tick(), segment: n)
                let spans = next.map { LogSpan(stream: $0.key, branch: 0, start: $0.value, end: $0.value) }
                try await archive.base(tick(), of: archive.storage, spans, first: nil, timeline: 0)
            }
        }
        if Bool.random(using: &dice) { try await archive.watermark(time + 5, of: archive.main) }
        try await archive.watermark(time + 5, of: archive.storage)
        for source in ["main", "default"] {
            let ranges = try await archive.loader.windows(of: source)[0].ranges
            for range in ranges {
                for time in [range.lowerBound, range.upperBound, range.lowerBound.adding(nanoseconds: (range.upperBound.rawValue - range.lowerBound.rawValue) / 2)] {
                    #expect(try await isRestorable(archive, source, time), "\(source) at \(time - at(0)) of \(seconds(ranges))")
                }
            }
            // And of a database's log it leaves nothing out.
            guard source == "main" else { continue }
            for _ in 0..<10 {
                let time = at(Double.random(in: 0...time + 6, using: &dice))
                #expect(try await isRestorable(archive, source, time) == ranges.contains { $0.contains(time) }, "\(source) at \(time - at(0)) of \(seconds(ranges))")
            }
        }
    }
}
