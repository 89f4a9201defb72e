import ArchiveCore
import Foundation

/// How many bytes a second may go up and down, and when.
public struct BandwidthPlan: Sendable, Hashable {
    /// Bytes a second; `nil`: as many as there are.
    public struct Limits: Sendable, Hashable {
        public var upload: UInt64?
        public var download: UInt64?

        public init(upload: UInt64? = nil, download: UInt64? = nil) {
            self.upload = upload
            self.download = download
        }
    }
    /// Other limits at some hours of some days.
    public struct Rule: Sendable, Hashable {
        /// 1 is Monday, 7 is Sunday: the days on which the rule begins.
        public var days: Set<Int>
        /// Minutes since midnight, 0 to 1440; a rule whose end is not after its start goes on past midnight.
        public var from: Int
        public var to: Int
        public var zone: TimeZone
        public var limits: Limits

        public init(days: Set<Int>, from: Int, to: Int, zone: TimeZone, limits: Limits) {
            self.days = days
            self.from = from
            self.to = to
            self.zone = zone
            self.limits = limits
        }

        func covers(_ time: Moment) -> Bool {
            let seconds = Int(time.rawValue / 1_000_000_000)
            let local = seconds + zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(seconds)))
            let minute = (local % 86_400 + 86_400) % 86_400 / 60
            // 1970-01-01 was a Thursday.
            let day = ((local - minute * 60) / 86_400 % 7 + 10) % 7 + 1
            if from < to { return days.contains(day) && (from..<to).contains(minute) }
            return days.contains(day) && minute >= from || days.contains((day + 5) % 7 + 1) && minute < to
        }
    }

    public var always: Limits
    /// The first that covers a time counts.
    public var rules: [Rule]

    public init(always: Limits = Limits(), rules: [Rule] = []) {
        self.always = always
        self.rules = rules
    }

    public func limits(at time: Moment) -> Limits { rules.first { $0.covers(time) }?.limits ?? always }
}
