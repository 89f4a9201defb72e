import ArchiveCore
import Catalog
import Lag
import Runtime

/// Rows that the archive does not have yet, ascending; a bounded number, put together where it is exceeded. Pure.
struct PendingRows {
    /// Rows above which they are put together.
    static let comfortable = 60
    /// Rows that are kept at most, where breaks between them keep them apart.
    static let most = 600

    private(set) var rows: [LagRow] = []
    /// Rows given up since the start.
    private(set) var dropped = 0

    var first: LagRow? { rows.first }

    mutating func add(_ more: [LagRow]) {
        rows += more
        for seconds: Int64 in [600, 3600, 86_400] where rows.count > Self.comfortable { join(within: seconds) }
        guard rows.count > Self.most else { return }
        dropped += rows.count - Self.most
        rows.removeFirst(rows.count - Self.most)
    }

    mutating func removeFirst() { rows.removeFirst() }

    /// Puts rows that follow each other without a break together within each `seconds`.
    private mutating func join(within seconds: Int64) {
        var result: [LagRow] = []
        for row in rows {
            if let last = result.last, last.end == row.start, last.start.rawValue / 1_000_000_000 / seconds == row.start.rawValue / 1_000_000_000 / seconds {
                result[result.count - 1].append(row)
            } else {
                result.append(row)
            }
        }
        rows = result
    }
}

/// Takes the rows of one source to the archive, beside the shipping: what cannot be stored waits.
public actor LagRecorder {
    private let source: String
    private let store: @Sendable (LagRow) async throws -> Void
    private let output: Log
    private var pending = PendingRows()
    private var isFailing = false

    public init(source: String, output: Log, store: @escaping @Sendable (LagRow) async throws -> Void) {
        self.source = source
        self.output = output
        self.store = store
    }

    /// Rows that wait.
    public var waiting: Int { pending.rows.count }

    /// Stores rows behind those that wait already, oldest first, up to the first that cannot be stored: it and the rest are kept for the
    /// next call. Called by one task at a time.
    public func record(_ rows: [LagRow]) async {
        let before = pending.dropped
        pending.add(rows)
        if pending.dropped > before { output.warning("\(pending.dropped - before) records of lag were given up, because none could be stored for long") }
        while let row = pending.first {
            do { try await store(row) } catch {
                if !isFailing, !(error is CancellationError) { output.warning("how far the archive was behind could not be recorded, which is tried again: \(error)") }
                isFailing = true
                return
            }
            pending.removeFirst()
            isFailing = false
        }
    }
}

extension Catalog {
    /// Up to when nothing has to be measured any more: the source's newest watermark, or the end of what is recorded of its lag.
    public func lagKnown(of source: String) async throws -> Moment? {
        guard let incarnation = try await incarnations(of: source).last else { return nil }
        let watermark = try await watermark(of: incarnation)
        let recorded = try await lagRows(of: source, from: watermark ?? incarnation.created, to: Moment(rawValue: .max)).last?.end
        return [watermark, recorded].compactMap { $0 }.max()
    }

    /// Holes that no base lies behind which can be restored.
    public func openGaps(of incarnation: IncarnationRecord, among gaps: [GapRecord]? = nil) async throws -> [GapRecord] {
        let known: [GapRecord]
        if let gaps { known = gaps } else { known = try await self.gaps(of: incarnation) }
        guard !known.isEmpty else { return [] }
        let watermark = try await watermark(of: incarnation)
        let bases = try await bases(of: incarnation).filter { base in watermark.map { base.completed <= $0 } ?? false }
        return known.filter { gap in !bases.contains { gap.noticed < $0.started } }
    }
}
