import ArchiveCore
import Catalog
import CrossCheck
import Glibc
import Planner
import Restore
import Runtime
import Source

struct RestoreResult: Encodable {
    struct Part: Encodable {
        var plan: PlanReport.Source
        var directory: String
        var steps: [String: Double]
        var facts: [String: String]
        var warnings: [String]
    }
    var target: String
    var parts: [Part]
    /// One for each database that was checked against the repositories restored with it.
    var crossChecks: [CrossCheckReport]
    /// What did not come from the primary.
    var fallbacks: [Fallback]
}

/// A plan for all sources, and how it is shown. Nothing is moved.
private func makePlan(
    _ arguments: Arguments, request: PlanRequest, sources: [String], catalog: Catalog
) async throws -> (plan: JointPlan, report: PlanReport) {
    let loader = PlanLoader(catalog: catalog, kinds: Registry.kinds)
    let plan = try await loader.plan(request, sources: sources)
    let target = TargetOptions.text(request)
    var saved: String?
    if arguments.has("save") {
        // Kept as somebody makes it who cannot see names: a plan that is kept is not encrypted.
        let blind = PlanLoader(catalog: catalog.withoutIdentities, kinds: Registry.kinds)
        let kept = catalog.isEncrypted ? try await blind.plan(request, sources: sources) : plan
        let id = try await blind.save(kept, target: target, at: now())
        guard try await catalog.lost(of: kept.bases).isEmpty else {
            try await blind.removePlan(id)
            throw ArchiveError(
                .targetUnreachable, "A base that the plan begins with is being removed by an expiry.",
                remedy: "Plan again for a later time; `tidemark window` lists what can be reached.")
        }
        saved = id
    }
    return (plan, try await report(plan, target: target, saved: saved, loader: loader))
}

private func report(_ plan: JointPlan, target: String, saved: String?, loader: PlanLoader) async throws -> PlanReport {
    var lost: [String: [LogEvent]] = [:]
    for part in plan.plans where part.left.map({ $0.drops + $0.created + $0.deleted > 0 }) ?? false { lost[part.source] = try await loader.aftermath(of: part) }
    return try PlanReport(plan, target: target, saved: saved, lost: lost)
}

private func show(_ report: PlanReport, _ moment: Moment?, _ put: (String) -> Void) {
    put("target: \(report.target)")
    if let moment { put("moment: \(Output.time(moment))") }
    for source in report.sources { source.lines.forEach(put) }
    for warning in report.warnings { put("warning: \(warning)") }
    put("to read: \(Output.bytes(report.bytes)); about \(Int(report.estimatedSeconds.rounded(.up))) s on a machine like the one of the benchmarks")
}

let planCommand = Command(
    "plan", "Show what a restore would do, without doing it.",
    options: Shared.place + [IdentityFile.option] + TargetOptions.all + [
        Shared.source, Option("save", help: "Keep the plan in the archive, so that several nodes carry out their parts of it with restore --plan."),
    ], example: "tidemark plan --to-time 2026-11-24T02:53:30Z"
) { arguments in
    let request = try TargetOptions.request(arguments)
    let place = try ArchivePlace(arguments)
    return try await interruptible {
        let (catalog, fallbacks) = try await place.openReading(withIdentities: true)
        defer { fallbacks.warn() }
        let wanted = arguments.all("source")
        let known = try await catalog.sources()
        guard !known.isEmpty else {
            throw ArchiveError(.targetUnreachable, "The archive holds no source yet.", remedy: "Start `tidemark agent`, then take a base with `tidemark backup`.")
        }
        var (plan, report) = try await makePlan(arguments, request: request, sources: wanted.isEmpty ? known : wanted, catalog: catalog)
        report.fallbacks = fallbacks.json
        if arguments.has("json") { try Output.json(report) } else {
            show(report, plan.moment) { Output.line($0) }
            if let id = report.plan { Output.line("plan: \(id)\nnext: on each node, tidemark restore --plan \(id) --into NAME=DIR") }
        }
        return 0
    }
}

