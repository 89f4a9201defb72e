import ArchiveCore

extension RPOReport {
    /// What is known of one source.
    public struct Subject: Sendable {
        public var source: String
        public var kind: String
        /// Ascending.
        public var rows: [LagRow]
        /// Everything committed up to this time is archived: the watermark.
        public var archivedUpTo: Moment?
        public var verifiedUpTo: Moment?

        public init(source: String, kind: String, rows: [LagRow], archivedUpTo: Moment?, verifiedUpTo: Moment?) {
            self.source = source
            self.kind = kind
            self.rows = rows
            self.archivedUpTo = archivedUpTo
            self.verifiedUpTo = verifiedUpTo
        }
    }

    /// Seconds after the last row from which on nobody is taken to measure any more: rows come each minute, once they are settled.
    public static let silence = 150.0
    /// How many of the worst moments are named, and seconds between two that are told as one.
    static let worst = 10
    static let pause = 300.0

    /// - Parameters:
    ///   - objective: in seconds; `nil`: what the rows say, the newest first, else 5 s.
    ///   - points: of the chart.
    public static func make(
        archive: String, subjects: [Subject], from: Moment, to: Moment, now: Moment, objective: Double?, points: Int = 120
    ) -> RPOReport {
        let recorded = subjects.compactMap { $0.rows.last }.max { $0.end < $1.end }?.objective
        let objective = objective ?? recorded ?? 5
        let sources = subjects.map { entry(of: $0, from: from, to: to, now: now, objective: objective, points: points) }
        return RPOReport(
            archive: archive, created: now, from: from, to: to, objective: objective,
            whole: whole(subjects, sources, from: from, to: to, objective: objective, points: points), sources: sources)
    }

    private static func entry(of subject: Subject, from: Moment, to: Moment, now: Moment, objective: Double, points: Int) -> Entry {
        let rows = subject.rows.filter { $0.start < to && from < $0.end }
        var commits = LagHistogram()
        for row in rows { commits += row.commits }
        let misses = misses(of: rows, objective: objective)
        var entry = Entry(
            source: subject.source, kind: subject.kind, current: subject.rows.last?.last ?? [:], archivedUpTo: subject.archivedUpTo,
            recordedUpTo: subject.rows.last?.end, commits: commits.total, p50: commits.quantile(0.5), p95: commits.quantile(0.95), p99: commits.quantile(0.99),
            max: commits.total > 0 ? commits.maximum : nil, withinObjective: share(of: [rows], misses: [rows.map { outside($0, objective) }.reduce(0, +)]),
            measured: rows.reduce(0) { $0 + ($1.end - $1.start) }, worst: worst(misses.map { NamedMiss(source: subject.source, miss: $0) }),
            chart: chart([rows], from: from, to: to, points: points))
        // Nobody measures any more: what was committed since the watermark may be lacking, all of it.
        let known = Swift.max(subject.archivedUpTo ?? Moment(rawValue: .min), subject.rows.last?.end ?? Moment(rawValue: .min))
        if now - known > silence {
            entry.isSilent = true
            for stage in LagRow.Stage.allCases where stage != .verified { entry.current[stage] = nil }
            if let archived = subject.archivedUpTo ?? subject.rows.last?.archivedUpTo { entry.current[.archived] = .init(bytes: nil, seconds: Swift.max(0, now - archived)) }
        }
        entry.current[.verified] = subject.verifiedUpTo.map { .init(bytes: nil, seconds: Swift.max(0, now - $0)) }
        return entry
    }

    private static func whole(_ subjects: [Subject], _ sources: [Entry], from: Moment, to: Moment, objective: Double, points: Int) -> Entry {
        let rows = subjects.map { $0.rows.filter { $0.start < to && from < $0.end } }
        var commits = LagHistogram()
        for row in rows.joined() { commits += row.commits }
        var current: [LagRow.Stage: LagRow.Backlog] = [:]
        for stage in LagRow.Stage.allCases {
            let all = sources.compactMap { $0.current[stage] }
            // As far behind as the last of them; where one does not know, nobody does.
            guard all.count == sources.count, let seconds = all.map(\.seconds).max() else { continue }
            current[stage] = .init(bytes: all.allSatisfy { $0.bytes != nil } ? all.reduce(0) { $0 + ($1.bytes ?? 0) } : nil, seconds: seconds)
        }
        let named = zip(subjects, rows).flatMap { subject, rows in misses(of: rows, objective: objective).map { NamedMiss(source: subject.source, miss: $0) } }
        // One instant for all: it is missed when any of them misses it.
        let union = length(ofUnion: named.map { ($0.miss.start, $0.miss.end) })
        let measured = length(ofUnion: rows.joined().map { ($0.start, $0.end) })
        return Entry(
            source: nil, kind: nil, current: current, archivedUpTo: sources.compactMap(\.archivedUpTo).count == sources.count ? sources.compactMap(\.archivedUpTo).min() : nil,
            recordedUpTo: sources.compactMap(\.recordedUpTo).min(), commits: commits.total, p50: commits.quantile(0.5), p95: commits.quantile(0.95),
            p99: commits.quantile(0.99), max: commits.total > 0 ? commits.maximum : nil, withinObjective: measured > 0 ? 1 - Swift.min(1, union / measured) : nil,
            measured: measured, worst: worst(named), chart: chart(rows, from: from, to: to, points: points), isSilent: sources.contains { $0.isSilent })
    }

