import ArchiveCore
import Runtime
import Sidecar
import Store
import Synchronization

/// Tells recipients of events, each in order and by itself. Whoever posts an event never waits.
public final class Notifier: Sendable {
    /// Hands one notice to a recipient, once.
    public typealias Deliver = @Sendable (Recipient, Notice) async throws -> Void

    private let desks: [Desk]

    /// - Parameters:
    ///   - report: hears what became of notices, whenever that changes.
    public init(
        _ recipients: [Recipient], pacing: Pacing = .real, time: @escaping @Sendable () -> Moment = { now() }, output: Log = Log("notify"),
        report: @escaping @Sendable (_ index: Int, RecipientStatus) -> Void = { _, _ in }, deliver: @escaping Deliver
    ) {
        desks = recipients.enumerated().map { index, recipient in
            Desk(recipient, pacing: pacing, time: time, output: output, report: { report(index, $0) }, deliver: { try await deliver(recipient, $0) })
        }
    }

    /// Takes an event and returns at once.
    public func post(_ event: AgentEvent) { for desk in desks { desk.post(event) } }

    /// Delivers until its task is cancelled, and then for up to `grace` seconds what still waits.
    public func run(grace: Double = 4.5) async {
        // Not children: what is under way when the agent stops is to be finished.
        let work = desks.map { desk in Task { await desk.run() } }
        let (end, ending) = AsyncStream.makeStream(of: Void.self)
        await withTaskCancellationHandler { for await _ in end {} } onCancel: { ending.finish() }
        for desk in desks { desk.finish() }
        let timer = Task {
            do { try await Task.sleep(for: .seconds(grace)) } catch { return }
            for task in work { task.cancel() }
        }
        for task in work { await task.value }
        timer.cancel()
    }

    /// The usual way: webhook, mail or command.
    ///
    /// - Parameter transport: for webhooks; its time limits are the recipient's.
    public static func standard(from origin: Origin, transport: any HTTPTransport) -> Deliver {
        { recipient, notice in
            switch recipient.channel {
            case .webhook(let webhook):
                guard let _: Void = try await within(attempt, { try await webhook.send(notice, from: origin, over: transport) }) else {
                    throw ArchiveError(
                        .notificationFailed, "The webhook \(webhook.shown) did not answer within \(Int(attempt)) s.", remedy: "See that it is up and can be reached from here.")
                }
            case .email(let mailbox):
                let time = now()
                let id = "\(time.rawValue).\(UInt64.random(in: 0 ... .max))"
                let bytes = MailMessage.bytes(notice, from: origin, mailbox: mailbox, id: id, at: time)
                try await blocking { try MailSender.send(bytes, to: mailbox, seconds: attempt) }
            case .command(let words):
                try await blocking { try CommandSender.send(notice, from: origin, command: words, seconds: attempt) }
            }
        }
    }

    /// Seconds that one attempt may take.
    static let attempt = 30.0
}

/// What waits for one recipient.
private final class Desk: Sendable {
    /// Notices that may wait; a newer one takes the place of the oldest.
    static let maximumWaiting = 1000
    /// Seconds for which a notice is tried again, and of the first and the longest pause.
    static let patience = 900.0
    static let pauses = (first: 1.0, longest: 60.0)
    /// Seconds between two looks for what has become due.
    static let look = 30.0

    private struct State {
        var policy: NotificationPolicy
        var waiting: [Notice] = []
        var status: RecipientStatus
        var finished = false
    }

    private let state: Mutex<State>
    private let pacing: Pacing
    private let time: @Sendable () -> Moment
    private let output: Log
    private let report: @Sendable (RecipientStatus) -> Void
    private let deliver: @Sendable (Notice) async throws -> Void
    private let calls: AsyncStream<Void>
    private let call: AsyncStream<Void>.Continuation

    init(
        _ recipient: Recipient, pacing: Pacing, time: @escaping @Sendable () -> Moment, output: Log, report: @escaping @Sendable (RecipientStatus) -> Void,
        deliver: @escaping @Sendable (Notice) async throws -> Void
    ) {
        state = Mutex(State(policy: NotificationPolicy(kinds: recipient.kinds, limit: recipient.limit), status: RecipientStatus(name: recipient.name)))
        self.pacing = pacing
        self.time = time
        self.output = output
        self.report = report
        self.deliver = deliver
        (calls, call) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        report(RecipientStatus(name: recipient.name))
    }

    func post(_ event: AgentEvent) {
        let time = time()
        change { state in
            guard !state.finished, let notice = state.policy.admit(event, at: time) else { return }
            Self.add(notice, to: &state)
        }
        call.yield()
    }

    /// Nothing more comes: `run` ends when what waits was tried once.
    func finish() {
        change { $0.finished = true }
        call.yield()
    }

    func run() async {
        let clock = Task { [pacing, call] in
            while !Task.isCancelled {
                do { try await pacing.sleep(Self.look) } catch { return }
                call.yield()
            }
        }
        defer { clock.cancel() }
        for await _ in calls {
            let time = time()
            change { state in for notice in state.policy.due(at: time) { Self.add(notice, to: &state) } }
            while let notice = take() {
                guard await send(notice) else { return }
            }
            if state.withLock({ $0.finished }) { return }
        }
    }

    /// Tries until it is delivered or given up.
    ///
    /// - Returns: `false` when the task was cancelled.
    private func send(_ notice: Notice) async -> Bool {
        let begun = pacing.seconds()
        var pause = Self.pauses.first
        while true {
            do {
                try await deliver(notice)
                change {
                    $0.status.sent += 1
                    $0.status.lastError = nil
                }
                return true
            } catch is CancellationError { return false } catch {
                let mayPass = (error as? ArchiveError)?.code.isRetryable ?? false
                let finished = state.withLock { $0.finished }
                guard mayPass, !finished, pacing.seconds() - begun + pause <= Self.patience else {
                    output.error("\(error) A notification (\(notice.event.kind.rawValue)) was given up: \(notice.event.message)")
                    change {
                        $0.status.failed += 1
                        $0.status.lastError = "\(error)"
                    }
                    return true
                }
                if pause == Self.pauses.first { output.warning("\(error) It is tried again for \(Int(Self.patience / 60)) minutes.") }
                change { $0.status.lastError = "\(error)" }
                guard await rest(pause) else { return false }
                pause = min(pause * 2, Self.pauses.longest)
            }
        }
    }

    /// Waits, but no longer than until nothing more comes.
    private func rest(_ seconds: Double) async -> Bool {
        let end = pacing.seconds() + seconds
        while pacing.seconds() < end, !state.withLock({ $0.finished }) {
            do { try await pacing.sleep(min(1, max(0.001, end - pacing.seconds()))) } catch { return false }
        }
        return true
    }

    private func take() -> Notice? {
        var notice: Notice?
        change { state in
            if !state.waiting.isEmpty { notice = state.waiting.removeFirst() }
        }
        return notice
    }

    private static func add(_ notice: Notice, to state: inout State) {
        if state.waiting.count >= maximumWaiting {
            state.waiting.removeFirst()
            state.status.failed += 1
        }
        state.waiting.append(notice)
    }

    private func change(_ body: (inout State) -> Void) {
        let changed: RecipientStatus? = state.withLock { state in
            let old = state.status
            body(&state)
            state.status.waiting = state.waiting.count
            return state.status == old ? nil : state.status
        }
        if let changed { report(changed) }
    }
}
