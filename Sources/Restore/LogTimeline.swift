import ArchiveCore
import Catalog
import Planner
import Source

extension PlanLoader {
    /// Opens the merged timeline of all incarnations and branches of the sources in `query`. Nothing is read beyond names before the
    /// first call of `next`.
    ///
    /// - Throws: `.targetUnreachable` for a source that the archive does not have.
    public func timeline(_ query: TimelineQuery) async throws -> LogTimeline {
        var readers: [TimelineReader] = []
        for source in query.sources {
            let incarnations = try await incarnations(of: source)
            for incarnation in incarnations {
                let kind = try kind(of: incarnation)
                // A storage has no transactions, a database no repositories.
                if query.wantsRepositories, !kind.streamsMayBeginEmpty { continue }
                if query.transaction != nil, kind.streamsMayBeginEmpty { continue }
                let branches = try await catalog.archivedBranches(of: incarnation)
                let records = try await catalog.branches(of: incarnation)
                let newest = (branches + records.map(\.branch)).max() ?? 0
                let fence = kind.carriesFences ? nil : try await lastFence(of: source)
                for branch in branches {
                    let parents = records.first { $0.branch == branch }?.ancestors ?? []
                    // The first segment of a branch begins with a copy of its parent's.
                    let start = parents.contains { branches.contains($0.branch) } ? parents.map(\.end).max() ?? 0 : 0
                    let left = branch == newest ? .max : records.first { $0.branch == newest }?.ancestors.first { $0.branch == branch }?.end ?? 0
                    readers.append(
                        TimelineReader(
                            catalog: catalog, incarnation: incarnation, kind: kind, anchorKind: kinds.first { $0.carriesFences }, branch: branch,
                            range: start..<UInt64.max, leftAt: incarnation.id == incarnations.last?.id ? left : 0,
                            isNewestIncarnation: incarnation.id == incarnations.last?.id, lastFence: fence, query: query))
                }
            }
        }
        return LogTimeline(readers: readers)
    }

    /// The newest time of which the archive of `sources` knows anything; `nil` for an empty archive.
    public func endOfArchive(of sources: [String]) async throws -> Moment? {
        var newest: Moment?
        func see(_ time: Moment?) { if let time { newest = max(time, newest ?? time) } }
        for source in sources {
            guard let incarnation = try await incarnations(of: source).last else { continue }
            if let watermark = try await catalog.watermark(of: incarnation) {
                see(watermark)
                continue
            }
            for branch in try await catalog.archivedBranches(of: incarnation) {
                let last = try await catalog.lastChapter(of: incarnation, branch: branch)
                see(last?.times?.upperBound)
                for piece in try await catalog.summaries(of: incarnation, branch: branch, after: last?.last) { see(piece.eventTimes?.upperBound) }
            }
        }
        return newest
    }
}

/// The events of several logs in one order: by time from one log to the other, in the order of the log within each.
///
/// What it holds in memory is one chapter and a few indexes for each log, whatever the length of the period.
public struct LogTimeline: Sendable {
    private var readers: [TimelineReader]
    private var heads: [TimelineEvent?] = []

    init(readers: [TimelineReader]) { self.readers = readers }

    /// The next event; `nil` at the end of the period.
    ///
    /// - Throws: what reading the archive throws.
    public mutating func next() async throws -> TimelineEvent? {
        if heads.isEmpty { for i in readers.indices { heads.append(try await readers[i].next()) } }
        var first: (index: Int, event: TimelineEvent)?
        for (i, head) in heads.enumerated() {
            if let head, first.map({ head.time < $0.event.time }) ?? true { first = (i, head) }
        }
        guard let (i, event) = first else { return nil }
        heads[i] = try await readers[i].next()
        return event
    }
}

