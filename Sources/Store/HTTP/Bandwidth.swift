import ArchiveCore
import Synchronization

/// What all transfers of a process may move together. Bodies count, headers do not.
///
/// One object is shared by all transports that a plan is meant for.
public final class Bandwidth: Sendable {
    enum Direction: Int, Sendable, CaseIterable { case upload, download }

    private struct State {
        var plan: BandwidthPlan
        var lines: [BandwidthLine]
        var limits: BandwidthPlan.Limits
        /// When the plan was last asked.
        var asked: Moment
    }
    private let now: @Sendable () -> Moment
    private let state: Mutex<State>

    /// - Parameter now: the time of day, which the plan's schedule goes by.
    public init(_ plan: BandwidthPlan, now: @escaping @Sendable () -> Moment) {
        self.now = now
        let time = now()
        let limits = plan.limits(at: time)
        state = Mutex(
            State(
                plan: plan, lines: Direction.allCases.map { BandwidthLine(TokenBucket(rate: Self.rate(limits, $0), at: time)) }, limits: limits, asked: time))
    }

    /// Puts another plan in force, also for transfers under way.
    public func update(_ plan: BandwidthPlan) {
        let time = now()
        state.withLock { state in
            state.plan = plan
            state.limits = plan.limits(at: time)
            state.asked = time
        }
    }

    /// How many bytes should move at once, so that a stream is smooth and shared: a sixteenth of a second's, 1 KiB to 128 KiB.
    func piece(_ direction: Direction) -> Int {
        current { state in Self.rate(state.limits, direction).map { Int(min(max($0 / 16, 1 << 10), 128 << 10)) } ?? 128 << 10 }
    }

    /// - Returns: `false` when transfer `id` has to wait until `admit` names it.
    func take(_ bytes: Int, _ direction: Direction, for id: UInt64) -> Bool { current { $0.lines[direction.rawValue].take(bytes, for: id) } }

    /// Who may go on now, and with how many bytes.
    func admit() -> [(direction: Direction, id: UInt64, bytes: Int)] {
        current { state in Direction.allCases.flatMap { way in state.lines[way.rawValue].admit().map { (way, $0.id, $0.bytes) } } }
    }

    func leave(_ id: UInt64, _ direction: Direction, unused: Int) { current { $0.lines[direction.rawValue].leave(id, unused: unused) } }

    /// Seconds until `admit` lets somebody through; `nil` when nobody waits.
    var wait: Double? { current { state in state.lines.compactMap(\.wait).min() } }

    /// Brings the lines to the present; the plan is asked once a second, or when the clock was set back.
    private func current<T>(_ body: (inout State) -> T) -> T {
        let time = now()
        return state.withLock { state in
            if !(0..<1).contains(time - state.asked) {
                state.limits = state.plan.limits(at: time)
                state.asked = time
            }
            for way in Direction.allCases { state.lines[way.rawValue].advance(to: time, rate: Self.rate(state.limits, way)) }
            return body(&state)
        }
    }

    private static func rate(_ limits: BandwidthPlan.Limits, _ direction: Direction) -> UInt64? {
        direction == .upload ? limits.upload : limits.download
    }
}
