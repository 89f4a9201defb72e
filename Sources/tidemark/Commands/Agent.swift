import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Runtime
import Sidecar
import Source
import Store

let agentCommand = Command(
    "agent", "Archive all sources until SIGTERM.", options: [Shared.config],
    example: "tidemark agent --config /etc/tidemark/tidemark.yaml"
) { arguments in
    let configuration = try Shared.configuration(arguments)
    let catalog = try await ArchivePlace(configuration).openToWrite()
    try await blocking { try Files.makeDirectory(configuration.state) }
    let keepers = try configuration.sources.map { source in
        let (kind, component) = Registry.component(source, of: configuration)
        let output = Log(source.name)
        let shipping = Shipping(source: source.name, kind: kind, log: try component.makeLogSource(), catalog: catalog, output: output)
        return (source.name, SourceKeeper(shipping: shipping, locks: component.lockPaths, output: output))
    }
    // A source that is refused ends the agent's work on it, never that on the others.
    let work = Task {
        await withTaskGroup(of: (any Error)?.self) { group in
            for (name, keeper) in keepers {
                group.addTask {
                    do { try await keeper.run() } catch {
                        if keepers.count > 1 { Log(name).error("\(error) This source is no longer archived.") }
                        return error
                    }
                    return nil
                }
            }
            return await group.reduce(nil) { $0 ?? $1 }
        }
    }
    // SIGTERM: finish what is in hand, within a limit, since a store that cannot be reached would keep us for ever.
    Signals.watch { number, before in
        if before > 0 { _exit(128 + number) }
        Log().info("stopping")
        Task { for (_, keeper) in keepers { await keeper.stop() } }
        startThread {
            sleep(30)
            Log().error("what was in hand could not be archived within 30 s; it is archived after the next start")
            _exit(1)
        }
    }
    if let refused = await work.value { throw refused }
    Log().info("stopped")
    return 0
}
