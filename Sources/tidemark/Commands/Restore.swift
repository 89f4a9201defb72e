import ArchiveCore
import Catalog
import CrossCheck
import Glibc
import Planner
import Restore
import Runtime
import Source

private let targetOptions = [
    Option("to-time", "TIME", help: "Stop at this moment: RFC 3339 with an offset, -15m, or a local time with --zone."),
    Option("zone", "ZONE", help: "The zone of a --to-time without an offset, such as Europe/Berlin."),
    Option("latest", help: "Restore everything that is archived: for several sources, up to the newest time that all have."),
]

struct PlanReport: Encodable {
    var source, base, incarnation: String
    var time: String?
    var cuts: [String: String]
    var pieces, applied, left: Int
    var bytes: UInt64
    var lastApplied: String?
}

struct RestoreResult: Encodable {
    struct Part: Encodable {
        var plan: PlanReport
        var directory: String
        var steps: [String: Double]
        var facts: [String: String]
        var warnings: [String]
    }
    var target: String
    var parts: [Part]
    /// One for each database that was checked against the repositories restored with it.
    var crossChecks: [CrossCheckReport]
}

/// Reads `--to-time` or `--latest` and makes one plan for each source; nothing is moved.
private func makePlans(
    _ arguments: Arguments, sources: [String], catalog: Catalog
) async throws -> (target: String, moment: Moment?, plans: [SourcePlan]) {
    let loader = PlanLoader(catalog: catalog)
    let target: RecoveryTarget
    switch (arguments["to-time"], arguments.has("latest")) {
    case (let text?, false): target = .time(try TargetTime.parse(text, zone: arguments["zone"]))
    case (nil, true) where sources.count == 1: target = .latest
    case (nil, true):
        // One instant for all: the newest that every source is complete up to.
        var newest: Moment?
        for source in sources {
            let window = try await loader.window(of: source, kinds: Registry.kinds)
            guard let last = window.ranges.last?.upperBound else {
                throw ArchiveError(
                    .targetUnreachable, "'\(source)' cannot be restored to any time.",
                    remedy: "`tidemark window` says why; take a base with `tidemark backup --source \(source)`.")
            }
            newest = min(newest ?? last, last)
        }
        guard let newest else { throw ArchiveError(.usage, "There is nothing to restore.") }
        target = .time(newest)
    case (nil, false): throw ArchiveError(.usage, "No target was given.", remedy: "Add --to-time TIME or --latest.")
    case (_?, true): throw ArchiveError(.usage, "--to-time and --latest were both given.", remedy: "Give one of them.")
    }
    var plans: [SourcePlan] = []
    for source in sources { plans.append(try await loader.plan(source: source, target: target, kinds: Registry.kinds)) }
    guard case .time(let time) = target else { return ("the end of the archive", nil, plans) }
    return (Output.time(time), time, plans)
}

private func report(_ plan: SourcePlan) throws -> PlanReport {
    let kind = try Registry.kind(plan.incarnation.kind)
    var cuts: [String: String] = [:]
    for cut in plan.cuts { cuts[cut.stream] = kind.describe(offset: cut.through ?? cut.end) }
    return PlanReport(
        source: plan.source, base: plan.base.id, incarnation: plan.incarnation.id, time: plan.lastApplied.map { "\($0)" }, cuts: cuts,
        pieces: plan.pieces.count, applied: plan.applied, left: plan.left, bytes: plan.bytes, lastApplied: plan.lastApplied.map { "\($0)" })
}

private func describe(_ plan: PlanReport) -> String {
    let cut = plan.cuts.count == 1 ? "to \(plan.cuts.values.first ?? "")" : "in \(plan.cuts.count) partitions"
    return "\(plan.source): base \(plan.base), \(plan.pieces) pieces of log (\(Output.bytes(plan.bytes)) in all), \(plan.applied) commits \(cut)"
        + (plan.lastApplied.map { ", the last of \($0)" } ?? "") + "; \(plan.left) later ones are left out"
}

let planCommand = Command(
    "plan", "Show what a restore would do, without doing it.", options: Shared.place + targetOptions + [Shared.source],
    example: "tidemark plan --to-time 2026-11-24T02:53:30Z"
) { arguments in
    let catalog = try await Shared.catalog(arguments)
    let wanted = arguments.all("source")
    let known = try await catalog.sources()
    let (target, _, plans) = try await makePlans(arguments, sources: wanted.isEmpty ? known : wanted, catalog: catalog)
    let reports = try plans.map(report)
    if arguments.has("json") { try Output.json(reports) } else {
        Output.line("target: \(target)")
        for report in reports { Output.line(describe(report)) }
    }
    return 0
}

