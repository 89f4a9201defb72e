import ArchiveCore
import Catalog
import Runtime
import Sidecar
import Source
import Store
import Synchronization

struct BackupReport: Encodable {
    var source, id: String
    var files: Int
    var bytes, stored: UInt64
    var seconds: Double
    var usable: Bool
    var warnings: [String]
}

let backupCommand = Command(
    "backup", "Take a base backup now.", 
    options: [Shared.config, Shared.source, Shared.json, Option("no-wait", help: "Refuse when another base is being taken in this archive, instead of waiting for it.")],
    example: "tidemark backup --source main"
) { arguments in
    let configuration = try Shared.configuration(arguments)
    let sources = try Shared.sources(arguments, of: configuration)
    return try await interruptible {
        let catalog = try await ArchivePlace(configuration).openToWrite()
        var reports: [BackupReport] = []
        for source in sources {
            let progress = Progress()
            defer { progress.end() }
            // A stranger is refused before anything is written.
            let (kind, component) = Registry.component(source, of: configuration)
            let identity = try await component.makeSnapshotSource().identify()
            _ = try await catalog.incarnations(of: source.name).last?.isHistory(of: identity, kind: kind)
            let told = Mutex("")
            let report = try await holdingLease("base", for: "a base of '\(source.name)'", in: catalog, isPatient: !arguments.has("no-wait")) { other in
                let isNews = told.withLock { before in
                    defer { before = other.id }
                    return before != other.id
                }
                if isNews { Output.note("waiting for \(other.host) (process \(other.process)), which has been at \(other.purpose) since \(other.since)") }
            } _: {
                try await backUp(source, of: configuration, into: catalog, progress)
            }
            reports.append(report)
            if !arguments.has("json") { render(report) }
        }
        if arguments.has("json") { try Output.json(reports) }
        return reports.contains { !$0.usable || !$0.warnings.isEmpty } ? 4 : 0
    }
}

/// Takes a base, and archives the source's log meanwhile when no agent does: a base without its log cannot be restored.
private func backUp(_ source: Configuration.Source, of configuration: Configuration, into catalog: Catalog, _ progress: Progress) async throws -> BackupReport {
    let (kind, component) = Registry.component(source, of: configuration)
    let run = BackupRun(source: source.name, kind: kind, snapshots: try component.makeSnapshotSource(), catalog: catalog) {
        progress.show($0, $1, $2)
    }
    var shipping: (keeper: SourceKeeper, task: Task<Void, any Error>)?
    do {
        // The thread that took it may hold on to it for a moment longer than the keeper takes to want it.
        try await blocking { try SourceLock(component.lockPaths, source: source.name).release() }
        Output.note("\(source.name): no agent is running here; its log is archived for the time of the backup")
        let output = Log(source.name)
        let keeper = SourceKeeper(
            shipping: Shipping(source: source.name, kind: kind, log: try component.makeLogSource(), catalog: catalog, output: output),
            locks: component.lockPaths, output: output)
        shipping = (keeper, Task { try await keeper.run() })
    } catch let error as ArchiveError where error.code == .alreadyRunning {
        // The agent archives the log.
    }
    let result: BackupRun.Result
    do { result = try await run.run() } catch {
        shipping?.task.cancel()
        await shipping?.keeper.stop()
        throw error
    }
    if let shipping {
        await shipping.keeper.stop()
        try await shipping.task.value
    }
    let base = result.base
    return BackupReport(
        source: source.name, id: base.id, files: base.files, bytes: base.bytes,
        stored: base.parts.reduce(0) { $0 + $1.storedLength }, seconds: result.seconds, usable: result.isUsable, warnings: base.warnings)
}

private func render(_ report: BackupReport) {
    Output.line(
        "\(report.source): base \(report.id): \(report.files) files, \(Output.bytes(report.bytes)), stored as \(Output.bytes(report.stored)), in \(Output.oneDecimal(report.seconds)) s"
    )
    for warning in report.warnings { Output.note("warning: \(report.source): \(warning)") }
    if !report.usable {
        Output.note("warning: \(report.source): the log that the base needs has not been archived, or lacks content that it refers to; an older base is used instead")
        Output.note("  next: see whether `tidemark agent` runs and reaches the source, then take another base")
    }
}
