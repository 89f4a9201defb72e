import ArchiveCore
import Planner
import Testing

/// A source of one history, unless others are added.
private func view(_ bases: [RetentionView.Base], branches: [BranchRecord] = [], archived: [UInt32] = [1], ends: [UInt32: Moment]? = nil, latest: Int) -> RetentionView {
    RetentionView(
        source: "main", bases: bases,
        histories: [.init(id: "a-0001", number: 1, branches: branches, archived: archived, ends: ends ?? [archived.last ?? 1: at(latest)], latest: at(latest))])
}

private func base(
    _ id: String, _ completed: Int, branch: UInt32 = 1, first: String? = nil, usable: Set<UInt32> = [1], in history: String = "a-0001", origins: [String] = [],
    started: Int? = nil, readable: Bool = true, locked: Int? = nil
) -> RetentionView.Base {
    RetentionView.Base(
        reference: BaseReference(source: "main", incarnation: history, base: id), started: at(started ?? completed - 1), completed: at(completed), branch: branch,
        firstPiece: first ?? "\(1000 + completed)", usableOn: usable, origins: origins, isReadable: readable, lockedUntil: locked.map { at($0) })
}

extension RetentionPlan {
    fileprivate var keptIDs: [String] { kept.map(\.base.reference.base) }
    fileprivate var removedIDs: [String] { removed.map(\.reference.base) }
    fileprivate func reasons(_ id: String) -> [Reason] { kept.first { $0.base.reference.base == id }?.reasons ?? [] }
}

@Suite("A plan of retention")
struct RetentionPlanTests {
    private let five = [base("a", 100), base("b", 200), base("c", 300), base("d", 400), base("e", 500)]

    @Test("keeps what was completed in the window, and the base with which the window begins")
    func window() {
        let plan = RetentionPlan(view(five, latest: 550), policy: KeepPolicy(window: 200, bases: 1), now: at(550))
        #expect(plan.keptIDs == ["c", "d", "e"])
        #expect(plan.reasons("c") == [.windowBegins])
        #expect(plan.reasons("d") == [.inWindow])
        #expect(plan.reasons("e") == [.inWindow, .newest(1), .lastUsable])
        #expect(plan.removedIDs == ["a", "b"])
        #expect(plan.log["a-0001"] == [1: .from("1300")])
        #expect(plan.start == at(350))
    }

    @Test("keeps so many usable bases whatever their age, at least the last")
    func count() {
        #expect(RetentionPlan(view(five, latest: 900), policy: KeepPolicy(window: 0, bases: 2), now: at(900)).keptIDs == ["d", "e"])
        #expect(RetentionPlan(view(five, latest: 900), policy: KeepPolicy(window: 0, bases: 9), now: at(900)).removedIDs == [])
        let plan = RetentionPlan(view(five, latest: 900), policy: KeepPolicy(window: 0, bases: 1), now: at(900))
        #expect(plan.keptIDs == ["e"])
        #expect(plan.reasons("e") == [.windowBegins, .newest(1), .lastUsable])
    }

    @Test("does not count bases that nothing can be restored from; they go when they are older than the window")
    func unusable() {
        let bases = [base("a", 100), base("b", 200), base("c", 300, usable: []), base("d", 400, usable: [])]
        #expect(RetentionPlan(view(bases, latest: 410), policy: KeepPolicy(window: 50, bases: 2), now: at(410)).keptIDs == ["a", "b", "d"])
        #expect(RetentionPlan(view(bases, latest: 900), policy: KeepPolicy(window: 50, bases: 1), now: at(900)).keptIDs == ["b"])
    }

    @Test("removes nothing at all while the source has no usable base")
    func nothingUsable() {
        let plan = RetentionPlan(view([base("a", 100, usable: []), base("b", 200, usable: [])], latest: 900), policy: KeepPolicy(window: 1, bases: 1), now: at(900))
        #expect(plan.removed.isEmpty)
        #expect(plan.reasons("a") == [.noUsableBase])
    }

    @Test("lets time stand still for a source that is no longer archived, and takes no clock for true that runs ahead")
    func standstill() {
        let plan = RetentionPlan(view(five, latest: 550), policy: KeepPolicy(window: 200, bases: 1), now: at(10_000_000))
        #expect(plan.keptIDs == ["c", "d", "e"])
    }

