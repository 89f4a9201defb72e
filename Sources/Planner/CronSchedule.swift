import ArchiveCore
import Foundation

/// Why an expression is no schedule.
public struct CronError: Error, Equatable, CustomStringConvertible {
    /// One clause, without a full stop.
    public let reason: String
    public var description: String { reason }
}

/// Moments that come again, as crontab(5) writes them: minute, hour, day of the month, month, day of the week, in one time zone.
///
/// Where both a day of the month and a day of the week are given, either of them is enough. A local time that a change of the clocks leaves
/// out comes at the change; one that it repeats comes once, the first time.
public struct CronSchedule: Sendable, Hashable, CustomStringConvertible {
    public let expression: String
    public let zone: TimeZone
    private var minutes: Set<Int> = []
    private var hours: Set<Int> = []
    private var days: Set<Int> = []
    private var months: Set<Int> = []
    private var weekdays: Set<Int> = []
    private var anyDay = true
    private var anyWeekday = true

    private static let shorthands = ["@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"]
    private static let monthNames = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    private static let dayNames = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
    /// Days that are looked at: 29 February comes within eight years.
    private static let horizon = 8 * 366 + 2

    public var description: String { "\(expression) (\(zone.identifier))" }

    /// - Throws: `CronError`, also for moments that never come, such as 31 February.
    public init(_ expression: String, zone: TimeZone) throws(CronError) {
        self.expression = expression
        self.zone = zone
        let trimmed = expression.split(whereSeparator: { $0 == " " || $0 == "\t" }).joined(separator: " ").lowercased()
        if trimmed.hasPrefix("@"), Self.shorthands[trimmed] == nil { throw CronError(reason: "'\(expression)' is not known; there are \(Self.shorthands.keys.sorted().joined(separator: ", "))") }
        let fields = (Self.shorthands[trimmed] ?? trimmed).split(separator: " ").map(String.init)
        guard fields.count == 5 else { throw CronError(reason: "it has \(fields.count) fields instead of five: minute, hour, day of the month, month, day of the week") }
        minutes = try Self.field(fields[0], 0...59, "minute")
        hours = try Self.field(fields[1], 0...23, "hour")
        days = try Self.field(fields[2], 1...31, "day of the month")
        months = try Self.field(fields[3], 1...12, "month", names: Self.monthNames, first: 1)
        weekdays = Set(try Self.field(fields[4], 0...7, "day of the week", names: Self.dayNames, first: 0).map { $0 % 7 })
        anyDay = fields[2].hasPrefix("*")
        anyWeekday = fields[4].hasPrefix("*")
        // A leap year: every date that ever is.
        guard (0..<366).contains(where: { matches(day: Self.leapYear + $0) }) else { throw CronError(reason: "that day never comes") }
    }

    /// Days from 1970 to 2028-01-01.
    private static let leapYear = 21_184

