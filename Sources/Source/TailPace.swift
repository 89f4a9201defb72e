/// How long the log may be collected so that a commit is archived within a given time: storing takes its share of it. Pure.
public struct TailPace: Sendable {
    /// Pieces whose storing is watched at most.
    private static let most = 64
    /// The share of the newest measurement in the smoothed one.
    private static let weight = 0.2

    private var given: [(sequence: UInt64, at: Double)] = []
    /// Smoothed seconds from collecting to being archived.
    private(set) var storing = 0.0

    public init() {}

    /// - Parameter time: when its collecting ended, in seconds of a clock that only goes on.
    public mutating func gave(_ sequence: UInt64, at time: Double) {
        guard given.count < Self.most else { return }
        given.append((sequence, time))
    }

    /// The piece and all before it are archived.
    public mutating func archived(through sequence: UInt64, at time: Double) {
        while let first = given.first, first.sequence <= sequence {
            given.removeFirst()
            storing += (max(0, time - first.at) - storing) * Self.weight
        }
    }

    /// Seconds between two pieces: `tail` less what storing takes, but never less than half of it, or a slow store would get more
    /// objects for being slow.
    public func interval(of tail: Double) -> Double { max(tail / 2, tail - storing) }
}
