import ArchiveCore

extension RPOReport {
    /// What is known of one source.
    public struct Subject: Sendable {
        public var source: String
        public var kind: String
        /// Those that the period touches, ascending.
        public var rows: [LagRow]
        /// The newest one that ended before the period's end, which may be older than the period.
        public var newest: LagRow?
        /// Everything committed up to this time is archived, as of the period's end; `nil`: not known.
        public var archivedUpTo: Moment?
        public var verifiedUpTo: Moment?

        public init(source: String, kind: String, rows: [LagRow], newest: LagRow?, archivedUpTo: Moment?, verifiedUpTo: Moment?) {
            self.source = source
            self.kind = kind
            self.rows = rows
            self.newest = newest ?? rows.last
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
    ///   - to: the period's end, which is also the moment that `current` is of.
    ///   - objective: in seconds; `nil`: what the newest row says, else 5 s.
    ///   - points: of the chart.
    public static func make(archive: String, subjects: [Subject], from: Moment, to: Moment, now: Moment, objective: Double?, points: Int = 120) -> RPOReport {
        let recorded = subjects.compactMap(\.newest).max { $0.end < $1.end }?.objective
        let objective = objective ?? recorded ?? 5
        let measures = subjects.map { Measure($0.rows, in: from..<max(from, to), objective: objective) }
        let sources = zip(subjects, measures).map { entry(of: $0, $1, to: to, points: points) }
        return RPOReport(
            archive: archive, created: now, from: from, to: to, objective: objective, whole: whole(subjects, measures, sources, points: points), sources: sources)
    }

    /// What rows tell about a period.
    private struct Measure {
        var rows: [LagRow]
        var period: Range<Moment>
        /// The time that they are about, and that in which the objective was missed.
        var measured: Spans
        var missed: Spans
        /// For people: not cut off at the period's ends.
        var misses: [Miss]
        /// Whether the rows were made for another objective: how long it was missed is then known from their histograms, when from the row.
        var isEstimate: Bool

        init(_ all: [LagRow], in period: Range<Moment>, objective: Double) {
            rows = all.filter { $0.start < period.upperBound && period.lowerBound < $0.end }
            self.period = period
            measured = Spans(rows.map { ($0.start..<$0.end).clamped(to: period) })
            misses = []
            isEstimate = false
            for row in rows {
                guard row.objective != objective else {
                    for miss in row.misses { misses.append(joining: miss) }
                    continue
                }
                isEstimate = true
                let outside = Double(row.exposure.total - min(row.exposure.total, row.exposure.weight(upTo: objective))) / 1000
                guard outside > 0 else { continue }
                let worst = row.misses.max { $0.worst < $1.worst }
                // At the row's end, which the age of what is lacking rises to.
                let start = max(row.start, row.end.adding(seconds: -outside))
                misses.append(joining: Miss(start: start, end: row.end, worst: row.exposure.maximum, cause: worst?.cause ?? .load))
            }
            misses.removeAll { $0.end <= period.lowerBound || $0.start >= period.upperBound }
            missed = Spans(misses.map { ($0.start..<$0.end).clamped(to: period) }).intersection(measured)
        }

        var commits: LagHistogram {
            rows.reduce(into: LagHistogram()) { $0 += $1.commits }
        }
    }

    private static func entry(of subject: Subject, _ measure: Measure, to: Moment, points: Int) -> Entry {
        let newest = subject.newest
        var entry = Entry(
            source: subject.source, kind: subject.kind, current: newest?.last ?? [:], archivedUpTo: [subject.archivedUpTo, newest?.archivedUpTo].compactMap { $0 }.max(),
            recordedUpTo: newest?.end, commits: measure.commits, known: measure.measured, missed: measure.missed.length, isEstimate: measure.isEstimate,
            worst: worst(measure.misses.map { NamedMiss(source: subject.source, miss: $0) }), chart: chart([measure], points: points))
        let isOld = newest.map { to - $0.end > silence } ?? true
        if isOld {
            // What was committed since the watermark may be lacking, all of it.
            entry.isBound = true
            entry.isSilent = entry.archivedUpTo.map { to - $0 > silence } ?? true
            entry.current = [:]
            if let archived = entry.archivedUpTo { entry.current[.archived] = .init(bytes: nil, seconds: max(0, to - archived)) }
        }
        if let verified = subject.verifiedUpTo { entry.current[.verified] = .init(bytes: nil, seconds: max(0, to - verified)) }
        return entry
    }

    private static func whole(_ subjects: [Subject], _ measures: [Measure], _ sources: [Entry], points: Int) -> Entry {
        var current: [LagRow.Stage: LagRow.Backlog] = [:]
        for stage in LagRow.Stage.allCases {
            let all = sources.compactMap { $0.current[stage] }
            // As far behind as the last of them; where one does not know, nobody does.
            guard all.count == sources.count, let seconds = all.map(\.seconds).max() else { continue }
            current[stage] = .init(bytes: all.allSatisfy { $0.bytes != nil } ? all.reduce(0) { $0 &+ ($1.bytes ?? 0) } : nil, seconds: seconds)
        }
        // One instant for all: it is missed when any of them misses it, and within the objective only when all are known to be.
        let missed = measures.reduce(Spans([])) { $0.union($1.missed) }
        let all = measures.dropFirst().reduce(measures.first?.measured ?? Spans([])) { $0.intersection($1.measured) }
        let isEstimate = measures.contains { $0.isEstimate }
        let commits = measures.reduce(into: LagHistogram()) { $0 += $1.commits }
        let named = zip(subjects, measures).flatMap { subject, measure in measure.misses.map { NamedMiss(source: subject.source, miss: $0) } }
        var entry = Entry(
            source: nil, kind: nil, current: current, archivedUpTo: least(sources.map(\.archivedUpTo)), recordedUpTo: least(sources.map(\.recordedUpTo)),
            commits: commits, known: all.union(missed), missed: isEstimate ? measures.reduce(0) { $0 + $1.missed.length } : missed.length, isEstimate: isEstimate,
            worst: worst(named), chart: chart(measures, points: points))
        entry.isSilent = sources.contains { $0.isSilent }
        entry.isBound = sources.contains { $0.isBound }
        return entry
    }

    // MARK: Parts

    /// `nil` where one is `nil`.
    private static func least(_ times: [Moment?]) -> Moment? { times.contains(nil) ? nil : times.compactMap { $0 }.min() }

    /// Of each source, what came again within minutes for the same reason is one moment.
    private static func worst(_ misses: [NamedMiss]) -> [NamedMiss] {
        var joined: [String: [Miss]] = [:]
        for named in misses.sorted(by: { $0.miss.start < $1.miss.start }) {
            var known = joined[named.source, default: []]
            if let last = known.last, last.cause == named.miss.cause, named.miss.start - last.end <= pause {
                known[known.count - 1].end = max(last.end, named.miss.end)
                known[known.count - 1].worst = max(last.worst, named.miss.worst)
            } else {
                known.append(named.miss)
            }
            joined[named.source] = known
        }
        let all = joined.flatMap { source, misses in misses.map { NamedMiss(source: source, miss: $0) } }
        return Array(all.sorted { ($0.miss.worst, $0.miss.end, $0.source) > ($1.miss.worst, $1.miss.end, $1.source) }.prefix(worst))
    }

    private static func chart(_ measures: [Measure], points: Int) -> [Point] {
        guard let period = measures.first?.period, points > 0 else { return [] }
        let width = period.upperBound.rawValue.subtractingReportingOverflow(period.lowerBound.rawValue).partialValue / Int64(points)
        guard width > 0 else { return [] }
        return (0..<points).map { n in
            let start = Moment(rawValue: period.lowerBound.rawValue + Int64(n) * width)
            let end = n == points - 1 ? period.upperBound : Moment(rawValue: start.rawValue + width)
            var commits = LagHistogram()
            var age: Double?
            var spans: [Range<Moment>] = []
            for rows in measures.map(\.rows) {
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
                    age = max(age ?? 0, row.exposure.maximum)
                    spans.append((row.start..<row.end).clamped(to: start..<end))
                    low += 1
                }
            }
            return Point(start: start, end: end, p50: commits.quantile(0.5), p99: commits.quantile(0.99), max: age, measured: Spans(spans).length)
        }
    }
}

extension RPOReport.Entry {
    /// - Parameters:
    ///   - known: the time of which it is known whether the objective was met.
    ///   - missed: seconds.
    fileprivate init(
        source: String?, kind: String?, current: [LagRow.Stage: LagRow.Backlog], archivedUpTo: Moment?, recordedUpTo: Moment?, commits: LagHistogram, known: Spans,
        missed: Double, isEstimate: Bool, worst: [RPOReport.NamedMiss], chart: [RPOReport.Point]
    ) {
        self.init(
            source: source, kind: kind, current: current, archivedUpTo: archivedUpTo, recordedUpTo: recordedUpTo, commits: commits.total, p50: commits.quantile(0.5),
            p95: commits.quantile(0.95), p99: commits.quantile(0.99), max: commits.total > 0 ? commits.maximum : nil,
            withinObjective: known.length > 0 ? 1 - Swift.min(1, missed / known.length) : nil, isEstimate: isEstimate, measured: known.length, worst: worst, chart: chart)
    }
}
