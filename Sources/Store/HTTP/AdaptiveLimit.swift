import Synchronization

/// How many requests at once a service takes, found by trying: one more after each round that went well, half as many when it says so
/// (additive increase, multiplicative decrease, as TCP does it).
public struct AdaptiveLimit: Sendable, Hashable {
    /// What a request that is under way was started under.
    public struct Round: Sendable, Hashable { fileprivate var number: Int }

    public private(set) var limit: Int
    public let maximum: Int
    private var successes = 0
    private var number = 0

    /// - Precondition: `1 <= start <= maximum`.
    public init(start: Int = 16, maximum: Int = 64) {
        precondition(1 <= start && start <= maximum)
        limit = start
        self.maximum = maximum
    }

    public var round: Round { Round(number: number) }

    public mutating func succeeded() {
        successes += 1
        guard successes >= limit else { return }
        successes = 0
        limit = min(limit + 1, maximum)
    }

    /// Requests that were under way when the limit was halved complain about the same thing, and do not halve it again.
    public mutating func slowDown(_ round: Round) {
        guard round.number == number else { return }
        number += 1
        successes = 0
        limit = max(1, limit / 2)
    }
}

/// Lets as many requests through as the limit says; the others wait in order.
final class RequestGate: Sendable {
    enum Outcome: Sendable { case success, failure, slower }

    private struct State {
        var limit: AdaptiveLimit
        var running = 0
        var lastID = 0
        var waiting: [(id: Int, continuation: CheckedContinuation<AdaptiveLimit.Round, any Error>)] = []
    }
    private let state: Mutex<State>

    init(_ limit: AdaptiveLimit) { state = Mutex(State(limit: limit)) }

    var limit: Int { state.withLock { $0.limit.limit } }
    var waiting: Int { state.withLock { $0.waiting.count } }

    /// Waits for a place; every one that is got must be left again.
    ///
    /// - Throws: `CancellationError`.
    func enter() async throws -> AdaptiveLimit.Round {
        let id = state.withLock { state in
            state.lastID += 1
            return state.lastID
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let answer: Result<AdaptiveLimit.Round, any Error>? = state.withLock { state in
                    if Task.isCancelled { return .failure(CancellationError()) }
                    guard state.running < state.limit.limit, state.waiting.isEmpty else {
                        state.waiting.append((id, continuation))
                        return nil
                    }
                    state.running += 1
                    return .success(state.limit.round)
                }
                if let answer { continuation.resume(with: answer) }
            }
        } onCancel: {
            // Either this finds it in line, or it came first and the other sees that the task is cancelled.
            let found = state.withLock { state in
                state.waiting.firstIndex { $0.id == id }.map { state.waiting.remove(at: $0).continuation }
            }
            found?.resume(throwing: CancellationError())
        }
    }

    func leave(_ round: AdaptiveLimit.Round, _ outcome: Outcome) {
        let (admitted, now) = state.withLock { state in
            state.running -= 1
            switch outcome {
            case .success: state.limit.succeeded()
            case .slower: state.limit.slowDown(round)
            case .failure: break
            }
            let count = max(0, min(state.waiting.count, state.limit.limit - state.running))
            defer { state.waiting.removeFirst(count) }
            state.running += count
            return (state.waiting[..<count].map(\.continuation), state.limit.round)
        }
        for continuation in admitted { continuation.resume(returning: now) }
    }
}