    private static func field(_ text: String, _ range: ClosedRange<Int>, _ what: String, names: [String] = [], first: Int = 0) throws(CronError) -> Set<Int> {
        func number(_ part: Substring) throws(CronError) -> Int {
            if let i = names.firstIndex(of: String(part)) { return i + first }
            guard !part.isEmpty, part.utf8.count <= 3, part.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let n = Int(part), range.contains(n) else {
                throw CronError(reason: "'\(part)' is no \(what), which goes from \(range.lowerBound) to \(range.upperBound)")
            }
            return n
        }
        var values: Set<Int> = []
        for item in text.split(separator: ",", omittingEmptySubsequences: false) {
            let halves = item.split(separator: "/", omittingEmptySubsequences: false)
            guard (1...2).contains(halves.count) else { throw CronError(reason: "'\(item)' is no \(what)") }
            var step = 1
            if halves.count == 2 {
                guard halves[1].utf8.count <= 3, let n = Int(halves[1]), n > 0, halves[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { throw CronError(reason: "'\(halves[1])' is no step of a \(what)") }
                step = n
            }
            let ends = halves[0].split(separator: "-", omittingEmptySubsequences: false)
            let span: ClosedRange<Int>
            if halves[0] == "*" { span = range } else if ends.count == 2 {
                let (a, b) = (try number(ends[0]), try number(ends[1]))
                guard a <= b else { throw CronError(reason: "'\(halves[0])' ends before it begins") }
                span = a...b
            } else if ends.count == 1 {
                let n = try number(ends[0])
                span = halves.count == 2 ? n...range.upperBound : n...n
            } else { throw CronError(reason: "'\(item)' is no \(what)") }
            values.formUnion(stride(from: span.lowerBound, through: span.upperBound, by: step))
        }
        return values
    }

    /// - Parameter day: counted from 1970-01-01.
    private func matches(day: Int) -> Bool {
        let (_, month, date) = civilDate(daysSinceEpoch: day)
        guard months.contains(month) else { return false }
        // 1970-01-01 was a Thursday.
        let weekday = weekdays.contains(((day + 4) % 7 + 7) % 7)
        if anyDay || anyWeekday { return days.contains(date) && weekday }
        return days.contains(date) || weekday
    }

    /// The first moment after `time`; `nil`: none that a `Moment` can hold.
    public func next(after time: Moment) -> Moment? {
        let first = localDay(of: time) - 1
        for day in first..<first + Self.horizon {
            if let found = moments(of: day).first(where: { $0 > time }) { return found }
        }
        return nil
    }

    /// The last moment that is not after `time`.
    public func previous(atOrBefore time: Moment) -> Moment? {
        let last = localDay(of: time) + 1
        for day in stride(from: last, to: last - Self.horizon, by: -1) {
            if let found = moments(of: day).last(where: { $0 <= time }) { return found }
        }
        return nil
    }

    private func offset(at seconds: Int) -> Int { zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(seconds))) }

    private func localDay(of time: Moment) -> Int {
        let seconds = Int(time.rawValue / 1_000_000_000)
        let local = seconds + offset(at: seconds)
        return local >= 0 ? local / 86_400 : (local - 86_399) / 86_400
    }

    /// All moments of a local day, ascending.
    private func moments(of day: Int) -> [Moment] {
        guard matches(day: day), abs(day) < 100_000 else { return [] }
        var found: Set<Int> = []
        for hour in hours { for minute in minutes { found.insert(instant(local: day * 86_400 + hour * 3600 + minute * 60)) } }
        return found.sorted().map { Moment(rawValue: Int64($0) * 1_000_000_000) }
    }

    /// Seconds since 1970 of a local time.
    private func instant(local: Int) -> Int {
        // The larger offset first: the earlier of two.
        let offsets = Set([local - 86_400, local, local + 86_400].map { offset(at: $0) }).sorted(by: >)
        for offset in offsets where self.offset(at: local - offset) == offset { return local - offset }
        // Left out: the change of the clocks itself.
        let before = Date(timeIntervalSince1970: Double(local - (offsets.first ?? 0) - 86_400))
        guard let change = zone.nextDaylightSavingTimeTransition(after: before) else { return local - (offsets.last ?? 0) }
        return Int(change.timeIntervalSince1970)
    }
}

/// When bases of a source are taken by themselves.
public struct BasePolicy: Sendable, Hashable {
    public var schedule: CronSchedule
    /// Seconds by which a start is put off at most.
    public var jitter: Double

    public init(schedule: CronSchedule, jitter: Double) {
        self.schedule = schedule
        self.jitter = jitter
    }

    /// By how much the base of one source is put off at one scheduled moment, 0 to `jitter` seconds: the same each time it is asked.
    public func delay(of source: String, in archive: String, at scheduled: Moment) -> Double {
        guard jitter > 0 else { return 0 }
        var sum: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in "\(archive)/\(source)/\(scheduled.rawValue)".utf8 { sum = (sum ^ UInt64(byte)) &* 0x100_0000_01B3 }
        // The low bits of FNV-1a are mixed worse than the high ones.
        return jitter * Double(sum >> 11) / Double(1 << 53)
    }
}
