import Source

/// Decides when a slot is a danger, when that is told, and when the slot is dropped.
public struct SlotPolicy: Sendable {
    public enum Level: String, Sendable { case ok, warn, danger, lost }
    public enum Decision: Sendable, Hashable {
        case none
        /// Tell it, the first time or again.
        case warn
        case recovered
        case lost
        case drop
    }

    /// Seconds.
    static let repetition = 3600.0
    /// The danger is over when the forecast is this many times the warning's limit, for `calm` seconds.
    static let relief = 2.0
    static let calm = 60.0
    /// Looks in a row that have to say so before a warning: one burst is none.
    static let confirmations = 2

    public private(set) var level = Level.ok
    private var below = 0
    private var told: (time: Double, forecast: Double)?
    private var calmSince: Double?

    public init() {}

    /// - Parameters:
    ///   - forecast: see `RoomForecast.take`.
    ///   - warn: seconds.
    ///   - drop: seconds; `nil`: never dropped.
    ///   - time: seconds of a clock that never jumps.
    public mutating func decide(_ reading: GuardReading, forecast: Double?, warn: Double, drop: Double?, at time: Double) -> Decision {
        if reading.isLost {
            defer { level = .lost }
            return level == .lost ? .none : .lost
        }
        let isBehind = reading.retained >= reading.slack
        // Nothing more fits, whatever the pace.
        let isTight = isBehind && (reading.isUnreserved || reading.room.map { $0 < reading.slack } ?? false)
        let left = isTight ? min(forecast ?? 0, 0) : forecast ?? .infinity
        if let drop, left < drop {
            level = .danger
            return .drop
        }
        guard left < warn else { return settle(left, warn: warn, at: time) }
        calmSince = nil
        below += 1
        guard isTight || below >= Self.confirmations else { return .none }
        level = isTight ? .danger : .warn
        if let told, time - told.time < Self.repetition, time >= told.time, told.forecast == 0 || left > told.forecast / 2 { return .none }
        told = (time, left)
        return .warn
    }

    /// It was dropped: what comes next is another slot.
    public mutating func dropped() { self = SlotPolicy() }

    private mutating func settle(_ left: Double, warn: Double, at time: Double) -> Decision {
        below = 0
        guard level != .ok else { return .none }
        guard left >= warn * Self.relief else {
            calmSince = nil
            return .none
        }
        let since = calmSince ?? time
        calmSince = since
        guard time - since >= Self.calm || level == .lost else { return .none }
        self = SlotPolicy()
        return .recovered
    }

    /// Seconds until the next look: a minute when all is well and much fits, else ten seconds, and less when a tenth of the forecast is.
    public func pause(_ reading: GuardReading, forecast: Double?) -> Double {
        let isRoomy = reading.retained < reading.slack && reading.room.map { $0 / 64 > reading.slack } ?? true
        if level == .ok, forecast == nil, isRoomy { return 60 }
        return max(1, min(10, (forecast ?? 100) / 10))
    }
}
