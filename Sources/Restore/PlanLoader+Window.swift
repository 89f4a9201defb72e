import ArchiveCore
import Catalog
import Planner
import Source

/// What can be restored of one incarnation on one branch.
public struct BranchWindow: Sendable {
    public var incarnation: IncarnationRecord
    public var branch: UInt32
    public var ranges: [ClosedRange<Moment>]
    /// Holes that were met, with the last time before each that can be restored.
    public var holes: [(stream: String, offset: UInt64, last: Moment)]
    public var watermark: Moment?
    /// Whether newer branches left this one.
    public var isNewest: Bool
}

extension PlanLoader {
    /// The restorable times of a source: for each incarnation and each branch of it, oldest first.
    public func windows(of source: String) async throws -> [BranchWindow] {
        var result: [BranchWindow] = []
        for incarnation in try await incarnations(of: source) {
            let kind = try kind(of: incarnation)
            let branches = try await catalog.branches(of: incarnation)
            let bases = try await catalog.bases(of: incarnation)
            let watermark = try await catalog.watermark(of: incarnation)
            let archived = try await catalog.archivedBranches(of: incarnation)
            let tips = Set(archived + branches.map(\.branch) + bases.map(\.branch)).sorted()
            for tip in tips {
                var window = BranchWindow(
                    incarnation: incarnation, branch: tip, ranges: [], holes: [], watermark: tip == tips.last ? watermark : nil, isNewest: tip == tips.last)
                for base in bases {
                    // What an older base reaches needs no newer one.
                    if window.ranges.contains(where: { $0.contains(base.completed) }) { continue }
                    guard let path = BranchPath(from: base.branch, to: tip, by: branches) else { continue }
                    var walk = WindowWalk(
                        base: base, windows: try await catalog.spans(of: base, in: incarnation), path: path,
                        streamsMayBeginEmpty: kind.streamsMayBeginEmpty, firstOffset: kind.firstOffset)
                    var cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: base.firstPiece)
                    while let piece = try await cursor.next() {
                        try Task.checkCancellation()
                        guard walk.add(piece) else { break }
                    }
                    if let hole = walk.hole, !window.holes.contains(where: { $0.stream == hole.stream && $0.offset == hole.offset }) { window.holes.append(hole) }
                    if let range = walk.range(watermark: window.watermark) { window.ranges.append(range) }
                }
                window.ranges = RecoveryWindow.union(window.ranges)
                if !window.ranges.isEmpty || window.isNewest { result.append(window) }
            }
        }
        return result
    }
}
