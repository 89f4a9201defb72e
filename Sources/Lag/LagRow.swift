import ArchiveCore

/// How far the archive was behind one source during some time, usually a minute.
public struct LagRow: Sendable, Hashable {
    /// The way of a commit, in its order.
    public enum Stage: String, Sendable, Hashable, CaseIterable, Codable, CodingKeyRepresentable { case received, synced, archived, verified }

    /// What a stage lacked.
    public struct Backlog: Sendable, Hashable, Codable {
        /// Bytes of log that the stage before had and this one did not have; `nil`: not known.
        public var bytes: UInt64?
        /// Age of the oldest commit that the stage did not have, in seconds; 0: it had all.
        public var seconds: Double

        public init(bytes: UInt64?, seconds: Double) {
            self.bytes = bytes
            self.seconds = seconds
        }
    }

    public var start: Moment
    public var end: Moment
    /// Of each commit that was archived meanwhile: how long after the commit that was. Weights are commits.
    public var commits = LagHistogram()
    /// Of each moment: how old the oldest commit was that the archive lacked. Weights are milliseconds.
    public var exposure = LagHistogram()
    /// What each stage lacked at worst, and at the end.
    public var worst: [Stage: Backlog] = [:]
    public var last: [Stage: Backlog] = [:]
    /// Everything committed up to this time was archived at the end; `nil`: not known.
    public var archivedUpTo: Moment?
    /// What the objective was, in seconds.
    public var objective: Double
    /// When it was missed; ascending, not overlapping.
    public var misses: [Miss] = []

    public init(start: Moment, end: Moment, objective: Double) {
        self.start = start
        self.end = end
        self.objective = objective
    }

    /// Takes in the row that follows.
    public mutating func append(_ next: LagRow) {
        end = next.end
        commits += next.commits
        exposure += next.exposure
        for (stage, backlog) in next.worst {
            guard let mine = worst[stage] else {
                worst[stage] = backlog
                continue
            }
            worst[stage] = Backlog(bytes: [mine.bytes, backlog.bytes].compactMap { $0 }.max(), seconds: max(mine.seconds, backlog.seconds))
        }
        last = next.last
        archivedUpTo = next.archivedUpTo ?? archivedUpTo
        // The stricter one, where it was changed in between.
        objective = min(objective, next.objective)
        for miss in next.misses { misses.append(joining: miss) }
    }
}

/// A time during which more would have been lost than the objective allows.
public struct Miss: Sendable, Hashable, Codable {
    public enum Cause: String, Sendable, Hashable, CaseIterable, Codable {
        /// Storing took too long, or failed.
        case store
        /// Nobody archived the source.
        case agent
        /// The source could not be reached.
        case network
        /// A hole in the log: nothing can be restored behind it before a new base.
        case gap
        /// More was written than could be archived in time.
        case load
    }

    @TextTime public var start: Moment
    @TextTime public var end: Moment
    /// The greatest age of a commit that the archive lacked, in seconds.
    public var worst: Double
    public var cause: Cause

    public init(start: Moment, end: Moment, worst: Double, cause: Cause) {
        self.start = start
        self.end = end
        self.worst = worst
        self.cause = cause
    }
}

extension [Miss] {
    /// Adds a miss that is not earlier than the last one; one with it, where it goes on from it and has the same cause.
    public mutating func append(joining miss: Miss) {
        if let last, last.end >= miss.start, last.cause == miss.cause {
            self[count - 1].end = Swift.max(last.end, miss.end)
            self[count - 1].worst = Swift.max(last.worst, miss.worst)
        } else {
            append(miss)
        }
    }
}

extension [LagRow] {
    /// Rows that follow each other without a break, put together within each `seconds` since 1970.
    public func joined(within seconds: Int64) -> [LagRow] {
        func part(_ row: LagRow) -> Int64 { row.start.rawValue / 1_000_000_000 / seconds }
        var result: [LagRow] = []
        for row in self {
            if let last = result.last, last.end == row.start, part(last) == part(row) { result[result.count - 1].append(row) } else { result.append(row) }
        }
        return result
    }
}
