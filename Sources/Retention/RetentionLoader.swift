import ArchiveCore
import Catalog
import Planner
import Restore
import Runtime
import Source
import Store

/// Reads from the archive what `RetentionPlan` decides on.
public struct RetentionLoader: Sendable {
    private let catalog: Catalog
    private let kinds: [any ComponentKind]

    /// Days for which a saved plan keeps its bases.
    public static let planDays = 7.0
    /// Days for which the history of the lag stays, or as long as the window where that is longer.
    private static let lagDays = 400.0
    /// Times that the log of a base is gone through anew when an agent replaced tails meanwhile.
    private static let attempts = 5

    public init(_ catalog: Catalog, kinds: [any ComponentKind]) {
        self.catalog = catalog
        self.kinds = kinds
    }

    /// Holds one base's listing and one chapter at a time.
    ///
    /// - Throws: `.sourceUnsupported` for a kind that is not known here: what its log needs cannot be told.
    public func view(of source: String) async throws -> RetentionView {
        var view = RetentionView(source: source, bases: [], histories: [])
        for incarnation in try await catalog.incarnations(of: source) {
            guard let kind = kinds.first(where: { $0.kind == incarnation.kind }) else {
                throw ArchiveError(
                    .sourceUnsupported, "'\(source)' is of the kind '\(incarnation.kind)', which this tidemark does not know: nothing of it was removed.",
                    remedy: "Use the tidemark that archives it.")
            }
            let branches = try await catalog.branches(of: incarnation)
            let archived = Set(try await catalog.archivedBranches(of: incarnation) + catalog.branchesWithChapters(of: incarnation)).sorted()
            var records: [BaseRecord] = []
            for id in try await catalog.baseIdentifiers(of: incarnation) {
                let reference = BaseReference(source: source, incarnation: incarnation.id, base: id)
                do { if let base = try await catalog.base(id, of: incarnation) { records.append(base) } } catch let error as ArchiveError
                    where error.code == .archiveDamaged
                {
                    let begun = Moment.ofIdentifier(id) ?? incarnation.created
                    view.bases.append(
                        .init(reference: reference, started: begun, completed: begun, branch: 0, firstPiece: nil, usableOn: [], isReadable: false))
                }
            }
            let tips = Set(archived + branches.map(\.branch) + records.map(\.branch)).sorted()
            let watermark = try await catalog.watermark(of: incarnation)
            var ends: [UInt32: Moment] = [:]
            for branch in archived { ends[branch] = try await lastCommit(of: incarnation, on: branch) }
            if let tip = tips.last, let watermark { ends[tip] = max(watermark, ends[tip] ?? watermark) }
            for base in records {
                var usable: Set<UInt32> = []
                if try await isWhole(base, in: incarnation) {
                    for tip in tips {
                        guard let path = BranchPath(from: base.branch, to: tip, by: branches) else { continue }
                        if try await hasLog(base, in: incarnation, along: path, kind) { usable.insert(tip) }
                    }
                }
                view.bases.append(
                    .init(
                        reference: BaseReference(source: source, incarnation: incarnation.id, base: base.id), started: base.started, completed: base.completed,
                        branch: base.branch, firstPiece: base.firstPiece, usableOn: usable, origins: base.origins ?? []))
            }
            let latest = (ends.values + records.map(\.completed)).max() ?? incarnation.created
            view.histories.append(.init(id: incarnation.id, number: incarnation.number, branches: branches, archived: archived, ends: ends, latest: latest))
        }
        return view
    }

    /// The latest time of which a branch has an event.
    private func lastCommit(of incarnation: IncarnationRecord, on branch: UInt32) async throws -> Moment? {
        var latest: Moment?
        var last: ChapterName?
        func see(_ time: Moment?) { if let time { latest = max(time, latest ?? time) } }
        while true {
            try Task.checkCancellation()
            let names = try await catalog.chapters(of: incarnation, branch: branch, behind: last)
            for name in names { see(name.times?.upperBound) }
            last = names.last ?? last
            guard names.count == 1024 else { break }
        }
        for piece in try await catalog.summaries(of: incarnation, branch: branch, after: last?.last) { see(piece.eventTimes?.upperBound) }
        return latest
    }