let restoreCommand = Command(
    "restore", "Bring sources back to one instant, into new directories.",
    options: Shared.place + targetOptions + [
        Option("into", "NAME=DIR", repeats: true, help: "Restore the source NAME into DIR, which is empty or does not exist."),
        Shared.source,
        Option("recover", "none|promote", help: "promote: run PostgreSQL's recovery to the target and stop it again (default); none: prepare only."),
        Option("bindir", "DIR", help: "Where PostgreSQL's programs are; default: found by the base's version."),
        Option("tablespace-mapping", "OLD=NEW", repeats: true, help: "Where the tablespace at OLD goes; default: DIR.tablespaces/OID."),
    ] + CrossChecking.options, example: "tidemark restore --to-time 2026-11-24T02:53:30Z --into main=/srv/pg --into default=/srv/git"
) { arguments in
    func pairs(_ option: String) throws -> [(String, String)] {
        try arguments.all(option).map { text in
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
                throw ArchiveError(.usage, "--\(option) '\(text)' is not of the form \(option == "into" ? "NAME=DIR" : "OLD=NEW").")
            }
            return (parts[0], absolute(parts[1]))
        }
    }
    let wanted = arguments.all("source")
    let into = try pairs("into").filter { wanted.isEmpty || wanted.contains($0.0) }
    guard !into.isEmpty else { throw ArchiveError(.usage, "Nothing says where to restore to.", remedy: "Add --into NAME=DIR for each source.") }
    guard Set(into.map(\.0)).count == into.count, Set(into.map(\.1)).count == into.count else {
        throw ArchiveError(.usage, "--into names a source or a directory twice.")
    }
    let mode = arguments["recover"] ?? "promote"
    guard let recover = RecoveryMode(rawValue: mode) else { throw ArchiveError(.usage, "--recover is '\(mode)'; it takes none or promote.") }
    let mappings = Dictionary(try pairs("tablespace-mapping"), uniquingKeysWith: { $1 })
    let location = try Shared.location(arguments)
    let crossChecking = try CrossChecking(arguments)
    return try await interruptible {
        for (_, directory) in into { try RestoreRun.checkTarget(directory) }
        let catalog = try await Catalog.open(try location.open())
        let (target, moment, plans) = try await makePlans(arguments, sources: into.map(\.0), catalog: catalog)
        let reports = try plans.map(report)
        Output.note("target: \(target)")
        for report in reports { Output.note(describe(report)) }
        let progress = Progress()
        defer { progress.end() }
        var parts: [RestoreResult.Part] = []
        for ((name, directory), (plan, report)) in zip(into, zip(plans, reports)) {
            let kind = try Registry.kind(plan.incarnation.kind)
            let order = RestoreOrder(
                plan: plan, directory: directory, recover: recover, bindir: arguments["bindir"],
                fetchCommand: "\(shellQuoted(ownPath())) wal-fetch --archive \(shellQuoted("\(location)")) --source \(name) %f %p", mappings: mappings)
            let run = RestoreRun(catalog: catalog) { progress.show("\(name): \($0)", $1, $2) }
            let done = try await run.run(order, with: kind.restoreTarget)
            progress.end()
            let part = RestoreResult.Part(
                plan: report, directory: directory, steps: Dictionary(done.steps.map { ($0.name, $0.seconds) }, uniquingKeysWith: +),
                facts: Dictionary(done.outcome.facts, uniquingKeysWith: { $1 }), warnings: done.outcome.warnings)
            parts.append(part)
            if !arguments.has("json") {
                Output.line("\(name) is restored in \(directory)")
                for step in done.steps { Output.line("  \(step.name): \(Output.oneDecimal(step.seconds)) s") }
                for fact in done.outcome.facts { Output.line("  \(fact.0): \(fact.1)") }
                for warning in part.warnings { Output.line("  warning: \(warning)") }
            }
        }
        let checked = try await crossChecking.run(
            zip(into, plans).map { CrossChecking.Part(name: $0.0, directory: $0.1, plan: $1) }, recover: recover, bindir: arguments["bindir"],
            target: moment, catalog: catalog, progress: { progress.show($0, $1, $2) })
        progress.end()
        if arguments.has("json") { try Output.json(RestoreResult(target: target, parts: parts, crossChecks: checked)) } else {
            for report in checked { Output.line(report.text()) }
        }
        return parts.contains { !$0.warnings.isEmpty } || checked.contains(where: \.hasLosses) ? 4 : 0
    }
}

/// `path` from the root, without following links.
private func absolute(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    guard let here = getcwd(nil, 0) else { return path }
    defer { free(here) }
    return String(cString: here) + "/" + path
}

private func shellQuoted(_ text: String) -> String { "'" + text.replacing("'", with: "'\\''") + "'" }

/// The program that runs now.
private func ownPath() -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let n = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.bindMemory(to: CChar.self).baseAddress!, $0.count) }
    return n > 0 ? String(decoding: buffer[..<n], as: UTF8.self) : "tidemark"
}
