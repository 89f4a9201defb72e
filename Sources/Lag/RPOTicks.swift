import ArchiveCore

/// Round times below a chart.
enum RPOTicks {
    /// Seconds between two: from a minute to a year.
    private static let steps: [Int64] = [
        60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000, 7_776_000, 31_536_000,
    ]

    /// At most nine, each with its words: `17:05`, or `11-19` where they are days apart, or `2026-11` where months are.
    static func between(_ from: Moment, _ to: Moment) -> [(time: Moment, label: String)] {
        guard from < to, from.rawValue >= 0 else { return [] }
        let (first, last) = (from.rawValue / 1_000_000_000, to.rawValue / 1_000_000_000)
        let step = steps.first { (last - first) / $0 <= 8 } ?? max(1, (last - first) / 8)
        return stride(from: (first / step + 1) * step, to: last, by: Int64.Stride(step)).prefix(9).map { seconds in
            let time = Moment(rawValue: seconds * 1_000_000_000)
            let text = Array("\(time)")
            return (time, String(step < 86_400 ? text[11..<16] : step < 2_592_000 ? text[5..<10] : text[0..<7]))
        }
    }
}
