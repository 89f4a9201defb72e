import ArchiveCore
import Catalog
import Glibc
import Planner
import Restore
import Retention
import Runtime

struct KeepResult: Encodable {
    struct Base: Encodable {
        var source, incarnation, base: String
        init(_ reference: BaseReference) {
            source = reference.source
            incarnation = reference.incarnation
            base = reference.base
        }
    }
    struct Hold: Encodable {
        var id, created, host: String
        var until, reason: String?
        /// Whether its time is over: it holds nothing any more.
        var ended: Bool
        var bases: [Base]

        init(_ hold: HoldRecord, now: Moment) {
            id = hold.id
            created = "\(hold.created)"
            host = hold.host
            until = hold.until.map { "\($0)" }
            reason = hold.reason
            ended = hold.until.map { $0 <= now } ?? false
            bases = hold.bases.map(Base.init)
        }
    }
    struct Use: Encodable {
        var id, what, host, started, expires: String
        var process: Int32
        var bases: [Base]

        init(_ use: UseRecord) {
            (id, what, host, process) = (use.id, use.what, use.host, use.process)
            started = "\(use.started)"
            expires = "\(use.expires)"
            bases = use.bases.map(Base.init)
        }
    }
    var holds: [Hold] = []
    var uses: [Use] = []
    /// Of a release: what was let go.
    var released: String?
}

let keepCommand = Command(
    "keep", "Hold bases and the log behind them against retention, list what is held and used, or let go.",
    options: Shared.place + [
        Shared.source,
        Option("base", "ID", help: "Hold this base."),
        Option("time", "TIME", help: "Hold of each source the newest usable base at or before this time: what a restore to it and to anything later needs."),
        Option("zone", "ZONE", help: "The zone of times without an offset, such as Europe/Berlin."),
        Option("plan", "ID", help: "Hold what a plan needs that `tidemark plan --save` stored."),
        Option("until", "TIME|DURATION", help: "When the hold ends by itself, such as 2027-01-01T00:00:00Z or 90d; default: never."),
        Option("reason", "TEXT", help: "Why; shown by --list and by `tidemark expire`."),
        Option("list", help: "Show holds, and uses by restores that run."),
        Option("release", "ID", help: "Let go what a hold keeps, or a use that a dead restore left."),
    ], example: "tidemark keep --time 2026-11-24T02:53:30Z --until 90d --reason 'audit 2026-17'"
) { arguments in
    let actions = ["base", "time", "plan", "list", "release"].filter { arguments.has($0) }
    guard let action = actions.first else {
        throw ArchiveError(.usage, "Nothing says what to hold.", remedy: "Add --base ID, --time TIME or --plan ID; or --list, or --release ID.")
    }
    guard actions.count == 1 else { throw ArchiveError(.usage, "--\(actions[0]) and --\(actions[1]) were both given.", remedy: "Give one of them.") }
    for option in ["until", "reason"] where arguments.has(option) && ["list", "release"].contains(action) {
        throw ArchiveError(.usage, "--\(option) does not go with --\(action).")
    }
    let until = try arguments["until"].map { text throws(ArchiveError) in try HoldTimes.end(text, zone: arguments["zone"]) }
    let place = try ArchivePlace(arguments)
    return try await interruptible {
        let catalog = try await place.open()
        var result = KeepResult()
        switch action {
        case "list":
            result.holds = try await catalog.holds().map { KeepResult.Hold($0, now: now()) }
            result.uses = try await catalog.uses().filter { $0.expires > now() }.map(KeepResult.Use.init)
        case "release":
            let id = arguments["release"] ?? ""
            if try await !catalog.releaseHold(id) {
                guard try await catalog.uses().contains(where: { $0.id == id }) else {
                    throw ArchiveError(.usage, "There is no hold and no use '\(id)' in the archive.", remedy: "`tidemark keep --list` shows what there is.")
                }
                try await catalog.removeUse(id)
            }
            result.released = id
        default:
            let bases = try await HoldTimes.bases(arguments, in: catalog)
            let hold = HoldRecord(
                id: now().identifier, created: now(), host: hostName(), bases: bases, until: until, reason: arguments["reason"])
            try await catalog.record(hold)
            do {
                if let lost = try await catalog.lost(of: bases).min(by: { $0.base < $1.base }) {
                    throw ArchiveError(.targetUnreachable, "The base \(lost) is being removed by an expiry.", remedy: "Hold a later one; `tidemark list` shows what there is.")
                }
            } catch {
                await Task { _ = try? await catalog.releaseHold(hold.id) }.value
                throw error
            }
            result.holds = [KeepResult.Hold(hold, now: now())]
        }
        if arguments.has("json") { try Output.json(result) } else { render(result, action) }
        return 0
    }
}

