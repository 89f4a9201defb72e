import ArchiveCore
import Catalog
import Planner
import Source

/// What is to be planned.
public struct PlanRequest: Sendable, Hashable {
    public var target: RecoveryTarget
    /// The target itself is left out: everything strictly before it.
    public var exclusive: Bool
    /// The branch (timeline) to restore; `nil`: the newest.
    public var branch: UInt32?
    /// Nanoseconds by which entries that no fence decides may be later than the target.
    public var slack: Int64

    public init(target: RecoveryTarget, exclusive: Bool = false, branch: UInt32? = nil, slack: Int64 = 0) {
        self.target = target
        self.exclusive = exclusive
        self.branch = branch
        self.slack = slack
    }
}

/// Reads from the archive what the planner needs, and asks it base by base, newest first.
public struct PlanLoader: Sendable {
    let catalog: Catalog
    let kinds: [any ComponentKind]

    /// Nanoseconds by which clocks of hosts may differ before the search for a base or a fence overlooks one: ten minutes.
    static let margin: Int64 = 600_000_000_000

    public init(catalog: Catalog, kinds: [any ComponentKind]) {
        self.catalog = catalog
        self.kinds = kinds
    }

    /// Plans for one source.
    ///
    /// - Throws: `.targetUnreachable` with the nearest times that can be reached, when no base serves the target.
    public func plan(source: String, rule: CutRule, branch: UInt32? = nil) async throws -> SourcePlan {
        let incarnations = try await incarnations(of: source)
        var refusals = Refusals(source: source, rule: rule)
        for incarnation in incarnations.reversed() {
            let kind = try kind(of: incarnation)
            let branches = try await catalog.branches(of: incarnation)
            let identifiers = try await catalog.baseIdentifiers(of: incarnation)
            // Bases begun after the target cannot serve it; the first of them is the nearest later time.
            let limit = refusals.limit
            let candidates = identifiers.filter { id in limit.flatMap { limit in Moment.ofIdentifier(id).map { $0 <= limit } } ?? true }
            for id in identifiers.dropFirst(candidates.count) {
                guard let later = try await catalog.base(id, of: incarnation) else { continue }
                // The clock may have been set back while it was taken.
                let earliest = max(later.started, later.completed)
                refusals.add(
                    PlanRefusal(
                        kind: .beforeBase, reason: "it lies before the end of the base \(later.id) at \(later.completed)", earliest: earliest, latest: nil))
                break
            }
            bases: for id in candidates.reversed() {
                guard let base = try await catalog.base(id, of: incarnation) else { continue }
                do {
                    return try await plan(base, of: incarnation, kind: kind, branches: branches, rule: rule, branch: branch)
                } catch let refusal as PlanRefusal {
                    refusals.add(refusal)
                    switch refusal.kind {
                    case .beforeBase, .baseUnusable, .otherBranch: continue
                    // An older base has the same hole, and the same end, before it.
                    case .gap, .beyondWatermark: break bases
                    }
                } catch let error as ArchiveError where error.code == .objectMissing {
                    // An expiry may have removed it meanwhile.
                    guard try await catalog.base(id, of: incarnation) == nil else { throw error }
                }
            }
        }
        throw refusals.error(at: try await catalog.sources())
    }

