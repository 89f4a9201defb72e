/// Writes Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
struct MetricsText {
    enum Kind: String { case counter, gauge, histogram }
    typealias Labels = [(name: String, value: String)]

    private(set) var text = ""

    /// One metric with all its samples; one without samples is left out.
    mutating func family(_ name: String, _ kind: Kind, _ help: String, _ samples: [(labels: Labels, value: Double?)]) {
        let samples = samples.compactMap { sample in sample.value.map { (sample.labels, $0) } }
        guard !samples.isEmpty else { return }
        head(name, kind, help)
        for (labels, value) in samples { line(name, labels, value) }
    }

    mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: Double?) { family(name, kind, help, [([], value)]) }

    /// - Parameter buckets: bounds, ascending, and how many were at most that.
    mutating func histogram(_ name: String, _ help: String, _ series: [(labels: Labels, buckets: [(bound: Double, count: UInt64)], count: UInt64, sum: Double)]) {
        guard !series.isEmpty else { return }
        head(name, .histogram, help)
        for one in series {
            for bucket in one.buckets { line("\(name)_bucket", one.labels + [("le", Self.number(bucket.bound))], Double(bucket.count)) }
            line("\(name)_bucket", one.labels + [("le", "+Inf")], Double(one.count))
            line("\(name)_sum", one.labels, one.sum)
            line("\(name)_count", one.labels, Double(one.count))
        }
    }

    private mutating func head(_ name: String, _ kind: Kind, _ help: String) {
        text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
    }

    private mutating func line(_ name: String, _ labels: Labels, _ value: Double) {
        let list = labels.isEmpty ? "" : "{" + labels.map { "\($0.name)=\"\(Self.escaped($0.value, quotes: true))\"" }.joined(separator: ",") + "}"
        text += "\(name)\(list) \(Self.number(value))\n"
    }

    /// As Go's `strconv.ParseFloat` reads it; whole numbers without a fraction.
    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        return value.magnitude < 1e15 && value == value.rounded() ? "\(Int64(value))" : "\(value)"
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
