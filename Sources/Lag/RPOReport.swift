import ArchiveCore

/// How much could have been lost, for people: what `tidemark rpo` prints.
public struct RPOReport: Sendable, Codable {
    /// One source, or all of them together.
    public struct Entry: Sendable, Codable {
        /// The source's name; `nil`: all sources together.
        public var source: String?
        public var kind: String?
        /// What is behind at the period's end, by stage.
        public var current: [LagRow.Stage: LagRow.Backlog]
        /// Everything committed up to this time is archived.
        @OptionalTextTime public var archivedUpTo: Moment?
        /// Up to when an agent recorded what it measured; what came later is not known.
        @OptionalTextTime public var recordedUpTo: Moment?
        /// Commits that were archived within the period.
        public var commits: UInt64
        /// Seconds from commit to archive; `nil` where there was no commit.
        public var p50: Double?
        public var p95: Double?
        public var p99: Double?
        public var max: Double?
        /// The share of measured time in which no more than the objective would have been lost, 0 to 1; `nil` where nothing was measured.
        public var withinObjective: Double?
        /// Whether rows were made for another objective: `withinObjective` comes from their histograms, and is, for all sources together, the
        /// least that it can have been.
        public var isEstimate: Bool
        /// Seconds of the period that were measured; of all together, those of which it is known whether the objective was met.
        public var measured: Double
        /// The ten worst, the worst first.
        public var worst: [NamedMiss]
        /// The period in equal pieces, oldest first.
        public var chart: [Point]
        /// Whether `current` is the most that can be lacking, as nothing newer than the watermark is known.
        public var isBound = false
        /// Whether, besides, the watermark is old: no agent seems to be at work.
        public var isSilent = false
    }

    public struct NamedMiss: Sendable, Codable {
        public var source: String
        public var miss: Miss
    }

    /// A piece of the period.
    public struct Point: Sendable, Codable {
        @TextTime public var start: Moment
        @TextTime public var end: Moment
        /// Seconds from commit to archive; `nil` where there was no commit, or nothing was measured.
        public var p50: Double?
        public var p99: Double?
        /// The greatest age of a commit that the archive lacked, in seconds; `nil` where nothing was measured.
        public var max: Double?
        /// Seconds of it that were measured.
        public var measured: Double
    }

    public var archive: String
    @TextTime public var created: Moment
    @TextTime public var from: Moment
    @TextTime public var to: Moment
    /// In seconds.
    public var objective: Double
    public var whole: Entry
    public var sources: [Entry]
}
