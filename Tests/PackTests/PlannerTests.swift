import ArchiveCore
import Planner
import Testing

/// A log in memory, and the answers to what a plan asks about it.
struct LogInMemory {
    var view: LogView
    var indexes: [PieceName: PieceIndex]
    /// Fences whose markers are in the anchor's log.
    var markers: Set<String> = []

    init(
        _ pieces: [(name: PieceName, index: PieceIndex)], branches: [BranchRecord] = [], watermark: Int64? = nil, kind: String = "toy",
        streamsMayBeginEmpty: Bool = false, firstOffset: UInt64 = 0
    ) {
        let last = pieces.map(\.name.branch).max() ?? 0
        view = LogView(
            source: "main",
            incarnation: IncarnationRecord(
                source: "main", id: "77-0001", kind: kind, identity: "77", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil),
            path: BranchPath(from: pieces.first?.name.branch ?? 0, to: last, by: branches)!, pieces: pieces.map { PieceSummary($0.name, $0.index) },
            isComplete: true, branches: branches, gaps: [], watermark: watermark.map(Moment.init(rawValue:)),
            streamsMayBeginEmpty: streamsMayBeginEmpty, firstOffset: firstOffset)
        indexes = Dictionary(uniqueKeysWithValues: pieces.map { ($0.name, $0.index) })
    }

    func plan(_ rule: CutRule, base: BaseRecord, windows: [LogSpan]) throws -> SourcePlan {
        var details = PlanDetails()
        while true {
            switch try Planner.plan(base: base, windows: windows, view: view, rule: rule, details: details) {
            case .plan(let plan): return plan
            case .needsEvents(let names):
                for name in names {
                    // Nothing is asked twice, or the planning would not end.
                    try #require(details.events[name] == nil)
                    let index = try #require(indexes[name])
                    details.events[name] = (index.events, index.spans.map(\.stream))
                }
            case .needsConfirmation(let fences):
                for fence in fences {
                    try #require(details.confirmed[fence.id] == nil)
                    details.confirmed[fence.id] = markers.contains(fence.id)
                }
            }
        }
    }

    func refusal(_ rule: CutRule, base: BaseRecord, windows: [LogSpan]) throws -> PlanRefusal? {
        do {
            _ = try plan(rule, base: base, windows: windows)
            return nil
        } catch let refusal as PlanRefusal { return refusal }
    }
}

func toyIndex(_ spans: [LogSpan], _ events: [LogEvent], fences: [FenceRecord] = []) -> PieceIndex {
    PieceIndex(spans: spans, events: events, frames: [], storedLength: 1, storedSHA256: [UInt8](repeating: 0, count: 32), fences: fences)
}

func toyBase(completed: Int64 = 10, branch: UInt32 = 1) -> BaseRecord {
    BaseRecord(
        id: "b", source: "main", incarnation: "77-0001", kind: "toy", started: Moment(rawValue: 1), completed: Moment(rawValue: completed),
        firstPiece: nil, branch: branch, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:])
}

extension CutRule {
    static func at(_ time: Int64, exclusive: Bool = false) -> CutRule { .time(Moment(rawValue: time), exclusive: exclusive) }
}

@Suite("The planner")
struct PlannerTests {
    /// One piece of ten offsets for each group of commit times; commits lie two offsets apart.
    private func log(
        _ groups: [[Int64]], branch: UInt32 = 1, watermark: Int64? = nil, without hole: Int? = nil, kinds: [Int64: LogEvent.Kind] = [:]
    ) -> [(name: PieceName, index: PieceIndex)] {
        groups.enumerated().filter { $0.offset != hole }.map { n, times in
            let start = UInt64(n * 10)
            let events = times.enumerated().map { i, t in
                LogEvent(
                    span: 0, start: start + UInt64(2 * i), end: start + UInt64(2 * i) + 2, time: Moment(rawValue: t), kind: kinds[t] ?? .commit)
            }
            return (
                PieceName(branch: branch, name: hex(UInt64(n), 16)),
                toyIndex([LogSpan(stream: "s", branch: branch, start: start, end: start + 10, lastRecord: start + 8)], events)
            )
        }
    }

    private let window = [LogSpan(stream: "s", branch: 1, start: 0, end: 4)]

