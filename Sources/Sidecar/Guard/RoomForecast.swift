import Source

/// When the room for what a source keeps for us is used up, at the pace of late.
///
/// Only what is kept because of us counts: the growth of the retained bytes is what the source writes less what we take. Of the averages
/// over a minute, ten and an hour the largest counts. While less than the slack is kept there is no danger, whatever the source writes.
public struct RoomForecast: Sendable {
    private struct Sample {
        var time: Double
        var retained: UInt64
    }
    /// Seconds.
    static let horizons = [60.0, 600, 3600]
    /// A growth seen for fewer seconds than this is none.
    static let shortest = 5.0
    /// A year: longer is no forecast.
    static let farthest = 31_536_000.0

    /// In order of time; those older than a minute are thinned out to one in ten seconds, so there are at most some hundreds.
    private var samples: [Sample] = []

    public init() {}

    var count: Int { samples.count }

    /// Whether too little was seen for any pace.
    public var isYoung: Bool { samples.count < 2 }

    /// - Parameter time: seconds of a clock that never jumps. One that went back all the same begins anew.
    /// - Returns: seconds; `nil`: not known, or no danger, or not within a year.
    public mutating func take(_ reading: GuardReading, at time: Double) -> Double? {
        if let last = samples.last, time < last.time { samples = [] }
        // The slot was made anew, or let go of.
        if reading.isLost { samples = [] }
        samples.append(Sample(time: time, retained: reading.retained))
        thin(time)
        guard !reading.isLost, let room = reading.room, reading.retained >= reading.slack else { return nil }
        let growth = Self.horizons.compactMap { average(over: $0, at: time, retained: reading.retained) }.max() ?? 0
        guard growth > 0 else { return nil }
        let left = Double(room) / growth
        return left <= Self.farthest ? left : nil
    }

    /// Bytes a second; `nil`: too little was seen.
    private func average(over horizon: Double, at time: Double, retained: UInt64) -> Double? {
        guard let first = samples.first(where: { $0.time >= time - horizon }), time - first.time >= Self.shortest else { return nil }
        return (Double(retained) - Double(first.retained)) / (time - first.time)
    }

    private mutating func thin(_ time: Double) {
        var kept: [Sample] = []
        for sample in samples where sample.time >= time - 3600 {
            if sample.time < time - 60, let last = kept.last, sample.time - last.time < 10 { continue }
            kept.append(sample)
        }
        samples = kept
    }
}
