import ArchiveCore

/// Stretches of time: ascending, none touching another.
struct Spans: Hashable {
    private(set) var parts: [Range<Moment>] = []

    /// - Parameter parts: in any order, may overlap; empty ones count for nothing.
    init(_ parts: some Sequence<Range<Moment>>) {
        for part in parts.sorted(by: { $0.lowerBound < $1.lowerBound }) where !part.isEmpty {
            if let last = self.parts.last, part.lowerBound <= last.upperBound {
                self.parts[self.parts.count - 1] = last.lowerBound..<max(last.upperBound, part.upperBound)
            } else {
                self.parts.append(part)
            }
        }
    }

    /// Seconds.
    var length: Double { parts.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) } }

    func union(_ other: Spans) -> Spans { Spans(parts + other.parts) }

    func intersection(_ other: Spans) -> Spans {
        var result: [Range<Moment>] = []
        var (i, j) = (0, 0)
        while i < parts.count, j < other.parts.count {
            let (a, b) = (parts[i], other.parts[j])
            result.append(a.clamped(to: b))
            if a.upperBound < b.upperBound { i += 1 } else { j += 1 }
        }
        return Spans(result)
    }
}