    @Test("stops before the first commit that is later, even when clocks ran backwards afterwards", arguments: [
        (10, nil), (19, nil), (20, 4), (29, 4), (30, 12), (39, 12), (40, 14),
    ] as [(Int64, UInt64?)])
    func cut(_ time: Int64, _ through: UInt64?) throws {
        // Commits at offsets 0, 2, 4 | 10, 12, 14; the one at 12 carries an earlier time than its predecessor.
        let plan = try LogInMemory(log([[1, 2, 20], [30, 25, 40]])).plan(.at(time), base: toyBase(), windows: window)
        #expect(plan.cuts.first?.through == through)
    }

    @Test("leaves the target itself out when asked to", arguments: [(20, nil), (21, 4), (30, 4), (31, 12), (40, 12)] as [(Int64, UInt64?)])
    func exclusive(_ time: Int64, _ through: UInt64?) throws {
        let plan = try LogInMemory(log([[1, 2, 20], [30, 25, 40]])).plan(.at(time, exclusive: true), base: toyBase(), windows: window)
        #expect(plan.cuts.first?.through == through)
    }

    @Test("cuts at a position: after the record that begins there, or before it", arguments: [
        (4, false, 4), (4, true, nil), (5, true, 4), (9, false, 4), (10, true, 4), (10, false, 10), (12, false, 12), (13, false, 12), (19, false, 14), (20, true, 14),
    ] as [(UInt64, Bool, UInt64?)])
    func position(_ position: UInt64, _ exclusive: Bool, _ through: UInt64?) throws {
        let plan = try LogInMemory(log([[1, 2, 20], [30, 25, 40]])).plan(.position(position, exclusive: exclusive), base: toyBase(), windows: window)
        #expect(plan.cuts.first?.through == through)
    }

    @Test("refuses positions before the base, beyond the end and in a hole")
    func positionRefusals() throws {
        let whole = LogInMemory(log([[1, 2, 20], [30, 25, 40]]))
        func kind(_ log: LogInMemory, _ position: UInt64, exclusive: Bool = false) throws -> PlanRefusal.Kind? {
            try log.refusal(.position(position, exclusive: exclusive), base: toyBase(), windows: window)?.kind
        }
        #expect(try kind(whole, 3) == .beforeBase)
        #expect(try kind(whole, 20) == .beyondWatermark)
        #expect(try kind(whole, 21, exclusive: true) == .beyondWatermark)
        let broken = LogInMemory(log([[1, 2, 20], [30], [40]], without: 1))
        #expect(try kind(broken, 9) == nil)
        #expect(try kind(broken, 10, exclusive: true) == nil)
        #expect(try kind(broken, 10) == .gap)
        #expect(try kind(broken, 20) == .gap)
    }

    @Test("a transaction prepared after the target stops the log, since its commit would follow")
    func prepared() throws {
        let memory = LogInMemory(log([[1, 2, 20], [30, 22, 40]], kinds: [30: .prepare]))
        #expect(try memory.plan(.at(25), base: toyBase(), windows: window).cuts.first?.through == 4)
        #expect(try memory.plan(.at(30), base: toyBase(), windows: window).cuts.first?.through == 12)
    }

    @Test("refuses times before the base, beyond the watermark and across a hole")
    func refusals() throws {
        func kind(_ log: LogInMemory, _ rule: CutRule) throws -> PlanRefusal.Kind? { try log.refusal(rule, base: toyBase(), windows: window)?.kind }
        let whole = LogInMemory(log([[1, 2, 20], [30], [40]]))
        #expect(try kind(whole, .at(9)) == .beforeBase)
        #expect(try kind(whole, .at(41)) == .beyondWatermark)
        #expect(try kind(LogInMemory(log([[1, 2, 20], [30], [40]]), watermark: 50), .at(50)) == nil)
        let broken = LogInMemory(log([[1, 2, 20], [30], [40]], without: 1))
        #expect(try kind(broken, .at(40)) == .gap)
        #expect(try kind(broken, .at(21)) == .gap)
        #expect(try kind(broken, .latest) == .gap)
        #expect(try kind(broken, .at(20)) == nil)
        // A commit inside the base's window that is later than the target: the clocks disagree, the base cannot serve it.
        #expect(try kind(LogInMemory(log([[1, 30, 31]])), .at(15)) == .beforeBase)
        #expect(BranchPath(from: 1, to: 2, by: []) == nil)
    }

