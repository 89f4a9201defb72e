import ArchiveCore
import Catalog
import Planner
import Retention
import Runtime
import Sidecar
import Store
import Synchronization

struct ExpireResult: Encodable {
    struct Base: Encodable {
        var id, incarnation, completed: String
        var usable: Bool
        /// Why it stays.
        var reasons: [String]?
        var objects: Int?
        var bytes: UInt64?
    }
    struct Log: Encodable {
        var incarnation: String
        var objects: Int
        var bytes: UInt64
        /// Log that would go too, and stays until then since the store has it locked.
        var lockedUntil: String?
    }
    struct Source: Encodable {
        var source: String
        var windowSeconds: Double
        var bases: Int
        /// The beginning of the window.
        var start: String
        var kept, removed: [Base]
        var log: [Log]
        var removedHistories: [String]
        var objects: Int
        var bytes: UInt64
    }
    struct Place: Encodable {
        var place: String
        /// Why nothing was done there, or not everything.
        var problem: String?
        var sources: [Source]
    }
    var applied: Bool
    var places: [Place]
}

let expireCommand = Command(
    "expire", "Remove what retention lets go; without --apply only show it.",
    options: [
        Shared.config, Shared.json, Shared.source, Option("apply", help: "Remove it. Without this nothing is changed."),
    ], example: "tidemark expire --apply"
) { arguments in
    let configuration = try Shared.configuration(arguments)
    let isJSON = arguments.has("json")
    let policies = Expiry.policies(try Shared.sources(arguments, of: configuration))
    guard !policies.isEmpty else {
        throw ArchiveError(
            .configuration, "No source says how long it is kept, so nothing of any is ever removed.", remedy: "Write keep: { window: 14d, bases: 2 } into the configuration.")
    }
    let apply = arguments.has("apply")
    return try await interruptible {
        let progress = Progress()
        defer { progress.end() }
        let places = try await Expiry.run(configuration, policies: policies, apply: apply) { progress.show($0, $1, nil) }
        progress.end()
        if isJSON { try Output.json(ExpireResult(applied: apply, places: places.map(ExpireResult.Place.init))) } else {
            for place in places { Expiry.render(place, apply: apply) }
            if !apply { Output.line("nothing was changed; `tidemark expire --apply` removes it") }
        }
        return places.contains { $0.error != nil } ? 4 : 0
    }
}

/// Expiry as the configuration wants it, of the primary and then of each copy.
enum Expiry {
    struct Place: Sendable {
        var name: String
        var reports: [ExpiryReport] = []
        /// Why a copy was left as it is.
        var error: ArchiveError?
    }

    /// Of the sources that have one.
    static func policies(_ sources: [Configuration.Source]) -> [String: KeepPolicy] {
        Dictionary(sources.compactMap { source in source.keep.map { (source.name, $0) } }, uniquingKeysWith: { a, _ in a })
    }

    /// - Throws: what goes wrong in the primary; what does in a copy is in its place, and does not keep the others from being tidied.
    static func run(
        _ configuration: Configuration, policies: [String: KeepPolicy], apply: Bool, progress: @escaping @Sendable (String, UInt64) -> Void
    ) async throws -> [Place] {
        let place = try ArchivePlace(configuration)
        let catalog = try await place.open()
        let run = ExpiryRun(catalog, kinds: Registry.kinds, owner: .current, clock: { now() }, progress: progress)
        var places = [Place(name: catalog.store.description, reports: try await alone(in: catalog, if: apply) { try await run.run(policies, apply: apply) })]
        for store in try place.copies() {
            var result = Place(name: store.description)
            do {
                let copy = try await Catalog.open(store)
                guard copy.identity == catalog.identity else {
                    throw ArchiveError(.twoHistories, "\(store.description) holds another archive.", remedy: "Name the right place under 'copies'.")
                }
                let run = ExpiryRun(copy, copyOf: catalog, kinds: Registry.kinds, owner: .current, clock: { now() }, progress: progress)
                let others = places[0].reports
                result.reports = try await alone(in: copy, if: apply) { try await run.run(policies, apply: apply, after: others) }
            } catch let error as ArchiveError { result.error = error }
            places.append(result)
        }
        return places
    }

