/// When a transfer counts as stalled: no byte within the timeout, or so few within a window that a server only pretends to go on. Pure.
///
/// All times are seconds of the steady clock.
struct StallWatch: Sendable, Hashable {
    /// Bytes that have to move within each window.
    static let floor = 1000

    /// Seconds that may pass without a byte.
    let timeout: Double
    /// When a byte last moved; `nil` before there is a connection.
    private var lastByte: Double?
    private var windowStart = 0.0
    private var windowBytes = 0

    init(timeout: Double) { self.timeout = timeout }

    /// Seconds; twice the timeout at least, so that a server that is silent as long as it may can still answer.
    var window: Double { max(60, 2 * timeout) }

    /// - Parameter bytes: 0 for a sign of life that is no progress.
    mutating func moved(_ bytes: Int, at now: Double) {
        if lastByte == nil { windowStart = now }
        lastByte = now
        windowBytes += bytes
        if windowBytes >= Self.floor { begin(at: now) }
    }

    /// Begins anew, after a time in which nothing was allowed to move.
    mutating func begin(at now: Double) {
        lastByte = now
        windowStart = now
        windowBytes = 0
    }

    /// `nil` while there is no connection.
    var deadline: Double? { lastByte.map { min($0 + timeout, windowStart + window) } }

    /// What happened, once the deadline has passed.
    func reason(_ server: String) -> String {
        guard let lastByte, windowStart + window < lastByte + timeout else { return "No byte moved between here and \(server) for \(timeout) s." }
        return "Less than \(Self.floor) bytes moved between here and \(server) in \(window) s."
    }
}