    @Test("what a refusal names as the latest time can be reached", arguments: 1..<4)
    func latestOfRefusal(_ hole: Int) throws {
        let memory = LogInMemory(log([[1, 2, 20], [30, 25], [50, 41], [60]], without: hole), watermark: 70)
        for time in 21...70 as ClosedRange<Int64> {
            guard let refusal = try memory.refusal(.at(time), base: toyBase(), windows: window) else { continue }
            let latest = try #require(refusal.latest)
            #expect(latest.rawValue < time)
            #expect(try memory.refusal(.time(latest, exclusive: false), base: toyBase(), windows: window) == nil)
        }
    }

    /// A storage's log: one stream that begins at `first`, an entry for each time.
    private func storage(from first: UInt64, _ times: [Int64], flags: LogEvent.Flags = []) -> LogInMemory {
        let index = toyIndex(
            [LogSpan(stream: "7", branch: 0, start: first, end: first + UInt64(times.count), lastRecord: first + UInt64(times.count) - 1)],
            times.enumerated().map { i, t in
                LogEvent(span: 0, start: first + UInt64(i), end: first + UInt64(i) + 1, time: Moment(rawValue: t), kind: .commit, flags: flags)
            })
        return LogInMemory([(PieceName(branch: 0, name: hex(1, 16), suffix: "tar.zst"), index)], watermark: 100, streamsMayBeginEmpty: true, firstOffset: 1)
    }

    @Test("a log that was empty when the base was taken begins where it is first seen; one that the base never saw begins at 1")
    func emptyLog() throws {
        let unknown = [LogSpan(stream: "7", branch: 0, start: 0, end: 0)]
        let plan = try storage(from: 58, [20, 30]).plan(.at(25), base: toyBase(branch: 0), windows: unknown)
        #expect(plan.cuts.map(\.through) == [58])
        #expect(plan.spans.first?.start == 58)
        #expect(throws: PlanRefusal.self) { try storage(from: 58, [20, 30]).plan(.at(25), base: toyBase(branch: 0), windows: []) }
        let new = try storage(from: 1, [20, 30]).plan(.at(25), base: toyBase(branch: 0), windows: [])
        #expect(new.cuts.map(\.through) == [1])
        let silent = try storage(from: 58, [20, 30]).plan(.at(15), base: toyBase(branch: 0), windows: unknown)
        #expect(silent.cuts.allSatisfy { $0.through == nil })
    }

    @Test("a base in whose window linked content is missing is not used")
    func unresolved() throws {
        let inside = [LogSpan(stream: "7", branch: 0, start: 1, end: 3)]
        let log = storage(from: 1, [2, 3, 20], flags: [.storageLink, .unresolvedLink])
        #expect(try log.refusal(.at(30), base: toyBase(branch: 0), windows: inside)?.kind == .baseUnusable)
        // Behind the window the source is in the replayed storage.
        _ = try log.plan(.at(30), base: toyBase(branch: 0), windows: [LogSpan(stream: "7", branch: 0, start: 1, end: 1)])
    }

    @Test("the latest time is the last whole record of the contiguous log")
    func latest() throws {
        let plan = try LogInMemory(log([[1, 2, 20], [30]])).plan(.latest, base: toyBase(), windows: window)
        #expect(plan.cuts == [StreamCut(stream: "s", branch: 1, through: 18, end: 20)])
        #expect(plan.pieces.count == 2)
    }

    @Test("a branch's ancestors count only up to where they were left")
    func branches() throws {
        let pieces = log([[1, 2, 20], [30, 31, 32]]) + log([[1, 2, 20], [30, 50], [60]], branch: 2)
        let branches = [BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: 12)], file: [], fileName: "")]
        let plan = try LogInMemory(pieces, branches: branches).plan(.at(50), base: toyBase(), windows: window)
        #expect(plan.cuts == [StreamCut(stream: "s", branch: 2, through: 12, end: 14)])
    }

    @Test("the anchor's cut ends with its last commit, not with the markers behind it", arguments: [[[1, 2, 20], [], [50]], [[1, 2, 20, 21], [22], [50]]] as [[[Int64]]])
    func idleAnchor(_ groups: [[Int64]]) throws {
        let memory = LogInMemory(log(groups, kinds: [21: .fence, 22: .fence]))
        let cut = try #require(try memory.plan(.at(30), base: toyBase(), windows: window).anchor)
        #expect(cut.lower == 6)
        #expect(cut.upper == 20)
        func fence(_ position: UInt64, _ time: Int64) -> FenceRecord { toyFence("f", position, time) }
        #expect(cut.isAfter(fence(6, 90)))
        #expect(cut.isAfter(fence(8, 30)))
        #expect(!cut.isAfter(fence(8, 31)))
        #expect(!cut.isAfter(fence(21, 30)))
    }
}

