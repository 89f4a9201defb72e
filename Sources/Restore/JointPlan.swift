import ArchiveCore
import Catalog
import Planner
import Source

/// One cut across the logs of several sources.
public struct JointPlan: Sendable {
    public var request: PlanRequest
    /// The moment that the cut means, by the clock of the source with the commits; `nil` where only the end of one log was asked for.
    public var moment: Moment?
    /// In the order in which the sources were named.
    public var plans: [SourcePlan]
    public var warnings: [String]

    public init(request: PlanRequest, moment: Moment?, plans: [SourcePlan], warnings: [String]) {
        self.request = request
        self.moment = moment
        self.plans = plans
        self.warnings = warnings
    }
}

extension PlanLoader {
    /// Plans for all of `sources` together: first the logs that carry commits, then those that are fenced against them.
    ///
    /// - Throws: `.targetUnreachable` naming the source and the nearest times that can be reached; `.usage` for a target that no
    ///   source can be asked for.
    public func plan(_ request: PlanRequest, sources: [String]) async throws -> JointPlan {
        var kinds: [String: any ComponentKind] = [:]
        for source in sources { kinds[source] = try kind(of: try await incarnations(of: source)[0]) }
        let wanted = sources.filter { kinds[$0]?.carriesFences ?? false }
        let anchors = try await self.anchors()
        var request = request
        var warnings: [String] = []
        let end: Moment? = if case .latest = request.target, sources.count > 1 { try await newestCommonTime(of: sources) } else { nil }
        let (rule, asked, moment) = try await resolve(&request, wanted: wanted, anchors: anchors, end: end)
        var plans: [String: SourcePlan] = [:]
        func planAnchor(_ name: String) async throws -> SourcePlan {
            if let known = plans[name] { return known }
            let plan = try await plan(source: name, rule: rule, branch: request.branch)
            plans[name] = plan
            return plan
        }
        for name in wanted where asked == nil || asked == name { _ = try await planAnchor(name) }
        // The other anchors are brought to the moment that the first one is brought to.
        if let asked {
            let cut = try await planAnchor(asked).anchor
            for name in wanted where name != asked {
                plans[name] = try await plan(source: name, rule: .time(cut?.time ?? Moment(rawValue: .max), exclusive: false))
                warnings.append("'\(name)' is cut at the time of the target in '\(asked)': nothing orders their logs but their clocks")
            }
        }
        for name in sources where !wanted.contains(name) {
            let (follower, warning) = try await planFollower(name, rule, request, asked: asked, anchors: anchors, planAnchor)
            plans[name] = follower
            if let warning { warnings.append(warning) }
        }
        let first = wanted.first.flatMap { plans[$0] }
        return JointPlan(
            request: request, moment: moment ?? first?.anchor?.time, plans: sources.compactMap { plans[$0] }, warnings: warnings)
    }

    private func planFollower(
        _ name: String, _ rule: CutRule, _ request: PlanRequest, asked: String?, anchors: [String],
        _ planAnchor: (String) async throws -> SourcePlan
    ) async throws -> (plan: SourcePlan, warning: String?) {
        // With one anchor there is nothing to be found out.
        let fenced = anchors.count == 1 ? nil : try await lastFence(of: name)?.anchor
        guard let anchor = asked ?? fenced.flatMap({ anchors.contains($0) ? $0 : nil }) ?? (anchors.count == 1 ? anchors[0] : nil) else {
            return (try await plan(source: name, rule: rule), nil)
        }
        // Alone and to its end nothing has to be ordered.
        if case .latest = rule { return (try await plan(source: name, rule: rule), nil) }
        let cut: AnchorCut?
        do { cut = try await planAnchor(anchor).anchor } catch let error as ArchiveError where error.code == .targetUnreachable && asked == nil {
            // The anchor is not to be restored: without its cut the time itself has to do.
            return (try await plan(source: name, rule: rule), "'\(name)' is cut by its own clock alone, since '\(anchor)' could not be cut at the target: \(error.message)")
        }
        guard let cut else { return (try await plan(source: name, rule: rule), nil) }
        let plan = try await plan(source: name, rule: .anchored(cut, slack: request.slack))
        guard let precision = plan.precision, precision.before == nil, precision.after == nil else { return (plan, nil) }
        return (plan, "no fence of '\(anchor)' covers the cut of '\(name)': it was decided by the clocks alone, which is right only as far as the two hosts' clocks agree")
    }

