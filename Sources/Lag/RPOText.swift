import ArchiveCore

/// Words and figures of a report, the same in the terminal and on the page.
public enum RPOWords {
    /// `0.42 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
    public static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0 else { return "–" }
        if seconds < 9.95 {
            // Upwards, so that nothing looks better than it was.
            let hundredths = seconds < 0.995 ? Int((seconds * 100).rounded(.up)) : Int((seconds * 10).rounded(.up)) * 10
            return hundredths < 100 ? "0.\(hundredths < 10 ? "0" : "")\(hundredths) s" : "\(hundredths / 100).\(hundredths / 10 % 10) s"
        }
        let whole = Int(min(seconds.rounded(.up), 1e12))
        func two(_ a: Int, _ unit: String, _ b: Int, _ smaller: String) -> String { b == 0 ? "\(a) \(unit)" : "\(a) \(unit) \(b) \(smaller)" }
        if whole < 120 { return "\(whole) s" }
        if whole < 7200 { return two(whole / 60, "min", whole % 60, "s") }
        if whole < 172_800 { return two(whole / 3600, "h", whole / 60 % 60, "min") }
        return two(whole / 86_400, "d", whole / 3600 % 24, "h")
    }

    /// `99.998 %`; never rounded up to 100.
    public static func share(_ share: Double) -> String {
        guard share < 1 else { return "100 %" }
        let thousandths = Int(max(0, share) * 100_000)
        let (whole, rest) = (thousandths / 1000, thousandths % 1000)
        var digits = String(repeating: "0", count: 3 - String(rest).count) + String(rest)
        while digits.hasSuffix("0") { digits.removeLast() }
        return digits.isEmpty ? "\(whole) %" : "\(whole).\(digits) %"
    }

    /// How much of the measured time was within the objective.
    public static func within(_ entry: RPOReport.Entry, unicode: Bool = true) -> String {
        guard let share = entry.withinObjective else { return unicode ? "–" : "-" }
        return (entry.isEstimate ? (unicode ? "≥ " : ">= ") : "") + self.share(share)
    }

    /// Why nothing is known of the present.
    public static func silence(_ entry: RPOReport.Entry) -> String {
        "no agent has recorded anything \(entry.recordedUpTo.map { "since \(time($0))" } ?? "yet"). "
            + (entry.archivedUpTo.map { "All that was committed since \(time($0)) may be lost." } ?? "Nothing of it is known to be archived.")
    }

    public static func cause(_ cause: Miss.Cause) -> String {
        switch cause {
        case .store: "the store was slow or failed"
        case .agent: "no agent was archiving"
        case .network: "the source could not be reached"
        case .gap: "a hole in the log, until the next base"
        case .load: "more was written than was archived in time"
        }
    }

    public static func stage(_ stage: LagRow.Stage) -> String {
        switch stage {
        case .received: "not received"
        case .synced: "not on the agent's disk"
        case .archived: "not in the archive"
        case .verified: "not verified"
        }
    }

    public static func count(_ n: UInt64) -> String {
        var digits = Array(String(n))
        var i = digits.count - 3
        while i > 0 {
            digits.insert(",", at: i)
            i -= 3
        }
        return String(digits)
    }

    static func bytes(_ n: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var (value, unit) = (Double(n), 0)
        while value >= 1024, unit < units.count - 1 { (value, unit) = (value / 1024, unit + 1) }
        return unit == 0 ? "\(n) B" : "\(Int(value * 10) / 10).\(Int(value * 10) % 10) \(units[unit])"
    }

    /// To the second.
    static func time(_ moment: Moment) -> String { "\(Moment(rawValue: moment.rawValue - moment.rawValue % 1_000_000_000))".replacing("T", with: " ") }

    /// What a stage lacks now, for people.
    static func backlog(_ backlog: LagRow.Backlog?, atMost: Bool) -> String {
        guard let backlog else { return "unknown" }
        if backlog.seconds == 0, backlog.bytes ?? 0 == 0 { return "nothing" }
        let seconds = (atMost ? "up to " : "") + duration(backlog.seconds)
        guard let bytes = backlog.bytes, bytes > 0 else { return seconds }
        return "\(seconds), \(self.bytes(bytes))"
    }
}

/// A report for a terminal.
public struct RPOText {
    /// Columns of the terminal.
    public var width: Int
    /// Whether block characters can be shown.
    public var isUnicode: Bool

    public init(width: Int, isUnicode: Bool) {
        self.width = max(60, min(width, 200))
        self.isUnicode = isUnicode
    }

    static let height = 5