    /// Whether all objects of a base are there, with the lengths that they were stored with.
    private func isWhole(_ base: BaseRecord, in incarnation: IncarnationRecord) async throws -> Bool {
        let folder = "\(catalog.baseFolder(of: incarnation))\(base.id)/"
        var lengths = Dictionary(base.parts.map { ($0.name, $0.storedLength) }, uniquingKeysWith: { a, _ in a })
        var others: Set<String> = base.spansSHA256 == nil ? [catalog.treeIndexName] : [catalog.treeIndexName, "spans.zst"]
        var after: String?
        while true {
            try Task.checkCancellation()
            let page = try await catalog.store.list(prefix: folder, after: after, limit: 4096)
            for object in page {
                let name = String(object.key.path.dropFirst(folder.utf8.count))
                others.remove(name)
                if lengths[name] == object.size { lengths[name] = nil }
            }
            guard page.count == 4096 else { return lengths.isEmpty && others.isEmpty }
            after = page.last?.key.path
        }
    }

    /// Whether the log is there that was written while a base was taken, and brings everything that it refers to.
    private func hasLog(_ base: BaseRecord, in incarnation: IncarnationRecord, along path: BranchPath, _ kind: any ComponentKind) async throws -> Bool {
        let windows: [LogSpan]
        do { windows = try await catalog.spans(of: base, in: incarnation) } catch let error as ArchiveError
            where error.code == .objectDamaged || error.code == .objectMissing
        { return false }
        let ranges = Dictionary(windows.map { ($0.stream, $0.start..<max($0.start, $0.end)) }, uniquingKeysWith: { a, _ in a })
        for attempt in 1... {
            var walk = WindowWalk(
                base: base, windows: windows, path: path, streamsMayBeginEmpty: kind.streamsMayBeginEmpty, firstOffset: kind.firstOffset)
            var cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: base.firstPiece)
            var names: [PieceName] = []
            while !walk.hasBase, let piece = try await cursor.next() {
                try Task.checkCancellation()
                guard walk.add(piece) else { break }
                names.append(piece.name)
                let spans = piece.spans
                // Content that could not be archived with the entry that links it.
                for event in piece.notable where event.flags.contains(.unresolvedLink) && ranges[spans[event.span].stream]?.contains(event.start) == true { return false }
            }
            guard walk.hasBase, walk.range(watermark: Moment(rawValue: .max)) != nil || walk.hole != nil else { return false }
            let missing = try await catalog.missing(names, of: incarnation)
            if missing.isEmpty { return true }
            // Tails that are gone were replaced by their closed piece.
            if missing.contains(where: { $0.part == nil }) || attempt == Self.attempts { return !missing.contains { $0.part == nil } }
        }
        preconditionFailure("the last attempt returns")
    }

    // MARK: Protections

    /// What somebody wants to stay: holds and uses whose time is not over, and saved plans that are not too old.
    public func protections(now: Moment) async throws -> [Protection] {
        var found: [Protection] = []
        for hold in try await catalog.holds() where hold.until.map({ $0 > now }) ?? true { found += hold.bases.map { Protection(.hold(hold.id), $0) } }
        for use in try await catalog.uses() where use.expires > now {
            found += use.bases.map { Protection(.use(use.id, what: use.what, host: use.host), $0) }
        }
        for plan in try await PlanLoader(catalog: catalog, kinds: kinds).storedPlans() where now - plan.created < Self.planDays * 86_400 {
            found += plan.bases.map { Protection(.plan(plan.id), $0) }
        }
        return found
    }

    /// Removes holds, uses, plans and history of the lag whose time is over.
    func tidy(now: Moment, policies: [String: KeepPolicy]) async throws {
        for (source, policy) in policies { try await catalog.removeLagHistory(of: source, before: now.adding(seconds: -max(policy.window, Self.lagDays * 86_400))) }
        for hold in try await catalog.holds() where hold.until.map({ $0 <= now }) ?? false { _ = try await catalog.releaseHold(hold.id) }
        // A use may be renewed late: it is gone for good an hour after its time only.
        for use in try await catalog.uses() where now - use.expires > 3600 { try await catalog.removeUse(use.id) }
        let loader = PlanLoader(catalog: catalog, kinds: kinds)
        for plan in try await loader.storedPlans() where now - plan.created >= Self.planDays * 86_400 && plan.bases.allSatisfy({ policies[$0.source] != nil }) {
            try await loader.removePlan(plan.id)
        }
    }
}
