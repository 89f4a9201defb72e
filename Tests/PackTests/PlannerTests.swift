import ArchiveCore
import Planner
import Testing

@Suite("The planner")
struct PlannerTests {
    private let incarnation = IncarnationRecord(
        source: "main", id: "77-0001", kind: "toy", identity: "77", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)

    private func base(completed: Int64 = 10, branch: UInt32 = 1) -> BaseRecord {
        BaseRecord(
            id: "b", source: "main", incarnation: "77-0001", kind: "toy", started: Moment(rawValue: 1), completed: Moment(rawValue: completed),
            firstPiece: nil, branch: branch, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:])
    }

    /// One piece of ten offsets for each group of commit times; commits lie two offsets apart.
    private func view(_ groups: [[Int64]], branch: UInt32 = 1, watermark: Int64? = nil, without hole: Int? = nil) -> LogView {
        var pieces: [(name: PieceName, index: PieceIndex)] = []
        for (n, times) in groups.enumerated() where n != hole {
            let start = UInt64(n * 10)
            pieces.append(
                (
                    PieceName(branch: branch, name: hex(UInt64(n), 16)),
                    PieceIndex(
                        spans: [LogSpan(stream: "s", branch: branch, start: start, end: start + 10, lastRecord: start + 8)],
                        events: times.enumerated().map { i, t in
                            LogEvent(
                                span: 0, start: start + UInt64(2 * i), end: start + UInt64(2 * i) + 2, time: Moment(rawValue: t), kind: .commit)
                        }, frames: [], storedLength: 1, storedSHA256: [UInt8](repeating: 0, count: 32))
                ))
        }
        return LogView(
            source: "main", incarnation: incarnation, pieces: pieces, branches: [], gaps: [], watermark: watermark.map(Moment.init(rawValue:)),
            streamsMayBeginEmpty: false, firstOffset: 0)
    }

    private let window = [LogSpan(stream: "s", branch: 1, start: 0, end: 4)]

    @Test("stops before the first commit that is later, even when clocks ran backwards afterwards", arguments: [
        (10, nil), (19, nil), (20, 4), (29, 4), (30, 10), (39, 10), (40, 14),
    ] as [(Int64, UInt64?)])
    func cut(_ time: Int64, _ through: UInt64?) throws {
        // Commits at offsets 0, 2, 4 | 10, 12, 14; the one at 12 carries an earlier time than its predecessor.
        let plan = try Planner.plan(
            base: base(), spans: window, view: view([[1, 2, 20], [30, 25, 40]].map { $0 }), target: .time(Moment(rawValue: time)))
        let expected = time >= 30 && time < 40 ? 12 : through
        #expect(plan.cuts.first?.through == expected)
    }

    @Test("refuses times before the base, beyond the watermark and across a hole")
    func refusals() {
        func kind(_ view: LogView, _ target: RecoveryTarget) -> PlanRefusal.Kind? {
            do {
                _ = try Planner.plan(base: base(), spans: window, view: view, target: target)
                return nil
            } catch { return error.kind }
        }
        let log = view([[1, 2, 20], [30], [40]])
        #expect(kind(log, .time(Moment(rawValue: 9))) == .beforeBase)
        #expect(kind(log, .time(Moment(rawValue: 41))) == .beyondWatermark)
        #expect(kind(view([[1, 2, 20], [30], [40]], watermark: 50), .time(Moment(rawValue: 50))) == nil)
        #expect(kind(view([[1, 2, 20], [30], [40]], without: 1), .time(Moment(rawValue: 40))) == .gap)
        #expect(kind(view([[1, 2, 20], [30], [40]], without: 1), .latest) == .gap)
        #expect(kind(view([[1, 2, 20], [30], [40]], without: 1), .time(Moment(rawValue: 20))) == nil)
        // A commit inside the base's window that is later than the target: the clocks disagree, the base cannot serve it.
        #expect(kind(view([[1, 30, 31]]), .time(Moment(rawValue: 15))) == .beforeBase)
        #expect(kind(view([[1, 2, 20], [30]], branch: 2), .time(Moment(rawValue: 20))) == .otherBranch)
    }

    /// A storage's log: one stream that begins at `first`, an entry for each time.
    private func storage(from first: UInt64, _ times: [Int64], flags: LogEvent.Flags = []) -> LogView {
        let index = PieceIndex(
            spans: [LogSpan(stream: "7", branch: 0, start: first, end: first + UInt64(times.count), lastRecord: first + UInt64(times.count) - 1)],
            events: times.enumerated().map { i, t in
                LogEvent(span: 0, start: first + UInt64(i), end: first + UInt64(i) + 1, time: Moment(rawValue: t), kind: .commit, flags: flags, frame: i)
            }, frames: [], storedLength: 1, storedSHA256: [UInt8](repeating: 0, count: 32))
        return LogView(
            source: "default", incarnation: incarnation, pieces: [(PieceName(branch: 0, name: hex(1, 16), suffix: "tar.zst"), index)], branches: [],
            gaps: [], watermark: Moment(rawValue: 100), streamsMayBeginEmpty: true, firstOffset: 1)
    }

    @Test("a log that was empty when the base was taken begins where it is first seen; one that the base never saw begins at 1")
    func emptyLog() throws {
        let unknown = [LogSpan(stream: "7", branch: 0, start: 0, end: 0)]
        let plan = try Planner.plan(base: base(branch: 0), spans: unknown, view: storage(from: 58, [20, 30]), target: .time(Moment(rawValue: 25)))
        #expect(plan.cuts.map(\.through) == [58])
        #expect(plan.spans.first?.start == 58)
        #expect(throws: PlanRefusal.self) {
            try Planner.plan(base: base(branch: 0), spans: [], view: storage(from: 58, [20, 30]), target: .time(Moment(rawValue: 25)))
        }
        let new = try Planner.plan(base: base(branch: 0), spans: [], view: storage(from: 1, [20, 30]), target: .time(Moment(rawValue: 25)))
        #expect(new.cuts.map(\.through) == [1])
        let silent = try Planner.plan(base: base(branch: 0), spans: unknown, view: storage(from: 58, [20, 30]), target: .time(Moment(rawValue: 15)))
        #expect(silent.cuts.allSatisfy { $0.through == nil })
    }

    @Test("a base in whose window linked content is missing is not used")
    func unresolved() throws {
        let inside = [LogSpan(stream: "7", branch: 0, start: 1, end: 3)]
        let log = storage(from: 1, [2, 3, 20], flags: [.storageLink, .unresolvedLink])
        let refusal = #expect(throws: PlanRefusal.self) { try Planner.plan(base: base(branch: 0), spans: inside, view: log, target: .time(Moment(rawValue: 30))) }
        #expect(refusal?.kind == .baseUnusable)
        // Behind the window the source is in the replayed storage.
        _ = try Planner.plan(
            base: base(branch: 0), spans: [LogSpan(stream: "7", branch: 0, start: 1, end: 1)], view: log, target: .time(Moment(rawValue: 30)))
    }

    @Test("the latest time is the last whole record of the contiguous log")
    func latest() throws {
        let plan = try Planner.plan(base: base(), spans: window, view: view([[1, 2, 20], [30]]), target: .latest)
        #expect(plan.cuts == [StreamCut(stream: "s", branch: 1, through: 18, end: 20)])
        #expect(plan.pieces.count == 2)
    }

    @Test("a branch's ancestors count only up to where they were left")
    func branches() throws {
        var old = view([[1, 2, 20], [30, 31, 32]])
        let new = view([[1, 2, 20], [30, 50], [60]], branch: 2)
        old.pieces += new.pieces
        old.branches = [BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: 12)], file: [], fileName: "")]
        let plan = try Planner.plan(base: base(), spans: window, view: old, target: .time(Moment(rawValue: 50)))
        #expect(plan.cuts == [StreamCut(stream: "s", branch: 2, through: 12, end: 14)])
    }
}
