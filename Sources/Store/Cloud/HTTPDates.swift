import ArchiveCore

/// Dates of HTTP (RFC 9110, IMF-fixdate), such as `Sun, 06 Nov 1994 08:49:37 GMT`.
enum HTTPDates {
    private static let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    static func text(_ time: Moment) -> String {
        // `2026-11-24T02:53:30…Z`, without the fraction.
        let parts = time.description.prefix(19).split { $0 == "-" || $0 == "T" || $0 == ":" }.map(String.init)
        let seconds = time.rawValue / 1_000_000_000 - (time.rawValue % 1_000_000_000 < 0 ? 1 : 0)
        let day = (seconds < 0 ? (seconds - 86_399) / 86_400 : seconds / 86_400)
        // 1970-01-01 was a Thursday.
        let weekday = days[Int(((day + 3) % 7 + 7) % 7)]
        return "\(weekday), \(parts[2]) \(months[Int(parts[1])! - 1]) \(parts[0]) \(parts[3]):\(parts[4]):\(parts[5]) GMT"
    }

    static func parse(_ text: String) -> Moment? {
        let parts = text.split(separator: " ")
        guard parts.count == 6, parts[5] == "GMT", let month = months.firstIndex(of: String(parts[2])) else { return nil }
        return Moment("\(parts[3])-\(month < 9 ? "0" : "")\(month + 1)-\(parts[1])T\(parts[4])Z")
    }
}
