import ArchiveCore
import Catalog
import Runtime
import Source

/// Takes one base of one source, and waits until the log that it needs is archived too.
public struct BackupRun: Sendable {
    public struct Result: Sendable {
        public var base: BaseRecord
        public var seconds: Double
        /// Whether the log from the base's start to its end is archived: without it the base cannot be restored.
        public var isUsable: Bool
    }

    let source: String
    let kind: String
    let snapshots: any SnapshotSource
    let catalog: Catalog
    let progress: @Sendable (String, UInt64, UInt64?) -> Void

    /// Seconds without any progress of the archived log after which a backup no longer waits for it.
    static let patience = 60.0

    public init(
        source: String, kind: String, snapshots: any SnapshotSource, catalog: Catalog,
        progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void
    ) {
        self.source = source
        self.kind = kind
        self.snapshots = snapshots
        self.catalog = catalog
        self.progress = progress
    }

    public func run() async throws -> Result {
        let clock = ContinuousClock()
        let begun = clock.now
        let started = now()
        let identity = try await snapshots.identify()
        let incarnation = try await catalog.adopt(identity, source: source, kind: kind, at: started, because: nil)
        let (before, _) = try await catalog.resume(incarnation, cleaning: false)
        let id = Self.identifier(started)
        for abandoned in try await catalog.unfinishedBases(of: incarnation) {
            try await catalog.removeUnfinishedBase(abandoned, of: incarnation)
        }
        let writer = BaseWriter(catalog: catalog, incarnation: incarnation, id: id) { done, total in
            progress("base of \(source)", done, total)
        }
        do {
            let (outcome, parts) = try await capture(writer, archived: before.positions.mapValues(\.end))
            let (entries, content) = writer.result
            let first = try await firstPiece(outcome, before: before, in: incarnation)
            let base = try await catalog.record(
                BaseRecord(
                    id: id, source: source, incarnation: incarnation.id, kind: kind, started: started, completed: outcome.completed,
                    firstPiece: first, branch: outcome.branch, parts: parts, indexSHA256: "",
                    files: entries.count { $0.kind == .file }, bytes: content, warnings: bounded(outcome.losses.map(\.reason) + outcome.warnings), facts: outcome.facts),
                index: TreeIndex(entries: entries, spans: outcome.spans, losses: outcome.losses), of: incarnation)
            let hasLog = try await waitForLog(outcome.spans, of: incarnation)
            let usable = hasLog ? try await isResolved(base, outcome.spans, of: incarnation) : false
            let taken = (clock.now - begun).components
            return Result(base: base, seconds: Double(taken.seconds) + Double(taken.attoseconds) / 1e18, isUsable: usable)
        } catch {
            // Half a base is of no use, and on a full disk it would keep it full. Not cancelled with us: it must happen.
            let catalog = catalog
            let cleaning = Task { try await catalog.removeUnfinishedBase(id, of: incarnation) }
            if case .failure(let second) = await cleaning.result {
                throw ArchiveError(
                    .inputOutput, "The backup of '\(source)' failed, and its unfinished objects could not be removed: \(second).",
                    remedy: "The next backup removes them.", cause: error)
            }
            throw error
        }
    }

    private func capture(_ writer: BaseWriter, archived: [String: UInt64]) async throws -> (SnapshotOutcome, [BaseRecord.Part]) {
        let snapshots = snapshots
        async let parts = writer.drain()
        do {
            let outcome = try await withTaskCancellationHandler {
                let outcome = try await snapshots.capture(into: writer, archived: archived)
                try await blocking { try writer.finish() }
                return outcome
            } onCancel: {
                writer.fail(CancellationError())
            }
            return (outcome, try await parts)
        } catch {
            writer.fail(error)
            _ = try? await parts  // its error is the one that is thrown, or was caused by it
            throw error
        }
    }

    /// The piece from which on a restore has to read: the one before the backup began, or an older one when the base's window
    /// begins with records that had been archived before.
    private func firstPiece(_ outcome: SnapshotOutcome, before: ResumeState, in incarnation: IncarnationRecord) async throws -> String? {
        if let first = outcome.firstPiece { return first }
        var sought: [String: UInt64] = [:]
        for span in outcome.spans where span.start < before.positions[span.stream]?.end ?? 0 { sought[span.stream] = span.start }
        guard let last = before.lastPiece[outcome.branch] else { return nil }
        guard !sought.isEmpty else { return last.name }
        for name in try await catalog.pieces(of: incarnation).reversed() where name.name <= last.name && name.part == nil {
            for span in try await catalog.index(of: name, of: incarnation).spans {
                if let start = sought[span.stream], span.start <= start { sought[span.stream] = nil }
            }
            if sought.isEmpty { return name.name }
        }
        return nil
    }

    /// Whether the log of the base's window brings everything that it refers to; else an older base has to serve.
    private func isResolved(_ base: BaseRecord, _ spans: [LogSpan], of incarnation: IncarnationRecord) async throws -> Bool {
        let windows = Dictionary(spans.map { ($0.stream, $0) }, uniquingKeysWith: { a, _ in a })
        let first = base.firstPiece.map { PieceName(branch: base.branch, name: $0) }
        for (_, index) in try await catalog.indexedPieces(of: incarnation, from: first) {
            for event in index.events where event.flags.contains(.unresolvedLink) {
                if let window = windows[index.spans[event.span].stream], (window.start..<window.end).contains(event.start) { return false }
            }
        }
        return true
    }

    private func waitForLog(_ spans: [LogSpan], of incarnation: IncarnationRecord) async throws -> Bool {
        let clock = ContinuousClock()
        var last: [String: UInt64] = [:]
        var moved = clock.now
        while true {
            let positions = try await catalog.resume(incarnation, cleaning: false).state.positions.mapValues(\.end)
            let lacking = spans.filter { $0.end > $0.start && positions[$0.stream] ?? 0 < $0.end }
            if lacking.isEmpty { return true }
            if positions != last {
                last = positions
                moved = clock.now
            }
            if clock.now - moved > .seconds(Self.patience) { return false }
            progress("waiting for the log that the base needs", UInt64(spans.count - lacking.count), UInt64(spans.count))
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    /// `20261124T025330Z-1a2b`: sorts by time, and two in one second differ.
    private static func identifier(_ time: Moment) -> String {
        let digits = "\(Moment(rawValue: time.rawValue - time.rawValue % 1_000_000_000))".filter { $0 != "-" && $0 != ":" }
        return "\(digits)-\(hex(UInt64.random(in: 0...0xFFFF), 4).lowercased())"
    }
}
