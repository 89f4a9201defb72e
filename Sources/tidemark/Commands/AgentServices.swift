import ArchiveCore
import Catalog
import Runtime
import Sidecar
import Synchronization

/// What the parts of a running agent share.
final class AgentContext: Sendable {
    let catalog: Catalog
    let place: ArchivePlace
    let board: StatusBoard
    private let current: Mutex<Configuration>
    private let sinks = Mutex<[EventSink]>([])

    init(_ configuration: Configuration, catalog: Catalog, place: ArchivePlace) {
        self.catalog = catalog
        self.place = place
        current = Mutex(configuration)
        board = StatusBoard(
            .init(
                version: Main.version, started: now(), archive: catalog.store.description, archiveID: catalog.identity.id, objective: configuration.objective,
                sources: configuration.sources.map { SourceStatus(name: $0.name, kind: Registry.component($0, of: configuration).kind, since: now()) },
                configurationLoaded: now()))
    }

    /// As it was read last: what may change while the agent runs is taken from here each time.
    var configuration: Configuration {
        get { current.withLock { $0 } }
        set { current.withLock { $0 = newValue } }
    }

    /// Tells everybody who listens, and returns at once.
    func post(_ event: AgentEvent) { for sink in sinks.withLock({ $0 }) { sink(event) } }

    func listen(_ sink: @escaping EventSink) { sinks.withLock { $0.append(sink) } }
}

/// Something that runs beside the shipping for as long as the agent does. Nothing that fails in it ever ends the shipping.
protocol AgentService: Sendable {
    /// For the log.
    var name: String { get }
    /// Runs until its task is cancelled; what it throws is logged, and it is not started again.
    func run() async throws
}

/// All services of an agent.
struct AgentServices: Sendable {
    private let tasks: [Task<Void, Never>]

    /// - Throws: where one cannot begin, such as a port that is taken: the agent does not start then.
    static func all(_ context: AgentContext) throws -> [any AgentService] {
        [ExpiryService(context: context)]
    }

    init(_ services: [any AgentService]) {
        tasks = services.map { service in
            Task {
                do { try await service.run() } catch is CancellationError {} catch { Log(service.name).error("\(error)") }
            }
        }
    }

    func stop() { for task in tasks { task.cancel() } }

    func ended(within seconds: Double) async { await waitForEnd(of: tasks, seconds: seconds) }
}