private enum HoldTimes {
    static func end(_ text: String, zone: String?) throws(ArchiveError) -> Moment {
        let until: Moment
        if let seconds = TargetTime.duration(text) { until = now().adding(seconds: min(seconds, 3_650_000_000)) } else {
            until = try TargetTime.parse(text, zone: zone)
        }
        guard until > now() else { throw ArchiveError(.usage, "--until \(text) is over already.", remedy: "Name a time to come, or a duration such as 90d.") }
        return until
    }

    /// The bases that the command line means.
    static func bases(_ arguments: Arguments, in catalog: Catalog) async throws -> [BaseReference] {
        let wanted = arguments.all("source")
        let known = try await catalog.sources()
        for name in wanted where !known.contains(name) {
            throw ArchiveError(.usage, "The archive has no source '\(name)'.", remedy: known.isEmpty ? nil : "It has: \(known.joined(separator: ", ")).")
        }
        let sources = wanted.isEmpty ? known : wanted
        if let id = arguments["plan"] {
            guard let plan = try await PlanLoader(catalog: catalog, kinds: Registry.kinds).storedPlans().first(where: { $0.id == id }) else {
                throw ArchiveError(.usage, "There is no plan '\(id)' in the archive.", remedy: "Make one with `tidemark plan --save`.")
            }
            return plan.bases.filter { sources.contains($0.source) }
        }
        var found: [BaseReference] = []
        if let id = arguments["base"] {
            for source in sources {
                for incarnation in try await catalog.incarnations(of: source) where try await catalog.base(id, of: incarnation) != nil {
                    found.append(BaseReference(source: source, incarnation: incarnation.id, base: id))
                }
            }
            guard !found.isEmpty else { throw ArchiveError(.usage, "There is no complete base '\(id)'.", remedy: "`tidemark list` shows what there is.") }
            return found
        }
        let time = try TargetTime.parse(arguments["time"] ?? "", zone: arguments["zone"])
        for source in sources {
            let view = try await RetentionLoader(catalog, kinds: Registry.kinds).view(of: source)
            guard let base = view.newestUsable(at: time) else {
                throw ArchiveError(
                    .targetUnreachable, "'\(source)' has no usable base at or before \(time).", remedy: "`tidemark window` lists what can be reached; --source leaves others out.")
            }
            found.append(base.reference)
        }
        return found
    }
}

private func render(_ result: KeepResult, _ action: String) {
    if let id = result.released { return Output.line("\(id) is released") }
    if action == "list", result.holds.isEmpty, result.uses.isEmpty { Output.line("nothing is held, and nothing is in use") }
    for hold in result.holds {
        Output.line("hold \(hold.id)\(hold.until.map { hold.ended ? ", over since \($0)" : ", until \($0)" } ?? ""), made on \(hold.host)\(hold.reason.map { ": \($0)" } ?? "")")
        for base in hold.bases { Output.line("  \(base.source): base \(base.base) and all log from it on") }
    }
    for use in result.uses {
        Output.line("use \(use.id): \(use.what) on \(use.host) (process \(use.process)) since \(use.started), until \(use.expires) unless renewed")
        for base in use.bases { Output.line("  \(base.source): base \(base.base)") }
    }
}
