/// A moment in time, to the nanosecond, counted from 1970-01-01 UTC.
public struct Moment: RawRepresentable, Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
    /// Nanoseconds since 1970-01-01T00:00:00Z; the range is the years 1677 to 2262.
    public let rawValue: Int64

    public init(rawValue: Int64) { self.rawValue = rawValue }
    public init(nanoseconds: Int64) { rawValue = nanoseconds }

    /// Microseconds between 1970-01-01 and PostgreSQL's own epoch, 2000-01-01 UTC.
    public static let postgresEpoch: Int64 = 946_684_800_000_000

    /// A PostgreSQL timestamp: microseconds since 2000-01-01 UTC. Values outside of `Moment`'s range are moved to its ends.
    public init(postgresMicroseconds value: Int64) {
        let (sum, over) = value.addingReportingOverflow(Self.postgresEpoch)
        let (product, wide) = sum.multipliedReportingOverflow(by: 1000)
        rawValue = over || wide ? (value < 0 ? .min : .max) : product
    }

    /// Reads RFC 3339 with its offset, such as `2026-11-24T02:53:30.25Z` or `2026-11-24 03:53:30+01:00`.
    ///
    /// - Returns: `nil` for anything else; above all for a time without `Z` or an offset.
    public init?(_ text: String) {
        var p = Scanner(bytes: Array(text.utf8))
        guard let year = p.number(4), p.skip("-"), let month = p.number(2), p.skip("-"), let day = p.number(2),
            p.skip("T") || p.skip("t") || p.skip(" "),
            let hour = p.number(2), p.skip(":"), let minute = p.number(2), p.skip(":"), let second = p.number(2)
        else { return nil }
        var fraction: Int64 = 0
        if p.skip(".") {
            guard let digits = p.fraction() else { return nil }
            fraction = digits
        }
        var offset = 0
        if !p.skip("Z") && !p.skip("z") {
            let sign = p.skip("+") ? 1 : p.skip("-") ? -1 : 0
            guard sign != 0, let h = p.number(2), h <= 23 else { return nil }
            let colon = p.skip(":")
            let m = p.number(2)
            guard m != nil || !colon, m ?? 0 <= 59 else { return nil }
            offset = sign * (h * 3600 + (m ?? 0) * 60)
        }
        guard p.atEnd, (1...12).contains(month), (1678...2261).contains(year),
            (1...daysIn(month: month, year: year)).contains(day), hour <= 23, minute <= 59, second <= 60
        else { return nil }
        let seconds = daysSinceEpoch(year: year, month: month, day: day) * 86_400 + hour * 3600 + minute * 60 + second - offset
        rawValue = Int64(seconds) * 1_000_000_000 + fraction
    }

    /// RFC 3339 in UTC with as many decimals as needed, in groups of three.
    public var description: String {
        var seconds = rawValue / 1_000_000_000
        var nanoseconds = rawValue % 1_000_000_000
        if nanoseconds < 0 {
            nanoseconds += 1_000_000_000
            seconds -= 1
        }
        var days = seconds / 86_400
        var rest = seconds % 86_400
        if rest < 0 {
            rest += 86_400
            days -= 1
        }
        let (year, month, day) = civilDate(daysSinceEpoch: Int(days))
        func two(_ n: Int) -> String { n < 10 ? "0\(n)" : "\(n)" }
        var text = "\(year)-\(two(month))-\(two(day))T\(two(Int(rest) / 3600)):\(two(Int(rest) / 60 % 60)):\(two(Int(rest) % 60))"
        if nanoseconds != 0 {
            let digits = String(nanoseconds)
            var padded = String(repeating: "0", count: 9 - digits.count) + digits
            while padded.hasSuffix("000") { padded.removeLast(3) }
            text += "." + padded
        }
        return text + "Z"
    }

    public static func < (a: Moment, b: Moment) -> Bool { a.rawValue < b.rawValue }
    /// Seconds from `b` to `a`.
    public static func - (a: Moment, b: Moment) -> Double { Double(a.rawValue &- b.rawValue) / 1e9 }
    /// The sum; outside of the range of a moment, its end.
    public func adding(nanoseconds: Int64) -> Moment {
        let (sum, over) = rawValue.addingReportingOverflow(nanoseconds)
        return Moment(rawValue: over ? (nanoseconds < 0 ? .min : .max) : sum)
    }
    /// The sum; outside of the range of a moment, its end.
    public func adding(seconds: Double) -> Moment {
        // 2^63 itself is no `Int64` any more.
        guard abs(seconds * 1e9) < 0x1p63 else { return seconds.isNaN ? self : Moment(rawValue: seconds < 0 ? .min : .max) }
        return adding(nanoseconds: Int64(seconds * 1e9))
    }
}

private struct Scanner {
    let bytes: [UInt8]
    var position = 0
    var atEnd: Bool { position == bytes.count }

    mutating func skip(_ c: Unicode.Scalar) -> Bool {
        guard position < bytes.count, bytes[position] == UInt8(ascii: c) else { return false }
        position += 1
        return true
    }

    mutating func number(_ digits: Int) -> Int? {
        guard position + digits <= bytes.count else { return nil }
        var value = 0
        for byte in bytes[position..<position + digits] {
            guard (0x30...0x39).contains(byte) else { return nil }
            value = value * 10 + Int(byte - 0x30)
        }
        position += digits
        return value
    }

    /// One to nine decimals as nanoseconds.
    mutating func fraction() -> Int64? {
        var value: Int64 = 0
        var count = 0
        while position < bytes.count, (0x30...0x39).contains(bytes[position]) {
            guard count < 9 else { return nil }
            value = value * 10 + Int64(bytes[position] - 0x30)
            count += 1
            position += 1
        }
        guard count > 0 else { return nil }
        for _ in count..<9 { value *= 10 }
        return value
    }
}

private func daysIn(month: Int, year: Int) -> Int {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    return [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar (Hinnant's algorithm).
private func daysSinceEpoch(year: Int, month: Int, day: Int) -> Int {
    let y = month <= 2 ? year - 1 : year
    let era = y / 400
    let yearOfEra = y - era * 400
    let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
    return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar: year, month, day.
public func civilDate(daysSinceEpoch days: Int) -> (Int, Int, Int) {
    let z = days + 719_468
    let era = (z >= 0 ? z : z - 146_096) / 146_097
    let doe = z - era * 146_097
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100)
    let mp = (5 * doy + 2) / 153
    let month = mp < 10 ? mp + 3 : mp - 9
    return (yoe + era * 400 + (month <= 2 ? 1 : 0), month, doy - (153 * mp + 2) / 5 + 1)
}
