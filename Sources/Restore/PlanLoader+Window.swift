import ArchiveCore
import Planner
import Source

extension PlanLoader {
    /// The restorable times of a source over all its incarnations and bases.
    public func window(
        of source: String, kinds: [any ComponentKind]
    ) async throws -> (ranges: [ClosedRange<Moment>], watermark: Moment?, gaps: [GapRecord]) {
        var ranges: [ClosedRange<Moment>] = []
        var watermark: Moment?
        var gaps: [GapRecord] = []
        for incarnation in try await catalog.incarnations(of: source) {
            gaps += try await catalog.gaps(of: incarnation)
            for base in try await catalog.bases(of: incarnation) {
                let view = try await view(of: incarnation, from: base, kinds: kinds)
                watermark = [watermark, view.reachable].compactMap { $0 }.max()
                let spans = try await catalog.treeIndex(of: base, in: incarnation).spans
                if let range = RecoveryWindow.range(base: base, spans: spans, view: view) { ranges.append(range) }
            }
            watermark = [watermark, try await catalog.watermark(of: incarnation)].compactMap { $0 }.max()
        }
        return (RecoveryWindow.union(ranges), watermark, gaps)
    }
}
