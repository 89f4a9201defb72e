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
    /// What is shipped, in the order of the configuration.
    let shipments: [Shipment]
    private let current: Mutex<Configuration>
    private let sinks: Sinks

    /// - Throws: where a source cannot be set up.
    init(_ configuration: Configuration, catalog: Catalog, place: ArchivePlace) throws {
        self.catalog = catalog
        self.place = place
        current = Mutex(configuration)
        let board = StatusBoard(
            .init(
                version: Main.version, started: now(), archive: catalog.store.description, archiveID: catalog.identity.id, objective: configuration.objective,
                sources: configuration.sources.map { SourceStatus(name: $0.name, kind: Registry.component($0, of: configuration).kind, since: now()) },
                configurationLoaded: now()))
        self.board = board
        let sinks = Sinks()
        self.sinks = sinks
        shipments = try configuration.sources.map { source in
            let (kind, component) = Registry.component(source, of: configuration)
            let output = Log(source.name)
            let meter = SourceMeter(source: source.name, board: board, objective: configuration.objective) { sinks.post($0) }
            let shipping = Shipping(source: source.name, kind: kind, log: try component.makeLogSource(), catalog: catalog, output: output, meter: meter)
            return Shipment(
                source: source.name, shipping: shipping, keeper: SourceKeeper(shipping: shipping, locks: component.lockPaths, output: output, meter: meter), meter: meter)
        }
    }

    /// As it was read last: what may change while the agent runs is taken from here each time.
    var configuration: Configuration {
        get { current.withLock { $0 } }
        set { current.withLock { $0 = newValue } }
    }

    /// Tells everybody who listens, and returns at once.
    func post(_ event: AgentEvent) { sinks.post(event) }

    func listen(_ sink: @escaping EventSink) { sinks.add(sink) }
}

/// One source of a running agent.
struct Shipment: Sendable {
    var source: String
    var shipping: Shipping
    var keeper: SourceKeeper
    var meter: SourceMeter
}

/// Who hears of events.
private final class Sinks: Sendable {
    private let all = Mutex<[EventSink]>([])

    func post(_ event: AgentEvent) { for sink in all.withLock({ $0 }) { sink(event) } }

    func add(_ sink: @escaping EventSink) { all.withLock { $0.append(sink) } }
}

/// Keeps the history of how far the archive is behind.
private struct LagService: AgentService {
    let name = "lag"
    let endsLast = true
    private let recorder: LagRecorder

    init(_ context: AgentContext) {
        recorder = LagRecorder(
            catalog: context.catalog, subjects: context.shipments.map { shipment in .init(meter: shipment.meter) { await shipment.shipping.progress() } },
            objective: { context.configuration.objective }, output: Log(name))
    }

    func run() async throws { await recorder.run() }
}

/// Something that runs beside the shipping for as long as the agent does. Nothing that fails in it ever ends the shipping.
protocol AgentService: Sendable {
    /// For the log.
    var name: String { get }
    /// Whether it goes on until everything in hand is archived, when the agent is stopped.
    var endsLast: Bool { get }
    /// Runs until its task is cancelled; what it throws is logged, and it is not started again.
    func run() async throws
}

extension AgentService {
    var endsLast: Bool { false }
}

/// All services of an agent.
struct AgentServices: Sendable {
    private let tasks: [(endsLast: Bool, task: Task<Void, Never>)]

    /// - Throws: where one cannot begin, such as a port that is taken: the agent does not start then.
    static func all(_ context: AgentContext) throws -> [any AgentService] {
        // Who tells others comes first, so that nothing is missed.
        let status = try context.configuration.listen.map { [try StatusService(context, on: $0)] } ?? []
        return [NotifyService(context)] + status + [LagService(context), BaseService(context), ExpiryService(context: context)] + SlotGuardService.all(context)
    }

    init(_ services: [any AgentService]) {
        tasks = services.map { service in
            (
                service.endsLast,
                Task {
                    do { try await service.run() } catch is CancellationError {} catch { Log(service.name).error("\(error)") }
                }
            )
        }
    }

    /// The agent was asked to stop.
    func stop() { for (endsLast, task) in tasks where !endsLast { task.cancel() } }

    /// Everything in hand is archived: ends all of them, within `seconds`.
    func end(within seconds: Double) async {
        for (_, task) in tasks { task.cancel() }
        await waitForEnd(of: tasks.map(\.task), seconds: seconds)
    }
}