    /// Plans with one base.
    ///
    /// - Throws: `PlanRefusal` when the base cannot serve.
    private func plan(
        _ base: BaseRecord, of incarnation: IncarnationRecord, kind: any ComponentKind, branches: [BranchRecord], rule: CutRule, branch: UInt32?
    ) async throws -> SourcePlan {
        let newest = max(branches.map(\.branch).max() ?? base.branch, base.branch)
        // Only a source that has branches can be asked for one.
        let tip = kind.carriesFences ? branch ?? newest : newest
        guard let path = BranchPath(from: base.branch, to: tip, by: branches) else {
            throw PlanRefusal(
                kind: .otherBranch,
                reason: branches.contains { $0.branch == tip } || base.branch == tip
                    ? "the base \(base.id) lies on timeline \(base.branch), which is no ancestor of timeline \(tip)" : "there is no timeline \(tip) in the archive",
                earliest: nil, latest: nil)
        }
        let windows = try await catalog.spans(of: base, in: incarnation)
        if case .time(let time, _) = rule, base.completed > time { throw PlanRefusal(kind: .beforeBase, reason: "it lies before the end of the base \(base.id) at \(base.completed)", earliest: base.completed, latest: nil) }
        if case .position(let position, _) = rule, let end = windows.first?.end, position < end {
            throw PlanRefusal(
                kind: .beforeBase, reason: "\(kind.describe(offset: position)) lies before the end of the base \(base.id) at \(kind.describe(offset: end))",
                earliest: base.completed, latest: nil)
        }
        let watermark = try await catalog.watermarkAndTotals(of: incarnation)
        var view = LogView(
            source: incarnation.source, incarnation: incarnation, path: path, pieces: [], isComplete: false, branches: branches,
            gaps: try await catalog.gaps(of: incarnation),
            // The watermark is that of the newest branch: a branch that was left has what it has.
            watermark: tip == newest ? watermark?.time : nil, streamsMayBeginEmpty: kind.streamsMayBeginEmpty,
            firstOffset: kind.firstOffset, describe: { kind.describe(offset: $0) })
        var cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: base.firstPiece)
        try await extend(&view, by: &cursor, enough: Enough(rule, of: kind))
        var details = PlanDetails()
        var absent: Set<PieceName> = []
        // An agent at work replaces tails by their closed piece: then the log is listed anew, so many times at most.
        var relisted = 0
        var isLookedBack = false
        if case .anchored(let cut, _) = rule, !view.pieces.contains(where: { $0.fences.contains { cut.knows($0) && cut.isAfter($0) } }) {
            isLookedBack = true
            view.earlierFences = try await fences(before: base, of: incarnation, around: cut)
        }
        while true {
            // Behind the last chapter there is never much: then what lies after the cut is known exactly.
            if cursor.isBehindChapters { try await extend(&view, by: &cursor, enough: nil) }
            view.beyond = cursor.totals.flatMap { known in watermark?.totals.map { $0 - known } }
            var whole = view
            if !absent.isEmpty { whole.pieces.removeAll { absent.contains($0.name) } }
            do {
                switch try Planner.plan(base: base, windows: windows, view: whole, rule: rule, details: details) {
                case .needsEvents(let names):
                    do {
                        for name in names {
                            try Task.checkCancellation()
                            let index = try await catalog.index(of: name, of: incarnation)
                            details.events[name] = (index.events, index.spans.map(\.stream))
                        }
                    } catch let error as ArchiveError where error.code == .objectMissing && relisted < 10 {
                        relisted += 1
                        (view.pieces, view.isComplete) = ([], false)
                        cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: base.firstPiece)
                        try await extend(&view, by: &cursor, enough: Enough(rule, of: kind))
                    }
                case .needsConfirmation(let fences):
                    for fence in fences { details.confirmed[fence.id] = try await isConfirmed(fence) }
                case .plan(var plan):
                    // Eight fences behind the cut whose markers were all lost prove nothing: go on to one that was not.
                    if let precision = plan.precision, precision.after == nil, !view.isComplete, case .anchored(let cut, _) = rule,
                        !Enough.isFarBehind(view.pieces.last, cut)
                    {
                        try await extend(&view, by: &cursor, enough: Enough(more: view.pieces.count + Chapter.maximumPieces))
                        continue
                    }
                    // The fence before the cut may lie before the base.
                    if let precision = plan.precision, precision.before == nil, !isLookedBack, case .anchored(let cut, _) = rule {
                        isLookedBack = true
                        view.earlierFences = try await fences(before: base, of: incarnation, around: cut)
                        continue
                    }
                    let found = try await catalog.missing(plan.pieces.map(\.name), of: incarnation)
                    if found.isSubset(of: absent) {
                        plan.spans = plan.spans.isEmpty ? windows : plan.spans
                        if case .time(let time, _) = rule, branch == nil { try await checkAbandoned(plan, at: time, by: kind) }
                        return plan
                    }
                    absent.formUnion(found)
                    if found.contains(where: { $0.part != nil }) {
                        (view.pieces, view.isComplete) = ([], false)
                        cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: base.firstPiece)
                        try await extend(&view, by: &cursor, enough: Enough(rule, of: kind))
                    }
                }
            } catch let refusal as PlanRefusal {
                guard refusal.kind == .beyondWatermark, !view.isComplete else { throw refusal }
                try await extend(&view, by: &cursor, enough: Enough(more: view.pieces.count + Chapter.maximumPieces))
            }
        }
    }

    /// A cut before a fork means another state on the branch that was left there: where that one had commits up to the target and the
    /// one that went on had none yet, somebody has to say which is meant.
    private func checkAbandoned(_ plan: SourcePlan, at time: Moment, by kind: any ComponentKind) async throws {
        guard let path = BranchPath(from: plan.base.branch, to: plan.branch, by: plan.branches), let cut = plan.anchor?.lower else { return }
        for branch in path.branches {
            guard let fork = path.end(of: branch), fork < .max, cut <= fork,
                let alone = BranchPath(from: branch, to: branch, by: []),
                let first = kind.pieceName(endingAt: fork + 1, branch: branch, of: plan.incarnation)
            else { continue }
            var cursor = LogCursor(catalog: catalog, incarnation: plan.incarnation, path: alone, from: first.name)
            while let piece = try await cursor.next() {
                guard let times = piece.times else { continue }
                if times.lowerBound > time { break }
                let events = try await catalog.index(of: piece.name, of: plan.incarnation).events
                guard let lost = events.first(where: { $0.isDecisive && $0.start >= fork && $0.time <= time }) else { continue }
                let next = try await firstCommit(from: plan.anchor?.upper, of: plan, along: path)
                throw PlanRefusal(
                    kind: .otherBranch,
                    reason: "at that time commits were made on timeline \(branch), the first of \(lost.time), which timeline \(plan.branch) left behind at \(kind.describe(offset: fork)); say which is meant with --timeline \(branch) or --timeline \(plan.branch)",
                    earliest: next, latest: lost.time.adding(nanoseconds: -1000))
            }
        }
    }

    /// The time of the commit that begins at `offset`.
    private func firstCommit(from offset: UInt64?, of plan: SourcePlan, along path: BranchPath) async throws -> Moment? {
        guard let offset else { return nil }
        let name = plan.pieces.last?.name
        guard let rest = BranchPath(from: name?.branch ?? plan.base.branch, to: path.last, by: plan.branches) else { return nil }
        var cursor = LogCursor(catalog: catalog, incarnation: plan.incarnation, path: rest, from: name?.name ?? plan.base.firstPiece)
        while let piece = try await cursor.next() {
            guard let end = piece.spans.first?.end, end > offset else { continue }
            let events = try await catalog.index(of: piece.name, of: plan.incarnation).events
            if let event = events.first(where: { $0.isDecisive && $0.start >= offset }) { return event.time }
        }
        return nil
    }

    /// When a view holds as much of the log as a rule can need.
    private struct Enough {
        let rule: CutRule?
        let pieces: Int
        let isOneStream: Bool
        private var fences = 0

        init(_ rule: CutRule, of kind: any ComponentKind) {
            self.rule = rule
            pieces = 0
            isOneStream = !kind.streamsMayBeginEmpty
        }

        init(more pieces: Int) {
            rule = nil
            self.pieces = pieces
            isOneStream = false
        }

        /// Whether nothing has to be read behind `piece`.
        mutating func after(_ piece: PieceSummary, _ count: Int) -> Bool {
            switch rule {
            case nil: return count >= pieces
            case .latest?: return false
            case .time(let time, _)?:
                guard let times = piece.times else { return false }
                // Of many streams a later piece may hold what was committed a moment earlier.
                return times.lowerBound > (isOneStream ? time : time.adding(nanoseconds: PlanLoader.margin))
            case .position(let position, _)?: return piece.totals.commits > 0 && piece.spans.first.map { $0.start > position } ?? false
            case .anchored(let cut, _)?:
                for fence in piece.fences where cut.knows(fence) && !cut.isAfter(fence) { fences += 1 }
                guard fences < 8 else { return true }
                return Self.isFarBehind(piece, cut)
            }
        }

        /// Whether no entry of later pieces can be of a time before the cut, whatever the clocks did.
        static func isFarBehind(_ piece: PieceSummary?, _ cut: AnchorCut) -> Bool {
            guard let piece, let first = piece.times?.lowerBound else { return false }
            let offset = piece.fences.last?.offset.lowerBound ?? 0
            return first.adding(nanoseconds: offset) > cut.time.adding(nanoseconds: PlanLoader.margin)
        }
    }

    private func extend(_ view: inout LogView, by cursor: inout LogCursor, enough: Enough?) async throws {
        var enough = enough
        while let piece = try await cursor.next() {
            if view.pieces.count % 1024 == 0 { try Task.checkCancellation() }
            // A closed piece replaces its tails, also when they have not been removed yet.
            if piece.name.part != nil {
                if let last = view.pieces.last?.name, last.part == nil, last.name == piece.name.name, last.branch == piece.name.branch { continue }
            } else {
                while let last = view.pieces.last?.name, last.part != nil, last.name == piece.name.name, last.branch == piece.name.branch { view.pieces.removeLast() }
            }
            view.pieces.append(piece)
            if enough?.after(piece, view.pieces.count) ?? false { return }
        }
        view.isComplete = true
    }

    /// Chapters that are read in search of a fence before a base.
    static let chaptersBack = 8

    /// The fences right before a base's first piece, in log order: enough of them to have one before the cut, unless there is none near.
    private func fences(before base: BaseRecord, of incarnation: IncarnationRecord, around cut: AnchorCut) async throws -> [FenceRecord] {
        guard let first = base.firstPiece else { return [] }
        var found: [FenceRecord] = []
        var chapter: Chapter?
        if let name = try await catalog.chapters(of: incarnation, branch: base.branch, from: first, limit: 1).first {
            chapter = try await catalog.chapter(name, of: incarnation)
        } else {
            let last = try await catalog.lastChapter(of: incarnation, branch: base.branch)
            if let last { chapter = try await catalog.chapter(last, of: incarnation) }
            found = try await catalog.summaries(of: incarnation, branch: base.branch, after: last?.last, before: first).flatMap(\.fences)
        }
        for _ in 0..<Self.chaptersBack where !found.contains(where: { cut.knows($0) && cut.isAfter($0) }) {
            guard let here = chapter else { break }
            try Task.checkCancellation()
            found = here.pieces.filter { $0.name.name < first }.flatMap(\.fences) + found
            chapter = try await catalog.chapter(before: here, of: incarnation)
        }
        return found
    }

    // MARK: Looking things up

    func kind(of incarnation: IncarnationRecord) throws -> any ComponentKind {
        guard let kind = kinds.first(where: { $0.kind == incarnation.kind }) else {
            throw ArchiveError(
                .sourceUnsupported, "'\(incarnation.source)' is of the kind '\(incarnation.kind)', which this tidemark does not know.",
                remedy: "Use the tidemark that archived it.")
        }
        return kind
    }

    /// - Throws: `.targetUnreachable` when the archive has no such source.
    public func incarnations(of source: String) async throws -> [IncarnationRecord] {
        let incarnations = try await catalog.incarnations(of: source)
        guard incarnations.isEmpty else { return incarnations }
        let known = try await catalog.sources()
        throw ArchiveError(
            .targetUnreachable, "The archive has no source '\(source)'.",
            remedy: known.isEmpty
                ? "It has none at all. See whether --archive, or the configuration, names the right archive; in a new one they appear when `tidemark agent` runs."
                : "It has: \(known.joined(separator: ", ")).")
    }

    /// Whether the anchor's archived log has the fence's marker.
    func isConfirmed(_ fence: FenceRecord) async throws -> Bool {
        for incarnation in try await catalog.incarnations(of: fence.anchor) where incarnation.identity == fence.anchorIdentity {
            guard let name = try kind(of: incarnation).pieceName(endingAt: fence.position, branch: fence.branch, of: incarnation) else { continue }
            for index in try await catalog.indexes(ofPiecesNamed: name, of: incarnation)
            where index.events.contains(where: { $0.kind == .fence && $0.subject == fence.id }) { return true }
        }
        return false
    }
}

