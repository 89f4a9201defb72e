import ArchiveCore
import Catalog
import Lag
import Runtime
import Source
import Synchronization

/// Writes down how far the archive is behind, a row a minute for each source. Holds nothing up: what cannot be stored now waits.
public final class LagRecorder: Sendable {
    public struct Subject: Sendable {
        public var meter: SourceMeter
        public var progress: @Sendable () async -> LogProgress

        public init(meter: SourceMeter, progress: @escaping @Sendable () async -> LogProgress) {
            self.meter = meter
            self.progress = progress
        }
    }

    private let catalog: Catalog
    private let subjects: [Subject]
    private let objective: @Sendable () -> Double
    private let output: Log
    /// By source, up to when everything was verified.
    private let verified = Mutex<[String: Moment]>([:])

    /// Seconds between two looks at a source, between two looks for rows that are full, for bases behind a hole, and for what is done seldom.
    static let pauses = (look: 1.0, store: 5.0, mend: 30.0, seldom: 300.0)

    /// - Parameter objective: in seconds; asked each time.
    public init(catalog: Catalog, subjects: [Subject], objective: @escaping @Sendable () -> Double, output: Log) {
        self.catalog = catalog
        self.subjects = subjects
        self.objective = objective
        self.output = output
    }

    /// Runs until cancelled; then what is measured is written, if the store takes it.
    public func run() async {
        await withDiscardingTaskGroup { group in
            for subject in subjects {
                group.addTask { await self.look(subject) }
                group.addTask { await self.record(subject.meter) }
            }
        }
    }

    private func look(_ subject: Subject) async {
        let source = subject.meter.source
        repeat {
            subject.meter.sample(await subject.progress(), verified: verified.withLock { $0[source] }, objective: objective(), at: now())
        } while await pause(Self.pauses.look)
    }

    private func record(_ meter: SourceMeter) async {
        var pending = PendingRows()
        var (mended, tidied) = (ContinuousClock.now, ContinuousClock.now - .seconds(Self.pauses.seldom))
        while await pause(Self.pauses.store) {
            pending = await write(meter.takeRows(), behind: pending, of: meter.source)
            if ContinuousClock.now - mended >= .seconds(Self.pauses.mend) {
                mended = .now
                await attempt("whether a base lies behind the hole in the log of '\(meter.source)' could not be found out") { try await self.mend(meter) }
            }
            if ContinuousClock.now - tidied >= .seconds(Self.pauses.seldom), pending.rows.isEmpty {
                tidied = .now
                await attempt("the lag history of '\(meter.source)' could not be put together") { try await self.tidy(meter.source) }
            }
        }
        // The agent ends: what was measured since the last full minute. Not cancelled with us.
        let rest = pending
        await Task { _ = await write(meter.takeRows(all: true), behind: rest, of: meter.source) }.value
    }

    /// - Returns: what is still not stored.
    private func write(_ rows: [LagRow], behind pending: PendingRows, of source: String) async -> PendingRows {
        var pending = pending
        let lost = pending.add(rows)
        if lost > 0 { output.warning("\(lost) records of the lag of '\(source)' were given up, because none could be stored for long") }
        if let error = await pending.store({ try await catalog.record($0, of: source) }), !(error is CancellationError) {
            output.warning("what was measured of '\(source)' could not be stored, and is kept for later: \(error)")
        }
        return pending
    }

    private func mend(_ meter: SourceMeter) async throws {
        guard let (incarnation, gaps) = meter.openGaps else { return }
        if try await catalog.openGaps(of: incarnation, among: gaps).isEmpty { meter.mended(gaps, at: now()) }
    }

    private func tidy(_ source: String) async throws {
        try await catalog.compactLag(of: source, at: now())
        guard let incarnation = try await catalog.incarnations(of: source).last else { return }
        let time = try await catalog.verifiedUpTo(of: incarnation)
        verified.withLock { $0[source] = time }
    }

    private func attempt(_ failure: String, _ work: () async throws -> Void) async {
        do { try await work() } catch is CancellationError {} catch { output.warning("\(failure), which is tried again: \(error)") }
    }

    /// - Returns: `false` once the agent ends.
    private func pause(_ seconds: Double) async -> Bool {
        do { try await Task.sleep(for: .seconds(seconds)) } catch { return false }
        return true
    }
}

extension Catalog {
    /// Up to when nothing has to be measured any more: the source's newest watermark, or the end of what is recorded of its lag.
    func lagKnown(of source: String) async throws -> Moment? {
        guard let incarnation = try await incarnations(of: source).last else { return nil }
        let watermark = try await watermark(of: incarnation)
        return [watermark, try await lagRecordedUpTo(of: source)].compactMap { $0 }.max()
    }

    /// Holes that no base lies behind which can be restored.
    ///
    /// - Parameter gaps: `nil`: those that the archive knows.
    func openGaps(of incarnation: IncarnationRecord, among gaps: [GapRecord]? = nil) async throws -> [GapRecord] {
        let known: [GapRecord]
        if let gaps { known = gaps } else { known = try await self.gaps(of: incarnation) }
        guard !known.isEmpty else { return [] }
        let watermark = try await watermark(of: incarnation)
        let bases = try await bases(of: incarnation).filter { base in watermark.map { base.completed <= $0 } ?? false }
        return known.filter { gap in !bases.contains { gap.noticed < $0.started } }
    }
}
