import ArchiveCore
import Foundation
import Runtime

/// A target time as people write it.
enum TargetTime {
    /// Reads RFC 3339 with an offset, a time relative to now such as `-15m` or `-1h30m`, or a local time with `--zone`.
    ///
    /// - Throws: `.usage`, above all for a time without a zone.
    static func parse(_ text: String, zone: String?, now: Moment = Runtime.now()) throws(ArchiveError) -> Moment {
        if text.hasPrefix("-"), let seconds = duration(text.dropFirst()) { return now.adding(seconds: -seconds) }
        if let moment = Moment(text) {
            guard zone == nil else { throw ArchiveError(.usage, "'\(text)' has its own offset; --zone does not go with it.") }
            return moment
        }
        guard let zone else {
            throw ArchiveError(
                .usage, Moment(text + "Z") != nil ? "'\(text)' says no time zone." : "'\(text)' is not a time.",
                remedy: "Write 2026-11-24T02:53:30Z, 2026-11-24T03:53:30+01:00, a relative time such as -15m, or add --zone Europe/Berlin.")
        }
        guard let timeZone = TimeZone(identifier: zone) else {
            throw ArchiveError(.usage, "'\(zone)' is not a time zone.", remedy: "Name one such as Europe/Berlin or UTC.")
        }
        guard let utc = Moment(text + "Z") else { throw ArchiveError(.usage, "'\(text)' is not a time.") }
        // An hour that a change of the clocks repeats means its first run; one that it leaves out does not exist.
        for offset in candidates(timeZone, around: utc) {
            let moment = utc.adding(seconds: Double(-offset))
            if offsetAt(timeZone, moment) == offset { return moment }
        }
        throw ArchiveError(.usage, "'\(text)' never was in \(zone): the clocks were put forward over it.")
    }

    private static func offsetAt(_ zone: TimeZone, _ moment: Moment) -> Int {
        zone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(moment.rawValue) / 1e9))
    }

    private static func candidates(_ zone: TimeZone, around utc: Moment) -> [Int] {
        Set([-86_400.0, 0, 86_400].map { offsetAt(zone, utc.adding(seconds: $0)) }).sorted(by: >)
    }

    /// `90s`, `15m`, `1h30m`, `2d`, `500ms` in seconds; `nil` for anything else.
    static func duration(_ text: some StringProtocol) -> Double? {
        let units: [(String, Double)] = [("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        var rest = text[...]
        var sum = 0.0
        guard !rest.isEmpty else { return nil }
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isASCII && $0.isNumber }
            guard !digits.isEmpty, digits.count <= 9, let n = Double(digits) else { return nil }
            rest = rest.dropFirst(digits.count)
            guard let unit = units.first(where: { rest.hasPrefix($0.0) }) else { return nil }
            rest = rest.dropFirst(unit.0.count)
            sum += n * unit.1
        }
        return sum
    }
}