/// Why no base served, collected from one base after the other.
private struct Refusals {
    let source: String
    let rule: CutRule
    var earliest: Moment?
    private var latest: Moment?
    private var first: PlanRefusal?

    init(source: String, rule: CutRule) {
        self.source = source
        self.rule = rule
    }

    /// Bases that were begun later cannot serve.
    var limit: Moment? {
        switch rule {
        case .time(let time, _): time
        case .anchored(let cut, _): cut.time.adding(nanoseconds: PlanLoader.margin)
        case .position, .latest: nil
        }
    }

    mutating func add(_ refusal: PlanRefusal) {
        // That a newer base lies behind the target is nothing to tell when another reason follows.
        if first == nil || first?.kind == .beforeBase { first = refusal }
        if let time = refusal.earliest { earliest = min(time, earliest ?? time) }
        if let time = refusal.latest { latest = max(time, latest ?? time) }
    }

    func error(at sources: [String]) -> ArchiveError {
        let target: Moment? =
            switch rule {
            case .time(let time, _): time
            case .anchored(let cut, _): cut.time
            case .position, .latest: nil
            }
        guard let refusal = first else {
            return ArchiveError(
                .targetUnreachable,
                earliest == nil
                    ? "'\(source)' cannot be restored: the archive has no complete base of it."
                    : "'\(source)' cannot be restored to \(target.map { "\($0)" } ?? "that target"): it lies before the first base.",
                remedy: earliest.map { "The nearest later time is \($0)." } ?? "Take one with `tidemark backup --source \(source)`.")
        }
        var remedy: [String] = []
        if let latest, target.map({ latest < $0 }) ?? (refusal.kind != .beforeBase) { remedy.append("The nearest earlier time is \(latest).") }
        if let earliest, target.map({ earliest > $0 }) ?? (refusal.kind == .beforeBase) { remedy.append("The nearest later time is \(earliest).") }
        return ArchiveError(
            .targetUnreachable, "'\(source)' cannot be restored to \(target.map { "\($0)" } ?? "that target"): \(refusal.reason).",
            remedy: remedy.isEmpty ? "`tidemark window` lists what can be reached." : remedy.joined(separator: " "))
    }
}