    public func render(_ report: RPOReport) -> String {
        var lines = [
            "RPO of \(printable(report.archive))",
            "\(RPOWords.time(report.from)) to \(RPOWords.time(report.to)), objective \(RPOWords.duration(report.objective))", "",
        ]
        lines += table([["", "not archived", "commits", "p50", "p95", "p99", "max", "within objective", "measured"]] + entries(report).map { row(of: $0, in: report) })
        for entry in report.sources where entry.isSilent { lines += ["", "'\(printable(entry.source ?? ""))': \(RPOWords.silence(entry))"] }
        for entry in report.sources where entry.measured > 0 {
            lines += ["", "Age of the oldest commit that the archive lacked: \(printable(entry.source ?? ""))"]
            lines += chart(entry.chart, objective: report.objective)
        }
        lines.append("")
        if report.whole.worst.isEmpty {
            lines.append(report.whole.measured > 0 ? "The objective was never missed while it was measured." : "Nothing was measured in this period.")
        } else {
            lines.append("Worst moments:")
            lines += table(report.whole.worst.map { [RPOWords.duration($0.miss.worst), "\(RPOWords.time($0.miss.start)) for \(RPOWords.duration($0.miss.end - $0.miss.start))", printable($0.source), RPOWords.cause($0.miss.cause)] }).map { "  " + $0 }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// One source needs no sum.
    private func entries(_ report: RPOReport) -> [RPOReport.Entry] { report.sources.count == 1 ? report.sources : report.sources + [report.whole] }

    private func row(of entry: RPOReport.Entry, in report: RPOReport) -> [String] {
        func time(_ seconds: Double?) -> String { seconds.map { RPOWords.duration($0) } ?? dash }
        return [
            printable(entry.source ?? "all"), RPOWords.backlog(entry.current[.archived], atMost: entry.isBound), RPOWords.count(entry.commits), time(entry.p50), time(entry.p95),
            time(entry.p99), time(entry.max), RPOWords.within(entry, unicode: isUnicode), RPOWords.share(entry.measured / max(report.to - report.from, 0.001)),
        ]
    }

    private var dash: String { isUnicode ? "–" : "-" }

    private func table(_ rows: [[String]]) -> [String] {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { c in rows.map { c < $0.count ? $0[c].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (c, cell) in row.enumerated() { line += c < row.count - 1 ? cell + String(repeating: " ", count: widths[c] - cell.count + 2) : cell }
            return line
        }
    }

    /// A column for each piece of time, as high as the logarithm of the lag; a point where nothing was measured.
    private func chart(_ points: [RPOReport.Point], objective: Double) -> [String] {
        let columns = max(20, width - 14)
        let groups = (0..<min(columns, points.count)).map { c in points[c * points.count / min(columns, points.count)..<(c + 1) * points.count / min(columns, points.count)] }
        let values = groups.map { group in group.contains { $0.measured > 0 } ? group.compactMap(\.max).max() ?? 0 : nil }
        let top = max(objective * 2, values.compactMap { $0 }.max() ?? 0)
        let scale = LagScale(top: top)
        let blocks = Array(" ▁▂▃▄▅▆▇█")
        let marked = Int(scale.share(objective) * Double(Self.height))
        return (0..<Self.height).reversed().map { level in
            let label = level == Self.height - 1 ? RPOWords.duration(top) : level == marked ? RPOWords.duration(objective) : level == 0 ? "0" : ""
            var line = String(repeating: " ", count: max(0, 12 - label.count)) + label + (isUnicode ? (level == marked ? "┤" : "│") : "|")
            for value in values {
                guard let value else {
                    line += level == 0 ? (isUnicode ? "·" : ".") : " "
                    continue
                }
                let eighths = max(0, min(8, Int((scale.share(value) * Double(Self.height) - Double(level)) * 8 + (value > 0 && level == 0 ? 1 : 0))))
                line += isUnicode ? String(blocks[eighths]) : eighths >= 4 ? "#" : eighths > 0 ? "_" : " "
            }
            while line.hasSuffix(" ") { line.removeLast() }
            return line
        }
    }

    private func printable(_ text: String) -> String { String(text.map { $0.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F && !(0x80...0x9F).contains($0.value) } ? $0 : "?" }) }
}

/// Where a lag lies between 0 and the longest one that is shown, by its logarithm from a tenth of a second on.
struct LagScale {
    var top: Double

    static let bottom = 0.1

    init(top: Double) { self.top = max(top, 1) }

    /// 0 to 1.
    func share(_ seconds: Double) -> Double {
        guard seconds > Self.bottom else { return 0 }
        return min(1, logarithm(seconds / Self.bottom) / logarithm(top / Self.bottom))
    }

    /// Round times to be marked, ascending.
    var marks: [Double] { [0.1, 1, 10, 60, 600, 3600, 36_000, 86_400, 864_000, 8_640_000].filter { $0 <= top } }
}