func toyFence(_ id: String, _ position: UInt64, _ time: Int64, offset: Int64 = 0, late: [(String, UInt64)] = []) -> FenceRecord {
    FenceRecord(
        id: id, anchor: "anchor", anchorIdentity: "a", branch: 1, position: position, anchorTime: Moment(rawValue: time),
        asked: Moment(rawValue: time - offset), answered: Moment(rawValue: time - offset), late: late.map { .init(stream: $0.0, start: $0.1) })
}

@Suite("Fences decide")
struct FencedPlanTests {
    private struct Entry {
        var stream: String
        var offset: UInt64
        var time: Int64
        var flags: LogEvent.Flags = []
    }

    /// A pack for each group.
    private func storage(_ packs: [([Entry], [FenceRecord])], markers: Set<String>? = nil, watermark: Int64? = 1000) -> LogInMemory {
        var pieces: [(name: PieceName, index: PieceIndex)] = []
        for (n, (entries, fences)) in packs.enumerated() {
            var spans: [LogSpan] = []
            var events: [LogEvent] = []
            for entry in entries {
                if let i = spans.firstIndex(where: { $0.stream == entry.stream }) { spans[i].end = entry.offset + 1 } else {
                    spans.append(LogSpan(stream: entry.stream, branch: 0, start: entry.offset, end: entry.offset + 1))
                }
                let span = spans.firstIndex { $0.stream == entry.stream }!
                events.append(
                    LogEvent(
                        span: span, start: entry.offset, end: entry.offset + 1, time: Moment(rawValue: entry.time), kind: .commit, flags: entry.flags,
                        subject: "repository"))
            }
            pieces.append((PieceName(branch: 0, name: hex(UInt64(n + 1), 16), suffix: "tar.zst"), toyIndex(spans, events, fences: fences)))
        }
        var log = LogInMemory(pieces, watermark: watermark, streamsMayBeginEmpty: true, firstOffset: 1)
        log.markers = markers ?? Set(packs.flatMap { $0.1.map(\.id) })
        return log
    }

    private func cut(_ time: Int64, lower: UInt64, upper: UInt64?) -> CutRule {
        .anchored(
            AnchorCut(
                source: "anchor", identity: "a", path: BranchPath(from: 1, to: 1, by: [])!, lower: lower, upper: upper, order: .time(Moment(rawValue: time)),
                time: Moment(rawValue: time)), slack: 0)
    }

    private func ends(_ plan: SourcePlan) -> [String: UInt64] { Dictionary(uniqueKeysWithValues: plan.cuts.map { ($0.stream, $0.end) }) }
    private let base = toyBase(completed: 0, branch: 0)

