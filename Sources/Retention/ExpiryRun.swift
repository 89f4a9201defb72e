import ArchiveCore
import Catalog
import Planner
import Source
import Store

/// What an expiry of one source in one place did, or would do.
public struct ExpiryReport: Sendable {
    public var place: String
    public var plan: RetentionPlan
    public var policy: KeepPolicy
    public var isApplied: Bool
    public var total: ExpirySweep.Amount
    public var bases: [BaseReference: ExpirySweep.Amount]
    /// Of log, by history.
    public var log: [String: ExpirySweep.Amount]
    /// Where log stays since the store has it locked, and when the first of it can go.
    public var locked: [String: Moment]

    public var removesNothing: Bool { total.objects == 0 }
}

/// Removes from one place what the policies of its sources let go. It is planned from what this place itself holds: what another place lost
/// is no reason to remove anything here.
public struct ExpiryRun: Sendable {
    private let catalog: Catalog
    private let primary: Catalog?
    private let kinds: [any ComponentKind]
    private let owner: LeaseHolder
    private let clock: @Sendable () -> Moment
    private let page: Int
    private let progress: @Sendable (String, UInt64) -> Void
    private var loader: RetentionLoader { RetentionLoader(catalog, kinds: kinds) }

    /// - Parameters:
    ///   - primary: of a copy the archive that it is a copy of: what that one still has stays, as does what is held and used there.
    ///   - owner: who removes, for those who wait for it.
    ///   - page: names that are listed, and objects that are removed, at a time.
    public init(
        _ catalog: Catalog, copyOf primary: Catalog? = nil, kinds: [any ComponentKind], owner: LeaseHolder, page: Int = 2000,
        clock: @escaping @Sendable () -> Moment, progress: @escaping @Sendable (String, UInt64) -> Void = { _, _ in }
    ) {
        self.catalog = catalog
        self.primary = primary
        self.kinds = kinds
        self.owner = owner
        self.page = page
        self.clock = clock
        self.progress = progress
    }

    /// - Parameters:
    ///   - policies: by source; of others nothing is removed.
    ///   - others: where nothing is applied to a copy, what was found to go from the primary: it is taken for gone.
    public func run(_ policies: [String: KeepPolicy], apply: Bool, after others: [ExpiryReport] = []) async throws -> [ExpiryReport] {
        if apply {
            try await finishInterrupted(policies)
            try await loader.tidy(now: clock(), policies: policies)
        }
        let known = Set(try await catalog.sources())
        var reports: [ExpiryReport] = []
        for (source, policy) in policies.sorted(by: { $0.key < $1.key }) where known.contains(source) {
            reports.append(try await expire(source, policy, apply: apply, after: others.first { $0.plan.source == source && !$0.isApplied }))
        }
        return reports
    }

    // MARK: One source

    private func expire(_ source: String, _ policy: KeepPolicy, apply: Bool, after other: ExpiryReport?) async throws -> ExpiryReport {
        let now = clock()
        var view = try await loader.view(of: source)
        var limits = try await primaryLimits(of: source)
        if let other { limits.assume(other.plan) }
        let first = try await plan(&view, policy, limits, now)
        var announced = first.record(id: now.identifier, at: now, host: owner.host, process: owner.process)
        announced.limit(by: limits)
        // Nothing is announced where nothing goes, as on most days.
        var dry = ExpirySweep(catalog, source: source, isDry: true, now: now, page: page)
        try await dry.run(announced)
        guard apply, dry.total.objects > 0 else { return report(first, policy, dry, isApplied: false) }
        try Task.checkCancellation()
        try await catalog.announce(announced, isDecided: false)
        let plan: RetentionPlan
        var decided: ExpiryRecord
        do {
            // Whoever began to use something before the announcement is seen now; whoever does it afterwards sees the announcement.
            plan = try await self.plan(&view, policy, limits, now)
            decided = plan.record(id: announced.id, at: now, host: owner.host, process: owner.process)
            decided.limit(by: limits)
            try await catalog.announce(decided, isDecided: true)
        } catch {
            // Not cancelled with us: users wait for it.
            let catalog = catalog
            let withdrawn = announced
            await Task { try? await catalog.withdraw(withdrawn) }.value
            throw error
        }
        var sweep = ExpirySweep(catalog, source: source, isDry: false, now: now, page: page, progress: progress)
        try await sweep.run(decided)
        try await catalog.withdraw(decided)
        return report(plan, policy, sweep, isApplied: true)
    }

