import ArchiveCore

/// Measures how far the archive is behind one source, from what is given out and what is archived. Pure: every time is told.
///
/// Of each moment it knows, once the log behind it is archived, how old the oldest commit was that the archive lacked then. While pieces
/// of log wait between `given` and `archived`, that is not settled yet, and nothing is said about it.
public struct LagMeter: Sendable {
    /// A piece on its way.
    private struct Given {
        var sequence: UInt64
        var oldest: Moment?
        var bytes: UInt64
        var at: Moment
    }

    /// Seconds. May be changed at any time; it counts from then on.
    public var objective: Double
    private var given: [Given] = []
    /// Everything up to here is accounted for.
    private var settled: Moment?
    /// When the first attempt to archive began.
    private var begun = Moment(rawValue: .min)
    /// When storing and reaching the source failed last.
    private var failures: [Miss.Cause: Moment] = [:]
    /// A hole in the log that no base lies behind: nothing after this time can be restored.
    private var gap: Moment?
    private var current: LagRow?
    /// Commits that were archived while there was no row.
    private var rowless = LagHistogram()
    private var closed: [LagRow] = []

    public init(objective: Double) { self.objective = objective }

    // MARK: What happens

    /// An attempt to archive begins.
    ///
    /// - Parameter proven: everything committed up to this time is archived, or was accounted for by an earlier meter; `nil`: nothing is.
    public mutating func begin(at now: Moment, proven: Moment?) {
        given = []
        if settled == nil { begun = now }
        let start = proven ?? now
        guard let before = settled, before >= start else {
            // What lies between was archived by somebody who told nobody when.
            close()
            settled = start
            return
        }
    }

    /// - Parameters:
    ///   - oldest: commit time of the oldest commit in the piece that the archive does not have yet; `nil`: it has none.
    ///   - bytes: of log.
    public mutating func gave(_ sequence: UInt64, oldest: Moment?, bytes: UInt64, at now: Moment) {
        given.append(Given(sequence: sequence, oldest: oldest, bytes: bytes, at: now))
    }

    /// A piece, and all before it, is archived.
    ///
    /// - Parameter commits: commit times of what was not archived before.
    public mutating func archived(_ sequence: UInt64, commits: [Moment], at now: Moment) {
        var waited = 0.0
        while let first = given.first, first.sequence <= sequence {
            waited = now - first.at
            given.removeFirst()
        }
        guard let oldest = commits.min() else { return }
        settle(to: now, oldest: min(oldest, now), waited: waited)
        for commit in commits { rowless.add(now - commit) }
        giveToRow()
    }

    /// Everything committed up to `time` is archived.
    public mutating func proven(upTo time: Moment) {
        if gap != nil { settle(to: time, oldest: time, waited: 0) } else { account(to: time, oldest: nil, cause: .load) }
        if current.map({ $0.archivedUpTo.map { $0 < time } ?? true }) ?? false { current?.archivedUpTo = time }
    }

    /// Archiving failed.
    public mutating func failed(_ cause: Miss.Cause, at now: Moment) { failures[cause] = now }

    /// The log has a hole: what was committed after `time` is lost up to the next base.
    public mutating func lost(since time: Moment) { gap = min(gap ?? time, time) }

    /// A base behind the hole can be restored.
    public mutating func mended(at now: Moment) {
        settle(to: now, oldest: now, waited: 0)
        gap = nil
    }

    /// What the stages lack at this moment.
    public mutating func sample(_ backlogs: [LagRow.Stage: LagRow.Backlog], at now: Moment) {
        // While nothing is settled, the row at hand is one of long ago.
        guard let end = current?.end, now - end <= 60 else { return }
        current?.last = backlogs
        for (stage, backlog) in backlogs {
            let worst = current?.worst[stage] ?? .init(bytes: nil, seconds: 0)
            current?.worst[stage] = .init(bytes: [worst.bytes, backlog.bytes].compactMap { $0 }.max(), seconds: max(worst.seconds, backlog.seconds))
        }
    }

    // MARK: What is known

    public var isMended: Bool { gap == nil }

    /// Everything up to this moment is accounted for; `nil` before the first attempt.
    public var accountedUpTo: Moment? { settled }