    @Test("begins the window with a base that is planned with at its beginning, whatever the clocks of source and agent showed")
    func clocks() {
        // Begun, by the agent's clock, after the window begins: a plan for its beginning passes it over.
        let bases = [base("a", 100), base("b", 200, started: 380), base("c", 500)]
        let plan = RetentionPlan(view(bases, latest: 550), policy: KeepPolicy(window: 200, bases: 1), now: at(550))
        #expect(plan.keptIDs == ["a", "b", "c"])
        #expect(plan.reasons("a") == [.windowBegins])
        // Completed a moment before: clocks of other hosts may differ by a tenth of the window.
        #expect(RetentionPlan(view([base("a", 100), base("b", 340), base("c", 500)], latest: 550), policy: KeepPolicy(window: 200, bases: 1), now: at(550)).keptIDs == ["a", "b", "c"])
    }

    @Test("keeps what is held, used, planned with, locked, referred to, or not readable, and its log")
    func reasons() {
        var bases = five
        bases[0].lockedUntil = at(1000)
        bases[3].origins = ["b"]
        let held = Protection(.hold("h"), bases[2].reference)
        let plan = RetentionPlan(view(bases, latest: 900), policy: KeepPolicy(window: 0, bases: 2), protections: [held], now: at(900))
        #expect(plan.keptIDs == ["a", "b", "c", "d", "e"])
        #expect(plan.reasons("a") == [.locked(at(1000))])
        #expect(plan.reasons("b") == [.referred(by: "d")])
        #expect(plan.reasons("c") == [.protected(.hold("h"))])
        #expect(plan.log["a-0001"] == [1: .from("1100")])
        bases[0].lockedUntil = at(899)
        #expect(RetentionPlan(view(bases, latest: 900), policy: KeepPolicy(window: 0, bases: 1), now: at(900)).keptIDs == ["e"])
        let damaged = [base("x", 50, usable: [], readable: false)] + five
        let careful = RetentionPlan(view(damaged, latest: 900), policy: KeepPolicy(window: 0, bases: 1), now: at(900))
        #expect(careful.keptIDs == ["x", "e"])
        #expect(careful.log["a-0001"] == [1: .all], "which log it needs is not known")
    }

    @Test("keeps the log of all branches that a base leads to, and of others nothing once they lie before the window")
    func branches() {
        let second = BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: 10)], file: [], fileName: "")
        let third = BranchRecord(branch: 3, ancestors: [.init(branch: 1, end: 10), .init(branch: 2, end: 20)], file: [], fileName: "")
        let bases = [base("a", 100, usable: [1, 2, 3]), base("b", 200, branch: 2, usable: [2, 3]), base("c", 300, branch: 3, usable: [3])]
        let ends = [1: at(150), 2: at(250), 3: at(500)] as [UInt32: Moment]
        func plan(_ window: Double) -> RetentionPlan {
            RetentionPlan(view(bases, branches: [second, third], archived: [1, 2, 3], ends: ends, latest: 500), policy: KeepPolicy(window: window, bases: 1), now: at(500))
        }
        #expect(plan(100).keptIDs == ["c"])
        #expect(plan(100).log["a-0001"] == [1: RetentionPlan.LogFate.none, 2: RetentionPlan.LogFate.none, 3: .from("1300")])
        // The window begins at 290, on the third branch alone; the second was left before.
        #expect(plan(190).keptIDs == ["b", "c"])
        #expect(plan(190).log["a-0001"] == [1: RetentionPlan.LogFate.none, 2: .from("1200"), 3: .all])
        // The second branch has commits in the window that the third does not have, and later the first has.
        #expect(plan(270).keptIDs == ["b", "c"])
        #expect(plan(320).keptIDs == ["a", "b", "c"])
        #expect(plan(320).log["a-0001"] == [1: .from("1100"), 2: .all, 3: .all])
    }

    @Test("keeps an older history as long as its times lie in the window, and then nothing of it")
    func histories() {
        func plan(_ now: Int, window: Double) -> RetentionPlan {
            let old = RetentionView.History(id: "a-0001", number: 1, branches: [], archived: [1], ends: [1: at(300)], latest: at(300))
            let new = RetentionView.History(id: "b-0002", number: 2, branches: [], archived: [1], ends: [1: at(now)], latest: at(now))
            let bases = [base("a", 100), base("b", 200), base("c", 400, in: "b-0002"), base("d", 500, in: "b-0002")]
            return RetentionPlan(RetentionView(source: "main", bases: bases, histories: [old, new]), policy: KeepPolicy(window: window, bases: 1), now: at(now))
        }
        #expect(plan(550, window: 300).keptIDs == ["b", "c", "d"])
        #expect(plan(550, window: 300).removedHistories == [])
        #expect(plan(550, window: 30).keptIDs == ["d"])
        #expect(plan(550, window: 30).removedHistories == ["a-0001"])
        #expect(plan(550, window: 30).log["b-0002"] == [1: .from("1500")])
    }
}
