import ArchiveCore
import Glibc
import Notify
import Runtime
import Sidecar
import StatusServer
import Store
import Synchronization

/// Answers on `listen`, and asks the archive now and then whether it is there.
struct StatusService: AgentService {
    let name = "status"
    let endsLast = true
    private let context: AgentContext
    private let server: StatusServer
    private let pulse: Pulse

    /// When the agent's tasks gave a sign of life, in seconds of the steady clock.
    private final class Pulse: Sendable {
        private let last = Mutex(ContinuousClock.now)
        func beat() { last.withLock { $0 = .now } }
        var silence: Double { last.withLock { (ContinuousClock.now - $0) / .seconds(1) } }
    }

    /// Seconds between two signs of life, and between two questions to the archive.
    private static let beat = 5.0
    private static let question = 15.0
    /// Seconds that the archive has for an answer.
    private static let patience = 10.0

    /// - Throws: `.inputOutput` when `listen` cannot be listened on.
    init(_ context: AgentContext, on address: ListenAddress) throws {
        self.context = context
        let pulse = Pulse()
        self.pulse = pulse
        server = try StatusServer(address) { [board = context.board] method, path in
            StatusPages.answer(
                method: method, path: path, StatusPages.Facts(snapshot: board.snapshot, process: .current(), silence: pulse.silence, time: now()))
        }
        Log(name).info("listening on \(server.address)")
    }

    func run() async throws {
        defer { startThread { [server] in server.stop() } }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                while true {
                    pulse.beat()
                    try await Task.sleep(for: .seconds(Self.beat))
                }
            }
            group.addTask {
                while true {
                    await ask()
                    try await Task.sleep(for: .seconds(Self.question))
                }
            }
            try await group.next()
            group.cancelAll()
        }
    }

    private func ask() async {
        let store = context.catalog.store
        do {
            guard let _: Void = try await within(Self.patience, { _ = try await store.keys(prefix: "tidemark.json", after: nil, limit: 1) }) else {
                context.board.update { $0.archiveProblem = "It did not answer within \(Int(Self.patience)) s." }
                return
            }
            let time = now()
            context.board.update {
                $0.archiveAnswered = time
                $0.archiveProblem = nil
            }
        } catch {
            guard !Task.isCancelled else { return }
            let problem = (error as? ArchiveError)?.message ?? "\(error)"
            context.board.update { $0.archiveProblem = problem }
        }
    }
}

/// Tells the recipients under `notify` of what happens.
struct NotifyService: AgentService {
    let name = "notify"
    let endsLast = true
    private let notifier: Notifier

    init(_ context: AgentContext) {
        let recipients = context.configuration.notify
        context.board.update { $0.notifications = recipients.map { RecipientStatus(name: $0.name) } }
        let notifier = Notifier(
            recipients, report: { [board = context.board] index, status in board.update { $0.notifications[index] = status } },
            deliver: Notifier.standard(from: .here(archive: context.catalog.store.description), transport: CurlTransport()))
        self.notifier = notifier
        context.listen { notifier.post($0) }
    }

    func run() async throws { await notifier.run() }
}

extension Origin {
    /// This machine.
    static func here(archive: String) -> Origin { Origin(host: hostName(), archive: archive, version: Main.version) }
}
