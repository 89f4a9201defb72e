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
    let catalog = try await Catalog.open(try StoreLocation(configuration.archive).open())
    try await blocking { try Files.makeDirectory(configuration.state) }
    let keepers = try configuration.sources.map { source in
        let (kind, component) = Registry.component(source, of: configuration)
        let output = Log(source.name)
        let shipping = Shipping(source: source.name, kind: kind, log: try component.makeLogSource(), catalog: catalog, output: output)
        return SourceKeeper(shipping: shipping, locks: component.lockPaths, output: output)
    }
    let work = Task {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for keeper in keepers { group.addTask { try await keeper.run() } }
            try await group.waitForAll()
        }
    }
    // SIGTERM: finish what is in hand, within a limit, since a store that cannot be reached would keep us for ever.
    Signals.watch { number, before in
        if before > 0 { _exit(128 + number) }
        Log().info("stopping")
        Task { for keeper in keepers { await keeper.stop() } }
        startThread {
            sleep(30)
            Log().error("what was in hand could not be archived within 30 s; it is archived after the next start")
            _exit(1)
        }
    }
    try await work.value
    Log().info("stopped")
    return 0
}