    private func report(_ plan: RetentionPlan, _ policy: KeepPolicy, _ sweep: ExpirySweep, isApplied: Bool) -> ExpiryReport {
        ExpiryReport(
            place: catalog.store.description, plan: plan, policy: policy, isApplied: isApplied, total: sweep.total, bases: sweep.bases, log: sweep.logs,
            locked: sweep.locked)
    }

    /// Asks the store about locks of what would go, until nothing more is locked.
    private func plan(_ view: inout RetentionView, _ policy: KeepPolicy, _ limits: PrimaryLimits, _ now: Moment) async throws -> RetentionPlan {
        var protections = try await loader.protections(now: now)
        if let primary {
            protections += try await RetentionLoader(primary, kinds: kinds).protections(now: now)
            protections += view.bases.map(\.reference).filter(limits.bases.contains).map { Protection(.primary, $0) }
        }
        var asked: Set<BaseReference> = []
        while true {
            let plan = RetentionPlan(view, policy: policy, protections: protections, now: now)
            var isChanged = false
            for base in plan.removed where asked.insert(base.reference).inserted {
                // Its record is its newest object.
                guard let key = ObjectKey("bases/\(view.source)/\(base.reference.incarnation)/\(base.reference.base)/base.json"),
                    let until = try await catalog.store.lockedUntil(key), until > now, let i = view.bases.firstIndex(where: { $0.reference == base.reference })
                else { continue }
                view.bases[i].lockedUntil = until
                isChanged = true
            }
            if !isChanged { return plan }
        }
    }

    // MARK: Copies

    private func primaryLimits(of source: String) async throws -> PrimaryLimits {
        var limits = PrimaryLimits()
        guard let primary else { return limits }
        for incarnation in try await primary.incarnations(of: source) {
            limits.incarnations.insert(incarnation.id)
            for id in try await primary.baseIdentifiers(of: incarnation) {
                limits.bases.insert(BaseReference(source: source, incarnation: incarnation.id, base: id))
            }
            for branch in try await primary.archivedBranches(of: incarnation) {
                if let first = try await primary.firstPiece(of: incarnation, branch: branch) { limits.pieces[incarnation.id, default: [:]][branch] = first.name }
            }
        }
        return limits
    }

    // MARK: What was interrupted

    /// Bases without their records are nothing that a plan would meet again; everything else is planned anew.
    private func finishInterrupted(_ policies: [String: KeepPolicy]) async throws {
        for expiry in try await catalog.expiries() where policies[expiry.wanted.source] != nil {
            for base in expiry.decided?.bases ?? [] {
                try await catalog.removeUnfinishedBase(base.base, of: .named(base.incarnation, of: base.source))
            }
            try await catalog.withdraw(expiry.wanted)
        }
    }
}

/// What the archive that a copy is one of still has.
struct PrimaryLimits: Sendable {
    var incarnations: Set<String> = []
    var bases: Set<BaseReference> = []
    /// By history and branch the first piece.
    var pieces: [String: [UInt32: String]] = [:]

    /// Takes what a plan lets go for gone.
    mutating func assume(_ plan: RetentionPlan) {
        bases.subtract(plan.removed.map(\.reference))
        for id in plan.removedHistories {
            incarnations.remove(id)
            pieces[id] = nil
        }
        for (id, fates) in plan.log {
            for (branch, fate) in fates {
                switch fate {
                case .all: break
                case .from(let piece): if let first = pieces[id]?[branch] { pieces[id]?[branch] = max(first, piece) }
                case .none: pieces[id]?[branch] = nil
                }
            }
        }
    }
}

extension ExpiryRecord {
    /// Leaves out what the primary has: it would be copied again.
    mutating func limit(by limits: PrimaryLimits) {
        incarnations.removeAll { limits.incarnations.contains($0) }
        log = log.compactMap { log in
            guard let first = limits.pieces[log.incarnation]?[log.branch] else { return log }
            var log = log
            log.before = log.before.map { min($0, first) } ?? first
            return log
        }
    }
}