    @Test("what is in V of the fence before is in, what is not in V₂ of the fence after is out, whatever their times")
    func decided() throws {
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 900)], [toyFence("f1", 100, 50)]),
            ([Entry(stream: "1", offset: 2, time: 60), Entry(stream: "2", offset: 1, time: 75)], [toyFence("f2", 300, 90)]),
            ([Entry(stream: "1", offset: 3, time: 5)], []),
        ])
        let plan = try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(ends(plan) == ["1": 3])
        #expect(plan.precision?.undecided == 2)
        #expect(plan.precision?.taken == 1)
        #expect(plan.precision?.before?.id == "f1")
        #expect(plan.precision?.after?.id == "f2")
    }

    @Test("a fence in idle time is before the cut when the anchor's clock says so", arguments: [(70, 2), (80, 3)] as [(Int64, UInt64)])
    func idle(_ time: Int64, _ end: UInt64) throws {
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)]),
            ([Entry(stream: "1", offset: 2, time: 900)], [toyFence("f2", 110, 80)]),
            ([Entry(stream: "1", offset: 3, time: 901)], [toyFence("f3", 120, 95)]),
        ])
        let plan = try log.plan(cut(time, lower: 90, upper: 200), base: base, windows: [])
        #expect(ends(plan) == ["1": end])
    }

    @Test("what came while the marker was written is not decided by it")
    func late() throws {
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], []),
            ([Entry(stream: "1", offset: 2, time: 900), Entry(stream: "1", offset: 3, time: 11)], [toyFence("f1", 100, 50, late: [("1", 2)])]),
            ([Entry(stream: "1", offset: 4, time: 12)], [toyFence("f2", 300, 80)]),
        ])
        // By their times 3 and 4 are in, so 2 is; were the fence alone to decide, too. One that is late and last is out.
        #expect(ends(try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])) == ["1": 5])
        let last = storage([
            ([Entry(stream: "1", offset: 1, time: 10), Entry(stream: "1", offset: 2, time: 900)], [toyFence("f1", 100, 50, late: [("1", 2)])]),
            ([], [toyFence("f2", 300, 80)]),
        ])
        let plan = try last.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(ends(plan) == ["1": 2])
        #expect(plan.precision?.undecided == 1)
    }

    @Test("a fence whose marker was lost decides nothing, not even the order of the fences that follow")
    func lost() throws {
        // The anchor crashed: the marker at 250 was taken back, and 180 and 300 came later.
        let log = storage(
            [
                ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)]),
                ([Entry(stream: "1", offset: 2, time: 55)], [toyFence("lost", 250, 60)]),
                ([Entry(stream: "1", offset: 3, time: 900)], [toyFence("f3", 180, 64)]),
                ([Entry(stream: "1", offset: 4, time: 901)], [toyFence("f4", 300, 90)]),
            ], markers: ["f1", "f3", "f4"])
        let plan = try log.plan(cut(65, lower: 200, upper: 210), base: base, windows: [])
        #expect(plan.precision?.before?.id == "f3")
        #expect(plan.precision?.after?.id == "f4")
        #expect(ends(plan) == ["1": 4])
    }

    @Test("the clocks are compared with every offset that was measured around the cut")
    func offsets() throws {
        // The storage's clock is 30 ahead at first and then set right.
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50, offset: -30)]),
            ([Entry(stream: "1", offset: 2, time: 98), Entry(stream: "2", offset: 1, time: 101)], [toyFence("f2", 300, 90, offset: 0)]),
        ])
        let plan = try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(plan.precision?.offset == -30...0)
        #expect(ends(plan) == ["1": 3])
    }

    @Test("a deletion that may lie behind the cut is held, and what follows it unless that surely does not")
    func held() throws {
        func log(_ following: Int64) -> LogInMemory {
            storage([
                ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50, offset: -5)]),
                ([Entry(stream: "1", offset: 2, time: 70, flags: .deleted)], []),
                ([Entry(stream: "1", offset: 3, time: following), Entry(stream: "2", offset: 1, time: 71)], [toyFence("f2", 300, 90, offset: 5)]),
            ])
        }
        let plan = try log(72).plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(ends(plan) == ["1": 2, "2": 2])
        #expect(plan.precision?.heldDeletions == ["1/2 repository"])
        // What surely came before proves that the deletion did.
        let sure = try log(60).plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(ends(sure) == ["1": 4, "2": 2])
        #expect(sure.precision?.heldDeletions == [])
    }

    @Test("a deletion that came while the marker behind the cut was written is held, whatever its time")
    func lateDeletion() throws {
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)]),
            (
                [Entry(stream: "1", offset: 2, time: 60, flags: .deleted), Entry(stream: "2", offset: 1, time: 61, flags: .deleted)],
                [toyFence("f2", 300, 90, late: [("2", 1)])]
            ),
        ])
        let plan = try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(ends(plan) == ["1": 3])
        #expect(plan.precision?.heldDeletions == ["2/1 repository"])
    }

    @Test("what a marker of another branch says about the clocks counts, its place does not")
    func leftBranch() throws {
        var left = toyFence("left", 180, 60, offset: -30)
        left.branch = 7
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)]),
            ([Entry(stream: "1", offset: 2, time: 99)], [left]),
            ([Entry(stream: "1", offset: 3, time: 101)], [toyFence("f2", 300, 90)]),
        ])
        let plan = try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])
        #expect(plan.precision?.before?.id == "f1")
        #expect(plan.precision?.offset == -30...0)
        #expect(ends(plan) == ["1": 3])
    }

    @Test("fences before the base measure the clocks, and one behind the cut there refuses the base")
    func earlier() throws {
        var log = storage([
            ([Entry(stream: "1", offset: 5, time: 96)], []),
            ([Entry(stream: "1", offset: 6, time: 60)], [toyFence("f3", 300, 90)]),
        ], markers: ["f1", "f2", "f3"])
        let window = [LogSpan(stream: "1", branch: 0, start: 5, end: 5)]
        log.view.earlierFences = [toyFence("f1", 100, 50, offset: -40)]
        let plan = try log.plan(cut(70, lower: 150, upper: 200), base: toyBase(completed: 65, branch: 0), windows: window)
        #expect(plan.precision?.before?.id == "f1")
        #expect(ends(plan) == ["1": 7])
        log.view.earlierFences.append(toyFence("f2", 250, 80))
        #expect(try log.refusal(cut(70, lower: 150, upper: 200), base: toyBase(completed: 65, branch: 0), windows: window)?.kind == .beforeBase)
    }

    @Test("a base whose log is not archived yet leaves the way to an older one")
    func unfinished() throws {
        let log = storage([([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)])])
        let refusal = try log.refusal(cut(70, lower: 150, upper: 200), base: base, windows: [LogSpan(stream: "1", branch: 0, start: 1, end: 4)])
        #expect(refusal?.kind == .baseUnusable)
    }

    @Test("a base that holds what came after the cut is not used, also when nothing was written to its partitions meanwhile")
    func laterBase() throws {
        let log = storage([
            ([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50)]),
            ([Entry(stream: "1", offset: 2, time: 60)], [toyFence("f2", 300, 90)]),
            ([Entry(stream: "1", offset: 3, time: 95)], [toyFence("f3", 400, 97)]),
        ])
        let rule = cut(70, lower: 150, upper: 200)
        for end in 1...3 as ClosedRange<UInt64> {
            #expect(try log.refusal(rule, base: base, windows: [LogSpan(stream: "1", branch: 0, start: end, end: end)]) == nil)
        }
        #expect(try log.refusal(rule, base: base, windows: [LogSpan(stream: "1", branch: 0, start: 4, end: 4)])?.kind == .beforeBase)
        #expect(try log.refusal(rule, base: base, windows: [LogSpan(stream: "1", branch: 0, start: 2, end: 4)])?.kind == .beforeBase)
        // Of the log before the base nothing is known: the clocks say that the base is later.
        var short = log
        short.view.pieces.removeFirst(2)
        let refusal = try short.refusal(rule, base: toyBase(completed: 71, branch: 0), windows: [LogSpan(stream: "1", branch: 0, start: 3, end: 3)])
        #expect(refusal?.kind == .beforeBase)
    }

    @Test("without a fence behind the cut the watermark says whether all before it is archived")
    func watermark() throws {
        let packs = [([Entry(stream: "1", offset: 1, time: 10)], [toyFence("f1", 100, 50, offset: -7)])]
        #expect(try storage(packs, watermark: 77).refusal(cut(70, lower: 150, upper: 200), base: base, windows: []) == nil)
        #expect(try storage(packs, watermark: 76).refusal(cut(70, lower: 150, upper: 200), base: base, windows: [])?.kind == .beyondWatermark)
        #expect(try storage(packs, watermark: nil).refusal(cut(70, lower: 150, upper: 200), base: base, windows: [])?.kind == .beyondWatermark)
    }

    @Test("without any fence a partition is cut before its first entry that is later by its own clock")
    func unfenced() throws {
        let log = storage([([Entry(stream: "1", offset: 1, time: 10), Entry(stream: "1", offset: 2, time: 80), Entry(stream: "1", offset: 3, time: 60)], [])])
        #expect(ends(try log.plan(cut(70, lower: 150, upper: 200), base: base, windows: [])) == ["1": 2])
    }
}
