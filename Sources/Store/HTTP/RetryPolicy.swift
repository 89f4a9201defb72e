import ArchiveCore

/// How often, and for how long, a request is repeated.
public struct RetryPolicy: Sendable, Hashable {
    /// Attempts of one request, the first one included; at least 1.
    public var attempts: Int
    /// Seconds from the first attempt after which no other is begun.
    public var patience: Double
    /// Seconds of the first pause, and of the longest; each pause is a random part of twice the one before ("full jitter").
    public var firstPause: Double
    public var longestPause: Double

    public init(attempts: Int = 20, patience: Double = 60, firstPause: Double = 0.1, longestPause: Double = 10) {
        precondition(attempts >= 1)
        self.attempts = attempts
        self.patience = patience
        self.firstPause = firstPause
        self.longestPause = longestPause
    }

    /// For what stands beside this machine, which answers at once or not at all.
    static let nearby = RetryPolicy(patience: 5)
    /// For servers of tokens: whoever waits for one waits with everything else.
    static let token = RetryPolicy(patience: 20)
    /// Seconds for a name that cannot be resolved: it is more often wrong than it comes back.
    static let patienceForNames = 10.0

    /// One attempt.
    public static let once = RetryPolicy(attempts: 1)

    /// Seconds to wait after attempt number `attempt` failed.
    ///
    /// - Parameters:
    ///   - attempt: from 1 on.
    ///   - random: 0 to 1.
    ///   - wish: seconds that the server asked for, which is the least.
    func pause(after attempt: Int, random: Double, wish: Double?) -> Double {
        var most = firstPause
        for _ in 1..<max(attempt, 1) where most < longestPause { most *= 2 }
        return max(min(most, longestPause) * random, wish ?? 0)
    }
}

/// What the passing of time is made of; tests bring their own.
public struct Pacing: Sendable {
    /// From 0 to less than 1.
    public var random: @Sendable () -> Double
    /// Waits so many seconds; throws `CancellationError`.
    public var sleep: @Sendable (Double) async throws -> Void
    /// Seconds of a clock that nobody sets.
    public var seconds: @Sendable () -> Double

    public init(
        random: @escaping @Sendable () -> Double, sleep: @escaping @Sendable (Double) async throws -> Void, seconds: @escaping @Sendable () -> Double
    ) {
        self.random = random
        self.sleep = sleep
        self.seconds = seconds
    }

    public static let real = Pacing(
        random: { Double.random(in: 0..<1) }, sleep: { try await Task.sleep(for: .seconds($0)) }, seconds: { steadySeconds() })
}

extension HTTPResponse {
    /// Seconds that the server asks to wait, with 429 and 503 (RFC 9110, section 10.2.3: seconds, or a date); not negative.
    func retryAfter(now: Moment) -> Double? {
        guard status == 429 || status == 503, let text = self["retry-after"] else { return nil }
        let seconds: Double? =
            if !text.isEmpty && text.utf8.count <= 15 && text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) { Double(text) } else {
                HTTPDates.parse(text).map { $0 - now }
            }
        return seconds.map { max($0, 0) }
    }
}
