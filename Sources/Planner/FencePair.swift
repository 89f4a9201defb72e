import ArchiveCore

/// The fences around a cut, among those of a view's pieces.
struct FencePair {
    /// The index of the piece that completes the fence; -1: one before the view.
    typealias Placed = (fence: FenceRecord, piece: Int)

    /// The last fence before the cut and the first after it whose markers the anchor's log has.
    private(set) var before: Placed?
    private(set) var after: Placed?
    /// Clock offsets that were measured from one to the other.
    private(set) var offset: ClosedRange<Int64>?
    /// The lowest of them from the fence before the cut on, which says up to when the log is archived.
    private(set) var lowest: Int64?

    /// Markers that are looked up at a time.
    private static let batch = 4

    enum Search {
        case found(FencePair)
        case needs([FenceRecord])
    }

    /// - Parameter earlier: fences before the view's first piece.
    static func search(_ pieces: [PieceSummary], behind earlier: [FenceRecord], around cut: AnchorCut, confirmed: [String: Bool]) -> Search {
        // Those on branches that were left measure the clocks too. A view may have a fence for every second of weeks: only their places
        // are kept.
        func isOfAnchor(_ fence: FenceRecord) -> Bool { fence.anchor == cut.source && fence.anchorIdentity == cut.identity }
        var known: [(piece: Int, number: Int)] = earlier.indices.filter { isOfAnchor(earlier[$0]) }.map { (-1, $0) }
        func fence(_ place: (piece: Int, number: Int)) -> FenceRecord {
            place.piece < 0 ? earlier[place.number] : pieces[place.piece].fences[place.number]
        }
        for (piece, summary) in pieces.enumerated() {
            for (number, fence) in summary.fences.enumerated() where isOfAnchor(fence) { known.append((piece, number)) }
        }
        // Places in `known`. A marker that was lost, or lies on a branch that was left, says nothing about order: other records took its
        // position. What it says about the clocks stays true.
        var before: [Int] = []
        var after: [Int] = []
        for (place, candidate) in known.enumerated()
        where cut.knows(fence(candidate)) && (confirmed.isEmpty || confirmed[fence(candidate).id] != false) {
            // Positions only grow: what comes after a fence that lies behind the cut lies behind it too.
            if after.isEmpty, cut.isAfter(fence(candidate)) { before.append(place) } else { after.append(place) }
        }
        var needed: [FenceRecord] = []
        func first(_ candidates: some Sequence<Int>) -> Int? {
            var asked = 0
            for place in candidates {
                if confirmed[fence(known[place]).id] == true { return asked == 0 ? place : nil }
                needed.append(fence(known[place]))
                asked += 1
                if asked == batch { return nil }
            }
            return nil
        }
        let from = first(before.reversed())
        let to = first(after)
        guard needed.isEmpty else { return .needs(needed) }
        var pair = FencePair()
        pair.before = from.map { (fence(known[$0]), known[$0].piece) }
        pair.after = to.map { (fence(known[$0]), known[$0].piece) }
        // Every reading of the clocks between the two counts, also that of a fence whose marker was lost; and the one before, for what came
        // while the first marker was written and a clock was set.
        var readings = known[max(0, (from ?? 0) - 1)..<(to.map { $0 + 1 } ?? known.count)]
        // Where all markers were lost the nearest readings have to do; the clocks of other days say nothing about the cut.
        if from == nil, to == nil, !readings.isEmpty {
            let next = readings.firstIndex { !cut.isAfter(fence($0)) }
            readings = readings[max(0, (next ?? readings.endIndex) - 1)..<min(readings.endIndex, (next ?? readings.endIndex) + 1)]
        }
        for place in readings.indices {
            let offset = fence(known[place]).offset
            if place >= from ?? 0 { pair.lowest = min(pair.lowest ?? .max, offset.lowerBound) }
            pair.offset = pair.offset.map { min($0.lowerBound, offset.lowerBound)...max($0.upperBound, offset.upperBound) } ?? offset
        }
        return .found(pair)
    }
}