    /// What the target means for the log that has the commits.
    ///
    /// - Returns: also the source whose position was named, and the moment where the target is one.
    private func resolve(
        _ request: inout PlanRequest, wanted: [String], anchors: [String], end: Moment?
    ) async throws -> (rule: CutRule, asked: String?, moment: Moment?) {
        func single(_ what: String) throws -> String {
            let candidates = wanted.isEmpty ? anchors : wanted
            guard candidates.count == 1 else {
                throw ArchiveError(
                    .usage, candidates.isEmpty ? "No source in the archive can be asked for \(what)." : "\(what) means nothing for several sources at once: \(candidates.joined(separator: ", ")).",
                    remedy: candidates.isEmpty ? "Use --to-time." : "Name one of them with --source, or use --to-time.")
            }
            return candidates[0]
        }
        switch request.target {
        case .time(let time): return (.time(time, exclusive: request.exclusive), nil, time)
        case .latest: return (end.map { .time($0, exclusive: false) } ?? .latest, nil, end)
        case .position(let position): return (.position(position, exclusive: request.exclusive), try single("a position"), nil)
        case .transaction(let number):
            let source = try single("a transaction id")
            let found = try await find(transaction: number, in: source, branch: request.branch)
            try await chooseBranch(of: &request, for: found.event.start, on: found.branch, in: source)
            return (.position(found.event.start, exclusive: request.exclusive), source, nil)
        case .name(let name):
            let source = try single("a restore point")
            let found = try await find(restorePoint: name, in: source, branch: request.branch)
            try await chooseBranch(of: &request, for: found.event.start, on: found.branch, in: source)
            return (.position(found.event.start, exclusive: request.exclusive), source, nil)
        case .fence(let id):
            let fence = try await find(fence: id)
            guard try await isConfirmed(fence) else {
                throw ArchiveError(
                    .targetUnreachable, "The marker of the fence \(id) is not in the archived log of '\(fence.anchor)': a crash took it back, or it is not archived yet.",
                    remedy: "Use another fence, or --to-time \(fence.anchorTime).")
            }
            guard wanted.isEmpty || wanted.contains(fence.anchor) else {
                throw ArchiveError(
                    .usage, "The fence \(id) lies in the log of '\(fence.anchor)', which is not to be restored.", remedy: "Add --into \(fence.anchor)=DIR, or use --to-time.")
            }
            try await chooseBranch(of: &request, for: fence.position, on: fence.branch, in: fence.anchor)
            return (.position(fence.position, exclusive: true), fence.anchor, nil)
        }
    }

    /// A place on a branch that was left before it is only on that one; any other is on the newest one's way, which then is restored.
    private func chooseBranch(of request: inout PlanRequest, for offset: UInt64, on branch: UInt32, in source: String) async throws {
        guard request.branch == nil, let incarnation = try await incarnations(of: source).last else { return }
        let branches = try await catalog.branches(of: incarnation)
        let newest = max(branches.map(\.branch).max() ?? branch, branch)
        guard BranchPath(to: newest, by: branches).end(of: branch).map({ offset < $0 }) ?? false else {
            request.branch = branch
            return
        }
    }

    /// Sources in the archive whose logs carry commits and fences.
    private func anchors() async throws -> [String] {
        var names: [String] = []
        for source in try await catalog.sources() {
            guard let incarnation = try await catalog.incarnations(of: source).last, let kind = kinds.first(where: { $0.kind == incarnation.kind }) else { continue }
            if kind.carriesFences { names.append(source) }
        }
        return names
    }

    /// The newest time up to which all of `sources` are complete, by the clock of the one with the commits.
    private func newestCommonTime(of sources: [String]) async throws -> Moment {
        var newest: Moment?
        for source in sources {
            guard let incarnation = try await incarnations(of: source).last, let time = try await catalog.watermark(of: incarnation) else {
                throw ArchiveError(
                    .targetUnreachable, "'\(source)' cannot be restored to any time: nothing says up to when its archive is complete.",
                    remedy: "Start `tidemark agent`, or name the sources that are wanted.")
            }
            let corrected = time.adding(nanoseconds: try await lowestOffset(of: source) ?? 0)
            newest = min(newest ?? corrected, corrected)
        }
        guard let newest else { throw ArchiveError(.usage, "There is nothing to restore.") }
        return newest
    }

    /// The least that is to be added to a source's newest times: by all fences from the last one that is confirmed on, which are those
    /// that a plan for the end of the archive compares the clocks by.
    private func lowestOffset(of source: String) async throws -> Int64? {
        guard let incarnation = try await catalog.incarnations(of: source).last, try !kind(of: incarnation).carriesFences else { return nil }
        var lowest: Int64?
        /// - Returns: whether a confirmed one was met.
        func look(_ pieces: [PieceSummary]) async throws -> Bool {
            for fence in pieces.reversed().flatMap({ $0.fences.reversed() }) {
                lowest = min(lowest ?? .max, fence.offset.lowerBound)
                guard let anchor = try await catalog.incarnations(of: fence.anchor).last else { continue }
                let branches = try await catalog.branches(of: anchor)
                let path = BranchPath(to: max(fence.branch, branches.map(\.branch).max() ?? 0), by: branches)
                guard let end = path.end(of: fence.branch), fence.position <= end else { continue }
                if try await isConfirmed(fence) { return true }
            }
            return false
        }
        for branch in try await catalog.archivedBranches(of: incarnation).reversed() {
            let last = try await catalog.lastChapter(of: incarnation, branch: branch)
            if try await look(try await catalog.summaries(of: incarnation, branch: branch, after: last?.last)) { return lowest }
            var chapter: Chapter?
            if let last { chapter = try await catalog.chapter(last, of: incarnation) }
            for _ in 0..<Self.chaptersBack {
                guard let here = chapter else { break }
                if try await look(here.pieces) { return lowest }
                chapter = try await catalog.chapter(before: here, of: incarnation)
            }
        }
        return lowest
    }

