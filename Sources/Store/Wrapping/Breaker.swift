/// Keeps a place that did not answer from being asked again for a while, so that it does not cost its timeout each time. Pure.
struct Breaker: Sendable {
    /// Seconds for which a place is left alone: doubled each time it fails again, from the first to the last.
    static let pauses = (first: 30.0, last: 480.0)

    private var until = -Double.infinity
    private var pause = Self.pauses.first

    func isOpen(at time: Double) -> Bool { time < until }

    mutating func fail(at time: Double) {
        guard !isOpen(at: time) else { return }
        until = time + pause
        pause = min(pause * 2, Self.pauses.last)
    }

    mutating func succeed() { self = Breaker() }
}