let restoreCommand = Command(
    "restore", "Bring sources back to one instant, into new directories.",
    options: Shared.place + [IdentityFile.option] + TargetOptions.all + [
        Option("plan", "ID", help: "Carry out a plan that `tidemark plan --save` stored, or this node's part of it, instead of naming a target."),
        Option("into", "NAME=DIR", repeats: true, help: "Restore the source NAME into DIR, which is empty or does not exist."),
        Option("repository", "PATH", help: "Restore this one repository of a storage, with its object pool if it has one, such as @hashed/6b/86/….git."),
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
    let only = arguments["repository"]
    if let only {
        guard isSafeRelativePath(only.utf8) else { throw ArchiveError(.usage, "--repository '\(only)' is not a path below a storage.") }
        guard into.count == 1 else { throw ArchiveError(.usage, "--repository restores from one storage.", remedy: "Give one --into NAME=DIR.") }
    }
    let mode = arguments["recover"] ?? "promote"
    guard let recover = RecoveryMode(rawValue: mode) else { throw ArchiveError(.usage, "--recover is '\(mode)'; it takes none or promote.") }
    let mappings = Dictionary(try pairs("tablespace-mapping"), uniquingKeysWith: { $1 })
    let stored = arguments["plan"]
    if stored != nil, let other = TargetOptions.all.first(where: { arguments.has($0.name) }) {
        throw ArchiveError(.usage, "--plan and --\(other.name) were both given.", remedy: "A stored plan has its target already.")
    }
    let request = stored == nil ? try TargetOptions.request(arguments) : nil
    let place = try ArchivePlace(arguments)
    let crossChecking = try CrossChecking(arguments)
    return try await interruptible {
        for (_, directory) in into { try RestoreRun.checkTarget(directory) }
        let (catalog, fallbacks) = try await place.openReading(withIdentities: true)
        defer { fallbacks.warn() }
        try catalog.checkIdentity(for: "a restore")
        let ((joint, planReport), use) = try await Usage.protecting("restore", in: catalog, bases: { $0.0.bases }) {
            if let request { return try await makePlan(arguments, request: request, sources: into.map(\.0), catalog: catalog) }
            let loader = PlanLoader(catalog: catalog, kinds: Registry.kinds)
            let (loaded, target) = try await loader.load(stored ?? "", sources: into.map(\.0))
            return (loaded, try await report(loaded, target: target, saved: stored, loader: loader))
        }
        // What somebody recovers later goes on reading the archive.
        let isRecoveredLater = recover == .none && joint.plans.contains { !$0.pieces.isEmpty }
        return try await Usage.ending(use, keepingFor: isRecoveredLater ? Usage.recoverySeconds : nil) {
            show(planReport, joint.moment) { Output.note($0) }
            for plan in joint.plans { try await catalog.proveIdentity(by: plan.base, in: plan.incarnation) }
            let plans = into.compactMap { name, _ in joint.plans.first { $0.source == name } }
            let reports = into.compactMap { name, _ in planReport.sources.first { $0.source == name } }
            let progress = Progress()
            defer { progress.end() }
            var parts: [RestoreResult.Part] = []
            for ((name, directory), (plan, report)) in zip(into, zip(plans, reports)) {
                let kind = try Registry.kind(plan.incarnation.kind)
                let order = RestoreOrder(
                    plan: plan, directory: directory, recover: recover, bindir: arguments["bindir"],
                    // PostgreSQL takes a per cent sign for its own.
                    fetchCommand: "\(shellQuoted(ownPath())) wal-fetch \(place.shellOptions)".replacing("%", with: "%%") + " --source \(name) %f %p", mappings: mappings, only: only)
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
                target: joint.moment, catalog: catalog, progress: { progress.show($0, $1, $2) })
            progress.end()
            if arguments.has("json") { try Output.json(RestoreResult(target: planReport.target, parts: parts, crossChecks: checked, fallbacks: fallbacks.json)) } else {
                for report in checked { Output.line(report.text()) }
            }
            return parts.contains { !$0.warnings.isEmpty } || checked.contains(where: \.hasLosses) ? 4 : 0
        }
    }
}

/// `path` from the root, without following links.
func absolute(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    guard let here = getcwd(nil, 0) else { return path }
    defer { free(here) }
    return String(cString: here) + "/" + path
}

/// The program that runs now.
private func ownPath() -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let n = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.bindMemory(to: CChar.self).baseAddress!, $0.count) }
    return n > 0 ? String(decoding: buffer[..<n], as: UTF8.self) : "tidemark"
}