    /// What was given out and is not archived: its bytes, and the age of its oldest commit in seconds.
    public func waiting(at now: Moment) -> LagRow.Backlog {
        let oldest = (given.compactMap(\.oldest) + [gap].compactMap { $0 }).min()
        return .init(bytes: given.reduce(0) { $0 + $1.bytes }, seconds: oldest.map { max(0, now - $0) } ?? 0)
    }

    /// Rows that are settled; each is given once.
    ///
    /// - Parameter all: also the one that is not full.
    public mutating func takeRows(all: Bool = false) -> [LagRow] {
        if all { close() }
        defer { closed = [] }
        return closed
    }

    // MARK: Arithmetic

    private mutating func settle(to now: Moment, oldest: Moment, waited: Double) {
        let oldest = min(oldest, gap ?? oldest)
        guard let settled else { return account(to: now, oldest: oldest, cause: .load) }
        let start = max(settled, oldest)
        if gap != nil { return account(to: now, oldest: oldest, cause: .gap) }
        // What happened before the first attempt was nobody's doing.
        let failed = failures.filter { $0.value >= start }.max { $0.value < $1.value }?.key
        if start < begun, begun < now {
            account(to: begun, oldest: oldest, cause: .agent)
            return account(to: now, oldest: oldest, cause: failed ?? .agent)
        }
        account(to: now, oldest: oldest, cause: failed ?? (waited > (now - oldest) / 2 ? .store : .load))
    }

    /// Commits wait for a row where the last one is full, and time does not go on: a source's clock may be ahead of ours.
    private mutating func giveToRow() {
        guard current != nil else { return }
        current?.commits += rowless
        rowless = LagHistogram()
    }

    /// Accounts for the time up to `end`: before `oldest` the archive lacked nothing.
    private mutating func account(to end: Moment, oldest: Moment?, cause: Miss.Cause) {
        guard let start = settled else {
            settled = end
            return
        }
        guard start < end else { return }
        let step = Self.step(over: end - start)
        var at = start
        while at < end {
            let border = Moment(rawValue: (at.rawValue / step + (at.rawValue < 0 ? 0 : 1)) * step)
            let next = min(end, border)
            var row = current ?? LagRow(start: at, end: at, objective: objective)
            row.add(to: next, oldest: oldest, objective: objective, cause: cause)
            current = row
            if next == end { giveToRow() }
            at = next
            if next == border { close() }
        }
        settled = end
    }

    /// Nanoseconds of a row: a minute, but of a long time that comes at once less often.
    private static func step(over seconds: Double) -> Int64 { (seconds < 172_800 ? 60 : seconds < 5_184_000 ? 600 : 86_400) * 1_000_000_000 }

    private mutating func close() {
        if let current, current.end > current.start { closed.append(current) }
        current = nil
    }
}

extension LagRow {
    /// Goes on to `next`; the oldest commit that the archive lacked meanwhile was of `oldest`.
    fileprivate mutating func add(to next: Moment, oldest: Moment?, objective: Double, cause: Miss.Cause) {
        defer { end = next }
        self.objective = min(self.objective, objective)
        guard let oldest, oldest < next else { return exposure.add(0, weight: Self.milliseconds(from: end, to: next)) }
        let rise = max(end, oldest)
        exposure.add(0, weight: Self.milliseconds(from: end, to: rise))
        // In each bucket for as long as it takes to leave it.
        var at = rise
        while at < next {
            let age = at - oldest
            var bucket = LagHistogram.bucket(of: age)
            if LagHistogram.bound(of: bucket) <= age { bucket += 1 }
            let leaves = bucket > LagHistogram.last ? next : min(next, max(oldest.adding(seconds: min(LagHistogram.bound(of: bucket), 9e9)), at.adding(nanoseconds: 1_000_000)))
            exposure.add(leaves - oldest, weight: Self.milliseconds(from: at, to: leaves))
            at = leaves
        }
        let missed = max(rise, oldest.adding(seconds: objective))
        if missed < next { misses.append(joining: Miss(start: missed, end: next, worst: next - oldest, cause: cause)) }
        let worst = worst[.archived] ?? .init(bytes: nil, seconds: 0)
        self.worst[.archived] = .init(bytes: worst.bytes, seconds: max(worst.seconds, next - oldest))
    }

    /// Of whole milliseconds since 1970, so that pieces of a time sum up to it.
    private static func milliseconds(from a: Moment, to b: Moment) -> UInt64 {
        a < b ? UInt64(b.rawValue / 1_000_000 - a.rawValue / 1_000_000) : 0
    }
}
