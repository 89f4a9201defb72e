import ArchiveCore
import Catalog
import Digests
import DurableIO
import Glibc
import Runtime
import Sidecar
import Source
import Store

let agentCommand = Command(
    "agent", "Archive all sources until SIGTERM; SIGHUP reads the configuration again.",
    options: [Shared.config, Option("log-format", "FORMAT", help: "text or json; default: what the configuration says.")],
    example: "tidemark agent --config /etc/tidemark/tidemark.yaml"
) { arguments in
    Signals.ignoreHangUp()
    let format = try arguments["log-format"].map { word throws(ArchiveError) -> Log.Format in
        guard let format = Log.Format(rawValue: word) else {
            throw ArchiveError(.usage, "--log-format was given '\(word)'.", remedy: "Write text or json.")
        }
        return format
    }
    let configuration = try Shared.configuration(arguments)
    Log.format = format ?? configuration.logFormat
    let manager = ServiceManager { getenv($0).map { String(cString: $0) } }
    let place = try ArchivePlace(configuration)
    // What copies need of what is put now is kept in memory for them.
    let copies = try place.copies()
    let catalog = try await openPatiently { try await place.openToWrite { copies.isEmpty ? $0 : RecentStore($0) } }
    try await blocking { try Files.makeDirectory(configuration.state) }
    let context = try AgentContext(configuration, catalog: catalog, place: place)
    let shipments = context.shipments
    let copying = Copying(copies, at: place, of: catalog, configuration: configuration)
    let liveness: [any AgentService] = manager.map { [ServiceLiveness(manager: $0, context: context)] } ?? []
    let services = AgentServices(try AgentServices.all(context) + liveness)
    // A source that is refused ends the agent's work on it, never that on the others.
    let work = Task {
        await withTaskGroup(of: (any Error)?.self) { group in
            for shipment in shipments {
                group.addTask {
                    do { try await shipment.keeper.run() } catch {
                        if shipments.count > 1 { Log(shipment.source).error("\(error) This source is no longer archived.") }
                        return error
                    }
                    return nil
                }
            }
            return await group.reduce(nil) { $0 ?? $1 }
        }
    }
    // SIGTERM: finish what is in hand, within a limit, since a store that cannot be reached would keep us for ever.
    let reload = AgentReload(context: context, path: Shared.configPath(arguments), logFormat: format, manager: manager)
    Signals.watch(hangUp: { reload() }) { number, before in
        if before > 0 { _exit(128 + number) }
        Log().info("stopping")
        do { try manager?.notify("STOPPING=1\nSTATUS=archiving what is in hand") } catch { Log().warning("\(error)") }
        services.stop()
        copying.stop()
        Task { for shipment in shipments { await shipment.keeper.stop() } }
        startThread {
            sleep(30)
            Log().error("what was in hand could not be archived within 30 s; it is archived after the next start")
            _exit(1)
        }
    }
    let refused = await work.value
    copying.stop()
    await services.end(within: 5)
    await copying.ended(within: 5)
    if let refused { throw refused }
    Log().info("stopped")
    return 0
}

/// The copies that an agent keeps: each by itself, and none of them ever in the way of a source.
private struct Copying: Sendable {
    private let tasks: [Task<Void, Never>]

    init(_ copies: [any ObjectStore], at place: ArchivePlace, of primary: Catalog, configuration: Configuration) {
        tasks = copies.enumerated().map { number, store in
            let output = Log("copy \(store.description)")
            let path = "\(configuration.state)/copies/\(hexText(SHA256.of(Array(store.description.utf8))).prefix(16))"
            let memory = CopyKeeper.Memory(
                name: path, isKnown: { Files.exists(path) },
                note: { if !Files.exists(path) { try Files.makeDirectory(Files.parent(of: path)); try Files.writeDurably(Array(store.description.utf8), to: path) } })
            let keeper = CopyKeeper(
                primary: primary, copy: store, interval: configuration.tail, output: output, memory: memory,
                changes: { (primary.store as? RecentStore)?.changes(of: $0) ?? 0 }, histories: { (primary.store as? RecentStore)?.histories ?? 0 })
            return Task {
                do {
                    if let error = try await blocking({ place.misplacement(ofCopy: number) }) { throw error }
                    try await keeper.run()
                } catch is CancellationError {} catch { output.error("\(error) Nothing more is copied there.") }
            }
        }
    }

    func stop() { for task in tasks { task.cancel() } }

    /// The rest is copied after the next start.
    func ended(within seconds: Double) async { await waitForEnd(of: tasks, seconds: seconds) }
}

/// Waits for what is in hand, as long as it takes but `seconds` at most.
func waitForEnd(of tasks: [Task<Void, Never>], seconds: Double) async {
    guard !tasks.isEmpty else { return }
    // Not a task group, which would wait for one that hangs.
    let (ends, end) = AsyncStream.makeStream(of: Void.self)
    Task {
        for task in tasks { await task.value }
        end.finish()
    }
    let timer = Task {
        do { try await Task.sleep(for: .seconds(seconds)) } catch { return }
        end.finish()
    }
    for await _ in ends {}
    timer.cancel()
}

/// An agent that starts before its store does waits for it, and says so.
private func openPatiently(_ open: () async throws -> Catalog) async throws -> Catalog {
    var pause = 1.0
    while true {
        do { return try await open() } catch let error as ArchiveError where error.code.isRetryable {
            Log().error("\(error) Trying again in \(pause) s.")
            try await Task.sleep(for: .seconds(pause))
            pause = min(pause * 2, 30)
        }
    }
}
