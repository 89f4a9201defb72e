import Synchronization

/// Tells of requests that were repeated: at once the first time, then once a minute, with their reasons and how often each came.
final class RepeatLedger: Sendable {
    private struct State {
        var counts: [(reason: String, count: Int)] = []
        /// More reasons than are told apart.
        var others = 0
        /// Seconds of the steady clock.
        var told: Double?
    }
    private let service: String
    private let tell: @Sendable (String) -> Void
    private let state = Mutex(State())

    static let interval = 60.0
    static let maximumReasons = 8

    /// - Parameter tell: takes a sentence.
    init(service: String, tell: @escaping @Sendable (String) -> Void) {
        self.service = service
        self.tell = tell
    }

    /// - Parameter time: seconds of a clock that nobody sets.
    func add(_ reason: String, at time: Double) {
        let reason = reason.hasSuffix(".") ? String(reason.dropLast()) : reason
        let message: String? = state.withLock { state in
            if let i = state.counts.firstIndex(where: { $0.reason == reason }) {
                state.counts[i].count += 1
            } else if state.counts.count < Self.maximumReasons {
                state.counts.append((reason, 1))
            } else {
                state.others += 1
            }
            guard state.told.map({ time - $0 >= Self.interval }) ?? true else { return nil }
            defer { state = State(told: time) }
            let reasons = state.counts.sorted { $0.count > $1.count }.map { $0.count == 1 ? $0.reason : "\($0.count) × \($0.reason)" }
            let total = state.counts.reduce(state.others) { $0 + $1.count }
            return "\(service): \(total) request\(total == 1 ? "" : "s") repeated: \(reasons.joined(separator: "; "))" + (state.others > 0 ? "; \(state.others) × others" : "")
        }
        if let message { tell(message) }
    }
}
