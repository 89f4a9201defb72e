import ArchiveCore

/// The fences around a cut, among those of a view's pieces.
struct FencePair {
    /// The index of the piece that completes the fence.
    typealias Placed = (fence: FenceRecord, piece: Int)

    /// The last fence before the cut and the first after it whose markers the anchor's log has.
    private(set) var before: Placed?
    private(set) var after: Placed?
    /// Clock offsets that were measured from one to the other.
    private(set) var offset: ClosedRange<Int64>?

    /// Markers that are looked up at a time.
    private static let batch = 4

    enum Search {
        case found(FencePair)
        case needs([FenceRecord])
    }

    static func search(_ pieces: [PieceSummary], around cut: AnchorCut, confirmed: [String: Bool]) -> Search {
        var before: [Placed] = []
        var after: [Placed] = []
        for (number, piece) in pieces.enumerated() {
            for fence in piece.fences where cut.knows(fence) {
                // Positions only grow: what comes after a fence that lies behind the cut lies behind it too.
                if after.isEmpty, cut.isAfter(fence) { before.append((fence, number)) } else { after.append((fence, number)) }
            }
        }
        var needed: [FenceRecord] = []
        func first(_ candidates: some Sequence<Placed>) -> Placed? {
            var asked = 0
            for candidate in candidates {
                switch confirmed[candidate.fence.id] {
                case true?: return asked == 0 ? candidate : nil
                case false?: continue
                case nil:
                    needed.append(candidate.fence)
                    asked += 1
                    if asked == batch { return nil }
                }
            }
            return nil
        }
        var pair = FencePair()
        pair.before = first(before.reversed())
        pair.after = first(after)
        guard needed.isEmpty else { return .needs(needed) }
        // Every reading of the clocks between the two counts, also that of a fence whose marker was lost.
        var hull: ClosedRange<Int64>?
        for (fence, piece) in before + after where piece >= pair.before?.piece ?? 0 && piece <= pair.after?.piece ?? .max {
            let outside = pair.before.map { fence.position < $0.fence.position } ?? false || pair.after.map { fence.position > $0.fence.position } ?? false
            if outside { continue }
            hull = hull.map { min($0.lowerBound, fence.offset.lowerBound)...max($0.upperBound, fence.offset.upperBound) } ?? fence.offset
            // Without a fence after the cut the first ones tell; the clocks of later days say nothing about it.
            if pair.before == nil, pair.after == nil { break }
        }
        pair.offset = hull
        return .found(pair)
    }
}