    /// One expiry at a time removes anything from a place.
    private static func alone<T: Sendable>(in catalog: Catalog, if apply: Bool, _ body: @escaping @Sendable () async throws -> T) async throws -> T {
        guard apply else { return try await body() }
        let isTold = Mutex(false)
        return try await holdingLease("expire", for: "expiry", in: catalog, isPatient: true) { other in
            guard !isTold.withLock({ told in defer { told = true }; return told }) else { return }
            Log("expire").info("waiting for \(other.host) (process \(other.process)), which expires \(catalog.store.description) since \(other.since)")
        } _: {
            try await body()
        }
    }

    static func render(_ place: Place, apply: Bool) {
        Output.line("\(place.name):")
        if let error = place.error {
            Output.line("  PROBLEM  \(error.message) Nothing was removed there.")
            if let remedy = error.remedy { Output.line("           next: \(remedy)") }
        }
        for report in place.reports {
            let plan = report.plan
            Output.line("  \(plan.source): kept from \(Output.time(plan.start)) on, and \(report.policy.bases) usable base\(report.policy.bases == 1 ? "" : "s")")
            for kept in plan.kept {
                Output.line("    stays     base \(kept.base.reference.base), complete at \(kept.base.completed)\(kept.base.isUsable ? "" : ", not usable"): \(kept.reasons.map(\.description).joined(separator: "; "))")
            }
            let verb = report.isApplied ? "removed  " : "would go "
            for base in plan.removed {
                let size = report.bases[base.reference].map { ", \(Output.bytes($0.bytes))" } ?? ""
                Output.line("    \(verb) base \(base.reference.base), complete at \(base.completed)\(base.isUsable ? "" : ", not usable")\(size)")
            }
            for id in plan.removedHistories { Output.line("    \(verb) the history \(id)") }
            for (history, amount) in report.log.sorted(by: { $0.key < $1.key }) where amount.objects > 0 {
                Output.line("    \(verb) log of \(history) before the first base that stays: \(amount.objects) objects, \(Output.bytes(amount.bytes))")
            }
            for (history, until) in report.locked.sorted(by: { $0.key < $1.key }) {
                Output.line("    stays     older log of \(history): \(RetentionPlan.Reason.locked(until).description)")
            }
            Output.line("    \(report.removesNothing ? "nothing goes" : "\(report.isApplied ? "freed" : "to be freed"): \(Output.bytes(report.total.bytes)) in \(report.total.objects) objects")")
        }
    }
}

extension ExpireResult.Place {
    init(_ place: Expiry.Place) {
        self.init(place: place.name, problem: place.error?.message, sources: place.reports.map(ExpireResult.Source.init))
    }
}

extension ExpireResult.Source {
    init(_ report: ExpiryReport) {
        func base(_ base: RetentionView.Base, reasons: [RetentionPlan.Reason]?) -> ExpireResult.Base {
            let amount = reasons == nil ? report.bases[base.reference] : nil
            return .init(
                id: base.reference.base, incarnation: base.reference.incarnation, completed: "\(base.completed)", usable: base.isUsable,
                reasons: reasons?.map(\.description), objects: amount?.objects, bytes: amount?.bytes)
        }
        let histories = Set(report.log.keys).union(report.locked.keys).sorted()
        self.init(
            source: report.plan.source, windowSeconds: report.policy.window, bases: report.policy.bases, start: "\(report.plan.start)",
            kept: report.plan.kept.map { base($0.base, reasons: $0.reasons) }, removed: report.plan.removed.map { base($0, reasons: nil) },
            log: histories.map {
                .init(
                    incarnation: $0, objects: report.log[$0]?.objects ?? 0, bytes: report.log[$0]?.bytes ?? 0,
                    lockedUntil: report.locked[$0].map { "\($0)" })
            }, removedHistories: report.plan.removedHistories, objects: report.total.objects, bytes: report.total.bytes)
    }
}
