import ArchiveCore
import Catalog
import Lag
import Runtime
import Source

/// Writes down how far the archive is behind, a row a minute for each source. Holds nothing up: what cannot be stored now waits, and is put
/// together where it becomes much.
public actor LagRecorder {
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
    private var waiting: [String: [LagRow]] = [:]
    private var verified: [String: Moment] = [:]
    private var isFailing = false

    /// Rows of a source that wait for the store at most; then neighbours are put together.
    static let limit = 60
    /// Seconds between two looks, between two attempts to store, and between two looks for what is done seldom.
    static let pauses = (look: 1.0, store: 10.0, seldom: 300.0)

    /// - Parameter objective: in seconds; asked each time.
    public init(catalog: Catalog, subjects: [Subject], objective: @escaping @Sendable () -> Double, output: Log) {
        self.catalog = catalog
        self.subjects = subjects
        self.objective = objective
        self.output = output
    }

    /// Runs until cancelled; then what is measured is written, if the store takes it.
    public func run() async {
        var (stored, tidied) = (ContinuousClock.now, ContinuousClock.now - .seconds(Self.pauses.seldom))
        while !Task.isCancelled {
            for subject in subjects { subject.meter.sample(await subject.progress(), verified: verified[subject.meter.source], objective: objective(), at: now()) }
            if ContinuousClock.now - stored >= .seconds(Self.pauses.store) {
                stored = .now
                await write()
            }
            if ContinuousClock.now - tidied >= .seconds(Self.pauses.seldom) {
                tidied = .now
                await tidy()
            }
            do { try await Task.sleep(for: .seconds(Self.pauses.look)) } catch { break }
        }
        // Not cancelled with us.
        await Task { await write(all: true) }.value
    }

    /// Stores what is settled.
    func write(all: Bool = false) async {
        for subject in subjects {
            let source = subject.meter.source
            var rows = waiting[source, default: []] + subject.meter.takeRows(all: all)
            while rows.count > Self.limit { rows = Self.halved(rows) }
            waiting[source] = rows
            do {
                if let noticed = subject.meter.openGap, try await hasBase(source, after: noticed) { subject.meter.mended(at: now()) }
                while let row = waiting[source]?.first {
                    try await catalog.record(row, of: source)
                    waiting[source]?.removeFirst()
                }
                isFailing = false
            } catch {
                if !isFailing { output.warning("what was measured of '\(source)' could not be stored, and is kept for later: \(error)") }
                isFailing = true
            }
        }
    }

    private func hasBase(_ source: String, after time: Moment) async throws -> Bool {
        for incarnation in try await catalog.incarnations(of: source) {
            if try await catalog.bases(of: incarnation).contains(where: { $0.started >= time }) { return true }
        }
        return false
    }

    private func tidy() async {
        for subject in subjects {
            let source = subject.meter.source
            do {
                try await catalog.compactLag(of: source, at: now())
                if let incarnation = try await catalog.incarnations(of: source).last { verified[source] = try await catalog.verifiedUpTo(of: incarnation) }
            } catch {
                output.warning("the lag history of '\(subject.meter.source)' could not be put together, which is tried again: \(error)")
            }
        }
    }

    /// Neighbours put together, two and two.
    static func halved(_ rows: [LagRow]) -> [LagRow] {
        var result: [LagRow] = []
        var isOpen = false
        for row in rows {
            if isOpen, let last = result.last, last.end == row.start {
                result[result.count - 1].append(row)
                isOpen = false
            } else {
                result.append(row)
                isOpen = true
            }
        }
        // Times that do not touch stay apart: of these the oldest go.
        return result.count < rows.count ? result : Array(rows.dropFirst(rows.count / 2))
    }
}