    // MARK: Parts

    /// Of rows that were made for this objective what they say; of others what their histograms tell, as one miss a row.
    private static func misses(of rows: [LagRow], objective: Double) -> [Miss] {
        var result: [Miss] = []
        for row in rows {
            if row.objective == objective {
                for miss in row.misses { result.append(joining: miss) }
            } else if outside(row, objective) > 0 {
                let end = row.start.adding(seconds: Swift.min(outside(row, objective), row.end - row.start))
                result.append(joining: Miss(start: row.start, end: end, worst: row.exposure.maximum, cause: row.misses.max { $0.worst < $1.worst }?.cause ?? .load))
            }
        }
        return result
    }

    /// Seconds of a row in which the objective was missed.
    private static func outside(_ row: LagRow, _ objective: Double) -> Double {
        if row.objective == objective { return row.misses.reduce(0) { $0 + ($1.end - $1.start) } }
        return Double(row.exposure.total - row.exposure.weight(upTo: objective)) / 1000
    }

    private static func share(of rows: [[LagRow]], misses: [Double]) -> Double? {
        let measured = rows.joined().reduce(0) { $0 + ($1.end - $1.start) }
        return measured > 0 ? 1 - Swift.min(1, misses.reduce(0, +) / measured) : nil
    }

    /// Of each source, what came again within minutes for the same reason is one moment.
    private static func worst(_ misses: [NamedMiss]) -> [NamedMiss] {
        var joined: [String: [Miss]] = [:]
        for named in misses.sorted(by: { $0.miss.start < $1.miss.start }) {
            var known = joined[named.source, default: []]
            if let last = known.last, last.cause == named.miss.cause, named.miss.start - last.end <= pause {
                known[known.count - 1].end = Swift.max(last.end, named.miss.end)
                known[known.count - 1].worst = Swift.max(last.worst, named.miss.worst)
            } else {
                known.append(named.miss)
            }
            joined[named.source] = known
        }
        return Array(joined.flatMap { source, misses in misses.map { NamedMiss(source: source, miss: $0) } }.sorted { ($0.miss.worst, $0.miss.end, $0.source) > ($1.miss.worst, $1.miss.end, $1.source) }.prefix(worst))
    }

    private static func length(ofUnion spans: [(Moment, Moment)]) -> Double {
        var sum = 0.0
        var end = Moment(rawValue: .min)
        for (a, b) in spans.sorted(by: { $0.0 < $1.0 }) where b > end {
            sum += b - Swift.max(a, end)
            end = b
        }
        return sum
    }

    private static func chart(_ sources: [[LagRow]], from: Moment, to: Moment, points: Int) -> [Point] {
        guard from < to, points > 0 else { return [] }
        let width = (to.rawValue - from.rawValue) / Int64(points)
        guard width > 0 else { return [] }
        return (0..<points).map { n in
            let start = Moment(rawValue: from.rawValue + Int64(n) * width)
            let end = n == points - 1 ? to : Moment(rawValue: start.rawValue + width)
            var commits = LagHistogram()
            var age: Double?
            var spans: [(Moment, Moment)] = []
            for rows in sources {
                // Rows are ascending: the first that reaches into the piece.
                var low = 0
                var high = rows.count
                while low < high {
                    let middle = (low + high) / 2
                    if rows[middle].end <= start { low = middle + 1 } else { high = middle }
                }
                while low < rows.count, rows[low].start < end {
                    let row = rows[low]
                    commits += row.commits
                    age = Swift.max(age ?? 0, row.exposure.maximum)
                    spans.append((Swift.max(start, row.start), Swift.min(end, row.end)))
                    low += 1
                }
            }
            return Point(start: start, end: end, p50: commits.quantile(0.5), p99: commits.quantile(0.99), max: age, measured: length(ofUnion: spans))
        }
    }
}