/// Reads the wanted events of one branch of one incarnation.
struct TimelineReader: Sendable {
    let catalog: Catalog
    let incarnation: IncarnationRecord
    let kind: any ComponentKind
    let anchorKind: (any ComponentKind)?
    let branch: UInt32
    /// Positions that are the branch's own, and from which one on the present history no longer has it.
    let range: Range<UInt64>
    let leftAt: UInt64
    let isNewestIncarnation: Bool
    /// The newest fence of the source, which tells about how far the clocks differ.
    let lastFence: FenceRecord?
    let query: TimelineQuery

    private var page: ArraySlice<ChapterName> = []
    private var last: ChapterName?
    private var isPaged = false
    private var isAtEnd = false
    private var block: ArraySlice<Candidate> = []
    /// The last fences of what was read before the block.
    private var recent: [FenceRecord] = []
    private var waiting: Candidate?
    private var buffer: [Ordered] = []
    private var next = 0
    /// For each stream in the buffer the latest time, so that its events stay in their order; how many events of each piece wait.
    private var latest: [String: Moment] = [:]
    private var open: [Int: Int] = [:]
    private var sequence = 0

    /// Pieces whose events are put in order together.
    static let maximumOpen = 8
    /// Fences on either side of an entry that its target respects: as many markers may be lost to crashes before a plan has to compare
    /// the entry's time by a reading of the clocks that is not among them.
    static let fencesAround = 8

    /// A piece, with the fences before and behind its entries.
    private struct Candidate: Sendable {
        var piece: PieceSummary
        var before: FenceRecord?
        var after: FenceRecord?
        /// The lowest difference of the clocks that the fences around it allow, in nanoseconds.
        var lowest: Int64?

        /// What the fences allow for the difference of the clocks.
        var offset: ClosedRange<Int64>? {
            guard let a = before?.offset ?? after?.offset else { return nil }
            guard let b = after?.offset else { return a }
            return min(a.lowerBound, b.lowerBound)...max(a.upperBound, b.upperBound)
        }

        /// The middle of what the fence allows that was made nearest to a time.
        func middle(at time: Moment) -> Int64 {
            func distance(_ fence: FenceRecord) -> Double { abs(fence.asked - time) }
            let nearest: FenceRecord? = if let before, let after { distance(before) < distance(after) ? before : after } else { before ?? after }
            return nearest.map { $0.offset.lowerBound / 2 + $0.offset.upperBound / 2 } ?? 0
        }

        /// Bounds of the times in it by the anchor's clock.
        var times: ClosedRange<Moment>? {
            guard let own = piece.eventTimes else { return nil }
            let offset = offset ?? 0...0
            return own.lowerBound.adding(nanoseconds: offset.lowerBound)...own.upperBound.adding(nanoseconds: offset.upperBound)
        }
    }

    private struct Ordered: Sendable {
        var event: TimelineEvent
        var key: Moment
        var sequence: Int
        var piece: Int
    }

    init(
        catalog: Catalog, incarnation: IncarnationRecord, kind: any ComponentKind, anchorKind: (any ComponentKind)?, branch: UInt32,
        range: Range<UInt64>, leftAt: UInt64, isNewestIncarnation: Bool, lastFence: FenceRecord?, query: TimelineQuery
    ) {
        self.catalog = catalog
        self.incarnation = incarnation
        self.kind = kind
        self.anchorKind = anchorKind
        self.branch = branch
        self.range = range
        self.leftAt = leftAt
        self.isNewestIncarnation = isNewestIncarnation
        self.lastFence = lastFence
        self.query = query
    }

    mutating func next() async throws -> TimelineEvent? {
        while true {
            if waiting == nil { waiting = try await nextCandidate() }
            if next < buffer.count, waiting == nil || !mayComeFirst(waiting) {
                let first = buffer[next]
                next += 1
                open[first.piece, default: 1] -= 1
                if open[first.piece] == 0 { open[first.piece] = nil }
                return first.event
            }
            guard let candidate = waiting else { return nil }
            waiting = nil
            try await load(candidate)
        }
    }

    /// Whether a piece may hold an event of another stream that is earlier than what waits.
    private func mayComeFirst(_ candidate: Candidate?) -> Bool {
        guard kind.streamsMayBeginEmpty, open.count < Self.maximumOpen, let low = candidate?.times?.lowerBound else { return false }
        return low < buffer[next].key
    }