    /// All chapters of a branch, in log order.
    private func chapterNames(of incarnation: IncarnationRecord, branch: UInt32) async throws -> [ChapterName] {
        var names: [ChapterName] = []
        while true {
            let page = try await catalog.chapters(of: incarnation, branch: branch, behind: names.last)
            if page.isEmpty { return names }
            names += page
        }
    }

    /// The newest fence of a source.
    func lastFence(of source: String) async throws -> FenceRecord? {
        guard let incarnation = try await catalog.incarnations(of: source).last else { return nil }
        for branch in try await catalog.archivedBranches(of: incarnation).reversed() {
            let chapter = try await catalog.lastChapter(of: incarnation, branch: branch)
            let open = try await catalog.summaries(of: incarnation, branch: branch, after: chapter?.last)
            if let fence = open.last(where: { !$0.fences.isEmpty })?.fences.last { return fence }
            if let chapter, let fence = try await catalog.chapter(chapter, of: incarnation).pieces.last(where: { !$0.fences.isEmpty })?.fences.last { return fence }
        }
        return nil
    }

    // MARK: Search

    /// Goes through the chapters of a source from the newest to the oldest, until `visit` returns `false`.
    private func searchBackwards(
        _ source: String, branch wanted: UInt32? = nil, _ visit: (IncarnationRecord, [PieceSummary]) async throws -> Bool
    ) async throws {
        for incarnation in try await incarnations(of: source).reversed() {
            for branch in try await catalog.archivedBranches(of: incarnation).reversed() where wanted.map({ branch <= $0 }) ?? true {
                let names = try await chapterNames(of: incarnation, branch: branch)
                guard try await visit(incarnation, try await catalog.summaries(of: incarnation, branch: branch, after: names.last?.last)) else { return }
                for name in names.reversed() {
                    try Task.checkCancellation()
                    guard try await visit(incarnation, try await catalog.chapter(name, of: incarnation).pieces) else { return }
                }
            }
        }
    }

    private func find(transaction number: UInt64, in source: String, branch: UInt32?) async throws -> (event: LogEvent, branch: UInt32) {
        var found: (event: LogEvent, branch: UInt32)?
        try await searchBackwards(source, branch: branch) { incarnation, pieces in
            for piece in pieces.reversed() where piece.numbers?.contains(number) ?? false {
                let index = try await catalog.index(of: piece.name, of: incarnation)
                // Ids wrap around: the newest one is meant.
                if let event = index.events.last(where: { $0.number == number && $0.kind != .prepare }) {
                    found = (event, piece.name.branch)
                    return false
                }
            }
            return true
        }
        guard let found else {
            throw ArchiveError(
                .targetUnreachable, "No transaction \(number) ended in the archived log of '\(source)'.",
                remedy: "`tidemark log --xid \(number)` shows what is known; a transaction that wrote nothing leaves no trace.")
        }
        guard found.event.kind == .commit else {
            throw ArchiveError(
                .targetUnreachable, "Transaction \(number) of '\(source)' was rolled back, at \(found.event.time).",
                remedy: "Use --to-time \(found.event.time), or the id of a transaction that was committed.")
        }
        return found
    }

    private func find(restorePoint name: String, in source: String, branch: UInt32?) async throws -> (event: LogEvent, branch: UInt32) {
        var found: [(event: LogEvent, branch: UInt32)] = []
        var known: Set<String> = []
        try await searchBackwards(source, branch: branch) { _, pieces in
            for piece in pieces {
                for event in piece.notable where event.kind == .restorePoint {
                    known.insert(event.subject)
                    if event.subject == name, !found.contains(where: { $0.event.start == event.start && $0.branch == piece.name.branch }) { found.append((event, piece.name.branch)) }
                }
            }
            return true
        }
        guard let first = found.first else {
            throw ArchiveError(
                .targetUnreachable, "There is no restore point '\(name)' in the archived log of '\(source)'.",
                remedy: known.isEmpty ? "None was ever made; use --to-time." : "There are: \(known.sorted().prefix(10).joined(separator: ", "))\(known.count > 10 ? ", and others" : "").")
        }
        guard found.count == 1 else {
            let places = found.map { "\(LSN(rawValue: $0.event.start)) at \($0.event.time)" }.joined(separator: ", ")
            throw ArchiveError(
                .targetUnreachable, "There are \(found.count) restore points '\(name)' in the log of '\(source)': \(places).",
                remedy: "Name the one that is meant with --to-lsn.")
        }
        return first
    }

    private func find(fence id: String) async throws -> FenceRecord {
        for source in try await catalog.sources() {
            var found: FenceRecord?
            try await searchBackwards(source) { _, pieces in
                found = pieces.lazy.flatMap(\.fences).first { $0.id == id }
                return found == nil
            }
            if let found { return found }
        }
        throw ArchiveError(.targetUnreachable, "There is no fence '\(id)' in the archive.", remedy: "`tidemark log --all` lists them with their times.")
    }
}
