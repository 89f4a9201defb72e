import ArchiveCore
import Catalog
import Planner
import Source

/// What can be restored of one incarnation on one branch.
public struct BranchWindow: Sendable {
    /// Where a base's log stops being whole.
    public struct Hole: Sendable {
        public var stream: String
        /// The first offset that is missing, and as the source's own tools write it.
        public var offset: UInt64
        public var position: String
        /// The last time before it that can be restored, and the first after it; `nil`: there is none.
        public var last: Moment?
        public var next: Moment?
        /// As it was recorded when the hole was noticed.
        public var cause: String?
    }

    public var incarnation: IncarnationRecord
    public var branch: UInt32
    /// By the source's own clock.
    public var ranges: [ClosedRange<Moment>]
    /// By the clock of the source that the fences were written to: what surely lies inside `ranges`, whatever the clocks showed within
    /// the bounds of the first and the last fence of each range. The same as `ranges` where there are no fences.
    public var anchored: [ClosedRange<Moment>]
    /// The newest fence that was met.
    public var fence: FenceRecord?
    /// Those that were met, in log order.
    public var holes: [Hole]
    /// Bases from which nothing can be restored yet, or any more: their own log is not all there.
    public var unusable: [String]
    public var watermark: Moment?
    /// Whether no newer branch left this one.
    public var isNewest: Bool
}

extension PlanLoader {
    /// The restorable times of a source: for each incarnation and each branch of it, oldest first.
    ///
    /// The chapters of a branch are gone through once: a base inside of what an older one reaches is not followed.
    ///
    /// - Throws: `.targetUnreachable` when the archive has no such source.
    public func windows(of source: String) async throws -> [BranchWindow] {
        var result: [BranchWindow] = []
        for incarnation in try await incarnations(of: source) {
            let kind = try kind(of: incarnation)
            let branches = try await catalog.branches(of: incarnation)
            let bases = try await catalog.bases(of: incarnation)
            let gaps = try await catalog.gaps(of: incarnation)
            let watermark = try await catalog.watermark(of: incarnation)
            let archived = try await catalog.archivedBranches(of: incarnation)
            let tips = Set(archived + branches.map(\.branch) + bases.map(\.branch)).sorted()
            for tip in tips {
                var window = BranchWindow(
                    incarnation: incarnation, branch: tip, ranges: [], anchored: [], holes: [], unusable: [],
                    watermark: tip == tips.last ? watermark : nil, isNewest: tip == tips.last)
                for base in bases {
                    // What an older base reaches needs no newer one.
                    if window.ranges.contains(where: { $0.contains(base.completed) }) { continue }
                    guard let path = BranchPath(from: base.branch, to: tip, by: branches) else { continue }
                    do { try await follow(base, along: path, of: kind, gaps, into: &window) } catch let error as ArchiveError where error.code == .objectMissing {
                        // An expiry may have removed it meanwhile.
                        guard try await catalog.base(base.id, of: incarnation) == nil else { throw error }
                    }
                }
                window.ranges = RecoveryWindow.union(window.ranges)
                window.anchored = RecoveryWindow.union(window.anchored)
                for i in window.holes.indices {
                    let hole = window.holes[i]
                    window.holes[i].next = window.ranges.lazy.map(\.lowerBound).first { start in hole.last.map { start > $0 } ?? true }
                }
                if !window.ranges.isEmpty || window.isNewest { result.append(window) }
            }
        }
        return result
    }

    /// Goes through the log behind a base to its first hole, and adds what can be restored.
    private func follow(
        _ base: BaseRecord, along path: BranchPath, of kind: any ComponentKind, _ gaps: [GapRecord], into window: inout BranchWindow
    ) async throws {
        var walk = WindowWalk(
            base: base, windows: try await catalog.spans(of: base, in: window.incarnation), path: path,
            streamsMayBeginEmpty: kind.streamsMayBeginEmpty, firstOffset: kind.firstOffset, gaps: gaps)
        var cursor = LogCursor(catalog: catalog, incarnation: window.incarnation, path: path, from: base.firstPiece)
        var first: FenceRecord?
        var last: FenceRecord?
        while let piece = try await cursor.next() {
            try Task.checkCancellation()
            guard walk.add(piece) else { break }
            first = first ?? piece.fences.first
            last = piece.fences.last ?? last
        }
        let range = walk.range(watermark: window.watermark)
        if let hole = walk.hole, !window.holes.contains(where: { $0.stream == hole.stream && $0.offset == hole.offset }) {
            let gap = gaps.first { $0.explains(hole.stream, hole.offset) }
            window.holes.append(
                .init(
                    stream: hole.stream, offset: hole.offset, position: kind.describe(offset: hole.offset), last: range?.upperBound, next: nil,
                    cause: gap?.cause))
        }
        guard let range else {
            window.unusable.append(base.id)
            return
        }
        window.ranges.append(range)
        window.fence = last ?? window.fence
        if kind.carriesFences {
            window.anchored.append(range)
            return
        }
        let from = range.lowerBound.adding(nanoseconds: first?.offset.upperBound ?? 0)
        let to = range.upperBound.adding(nanoseconds: last?.offset.lowerBound ?? 0)
        if from <= to { window.anchored.append(from...to) }
    }
}