    private mutating func load(_ candidate: Candidate) async throws {
        if next == buffer.count { latest = [:] }
        buffer.removeFirst(next)
        next = 0
        sequence += 1
        let piece = sequence
        func add(_ event: TimelineEvent, _ stream: String) {
            // One stream keeps its order also when its clock went back.
            let key = max(event.time, latest[stream] ?? event.time)
            latest[stream] = key
            sequence += 1
            buffer.append(Ordered(event: event, key: key, sequence: sequence, piece: piece))
            open[piece, default: 0] += 1
        }
        if query.mayWant(candidate.piece) {
            for index in try await indexes(candidate.piece.name) {
                for event in index.events where range.contains(event.start) && query.wants(event) && isIn(candidate.piece.name, event) {
                    let span = index.spans[event.span]
                    let shown = timelineEvent(event, span.stream, candidate)
                    if query.includes(shown.time) { add(shown, span.stream) }
                }
            }
        }
        if query.wantsFences {
            for fence in candidate.piece.fences where query.includes(fence.anchorTime) { add(timelineEvent(fence, candidate.piece.name.branch), "") }
        }
        if kind.streamsMayBeginEmpty { buffer.sort { ($0.key, $0.sequence) < ($1.key, $1.sequence) } }
    }

    /// The index of a piece; where a tail was replaced by its closed piece meanwhile, that one's.
    private func indexes(_ name: PieceName) async throws -> [PieceIndex] {
        do { return [try await catalog.index(of: name, of: incarnation, names: .required)] } catch let error as ArchiveError where error.code == .objectMissing && name.part != nil {
            let indexes = try await catalog.indexes(ofPiecesNamed: name, of: incarnation, names: .required)
            guard !indexes.isEmpty else { throw error }
            return indexes
        } catch let error as ArchiveError where error.code == .objectMissing {
            // A chapter speaks of all pieces that there were; the first of them may be expired.
            guard try await catalog.isExpired(name, of: incarnation) else { throw error }
            return []
        }
    }

    /// Whether an event of a closed piece was in the tail that was asked for.
    private func isIn(_ name: PieceName, _ event: LogEvent) -> Bool {
        guard let part = name.part else { return true }
        return event.end > part.lowerBound && event.end <= part.upperBound
    }

    // MARK: Pieces

    /// The next piece that may hold something wanted.
    private mutating func nextCandidate() async throws -> Candidate? {
        while true {
            while let candidate = block.popFirst() {
                try Task.checkCancellation()
                guard let times = candidate.times, query.overlaps(times.lowerBound, times.upperBound) else { continue }
                if query.mayWant(candidate.piece) || query.wantsFences && !candidate.piece.fences.isEmpty { return candidate }
            }
            if isAtEnd { return nil }
            if let name = page.popFirst() {
                last = name
                guard mayOverlap(name) else { continue }
                take(try await catalog.chapter(name, of: incarnation).pieces)
            } else if !isPaged {
                let names = try await catalog.chapters(of: incarnation, branch: branch, behind: last)
                isPaged = names.count < 1024
                page = names[...]
            } else {
                isAtEnd = true
                take(try await catalog.summaries(of: incarnation, branch: branch, after: last?.last))
            }
        }
    }

    private mutating func take(_ pieces: [PieceSummary]) {
        var candidates: [Candidate] = []
        candidates.reserveCapacity(pieces.count)
        let fences = recent + pieces.flatMap(\.fences)
        // How many of them lie before the piece.
        var passed = recent.count
        for piece in pieces {
            let around = fences[max(0, passed - Self.fencesAround)..<min(fences.count, passed + Self.fencesAround)]
            candidates.append(
                Candidate(
                    piece: piece, before: passed > 0 ? fences[passed - 1] : nil, after: passed < fences.count ? fences[passed] : nil,
                    lowest: around.lazy.map(\.offset.lowerBound).min()))
            passed += piece.fences.count
        }
        recent = fences.suffix(Self.fencesAround)
        block = candidates[...]
    }

    /// Whether a chapter may hold something of the period: its name has the first and the last time in it, in whatever order they came.
    private func mayOverlap(_ name: ChapterName) -> Bool {
        guard let times = name.times else { return false }
        if kind.carriesFences { return query.overlaps(times.lowerBound, times.upperBound) }
        // What is not known before it is read is how far this source's clock was off then.
        let now = lastFence?.offset ?? 0...0
        return query.overlaps(
            times.lowerBound.adding(nanoseconds: min(0, now.lowerBound) - PlanLoader.margin),
            times.upperBound.adding(nanoseconds: max(0, now.upperBound) + PlanLoader.margin))
    }

    // MARK: Events

    private func timelineEvent(_ event: LogEvent, _ stream: String, _ candidate: Candidate) -> TimelineEvent {
        let isEntry = event.frame != nil
        let offset = kind.carriesFences ? nil : candidate.offset
        let time = offset == nil ? event.time : event.time.adding(nanoseconds: candidate.middle(at: event.time))
        let eventKind: TimelineEvent.Kind =
            switch event.kind {
            case .abort: .abort
            case .prepare: .prepare
            case .restorePoint: .restorePoint
            default:
                if !isEntry { .commit } else if event.flags.contains(.deleted) { .delete } else if event.flags.contains(.created) { .create }
                else if event.flags.contains(.housekeeping) { .housekeeping } else if event.details.isEmpty { .entry } else { .push }
            }
        var details = event.details
        var count = details.count
        if event.flags.contains(.drops), let number = details.first.flatMap(Int.init) {
            details.removeFirst()
            count = number
        } else if let reference = query.reference {
            let (wanted, others) = details.reduce(into: ([String](), [String]())) { parts, detail in
                if reference.matches(reference: detail.prefix { $0 != " " }) { parts.0.append(detail) } else { parts.1.append(detail) }
            }
            details = wanted + others
        }
        let isLeft = !isNewestIncarnation || event.start >= leftAt
        return TimelineEvent(
            kind: eventKind, source: incarnation.source, component: incarnation.kind, incarnation: incarnation.id, branch: branch, stream: stream,
            position: kind.describe(offset: event.start), time: time, ownTime: event.time, offset: offset, number: event.number,
            subject: event.subject, details: Array(details.prefix(TimelineEvent.maximumDetails)), detailCount: count, flags: event.flags,
            isLeft: isLeft, target: target(event, candidate, isLeft))
    }

    /// What restores to just before an event.
    private func target(_ event: LogEvent, _ candidate: Candidate, _ isLeft: Bool) -> PlanRequest {
        // Positions are searched in the newest incarnation first, and an entry has none that a database could be cut at. The lowest
        // difference of the clocks: an entry that its fences leave open is then out as well.
        guard kind.carriesFences, isNewestIncarnation else {
            let time = event.time.adding(nanoseconds: kind.carriesFences ? 0 : candidate.lowest ?? 0)
            return PlanRequest(target: .time(time.adding(nanoseconds: -1000)))
        }
        let target: RecoveryTarget = event.kind == .commit && event.number > 0 ? .transaction(event.number) : .position(event.start)
        return PlanRequest(target: target, exclusive: true, branch: isLeft ? branch : nil)
    }

    private func timelineEvent(_ fence: FenceRecord, _ branch: UInt32) -> TimelineEvent {
        TimelineEvent(
            kind: .fence, source: incarnation.source, component: incarnation.kind, incarnation: incarnation.id, branch: branch, stream: "",
            position: anchorKind?.describe(offset: fence.position) ?? "\(fence.position)", time: fence.anchorTime, ownTime: fence.asked,
            offset: fence.offset, number: 0, subject: fence.id, details: [fence.anchor], detailCount: 1, flags: [], isLeft: !isNewestIncarnation,
            target: PlanRequest(target: .fence(fence.id)))
    }
}
