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

    /// Markers that are looked up at a time.
    private static let batch = 4

    enum Search {
        case found(FencePair)
        case needs([FenceRecord])
    }

    /// - Parameter earlier: fences before the view's first piece.
    static func search(_ pieces: [PieceSummary], behind earlier: [FenceRecord], around cut: AnchorCut, confirmed: [String: Bool]) -> Search {
        // A view may have a fence for every second of weeks: only their places are kept.
        var known: [(piece: Int, number: Int)] = earlier.indices.filter { cut.knows(earlier[$0]) }.map { (-1, $0) }
        func fence(_ place: (piece: Int, number: Int)) -> FenceRecord {
            place.piece < 0 ? earlier[place.number] : pieces[place.piece].fences[place.number]
        }
        for (piece, summary) in pieces.enumerated() {
            for (number, fence) in summary.fences.enumerated() where cut.knows(fence) { known.append((piece, number)) }
        }
        // Places in `known`. A marker that was lost says nothing about order: other records took its position.
        var before: [Int] = []
        var after: [Int] = []
        for (place, candidate) in known.enumerated() where confirmed.isEmpty || confirmed[fence(candidate).id] != false {
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
        // Every reading of the clocks between the two counts, also that of a fence whose marker was lost.
        var readings = known[(from ?? 0)..<(to.map { $0 + 1 } ?? known.count)]
        // Where all markers were lost the nearest readings have to do; the clocks of other days say nothing about the cut.
        if from == nil, to == nil, let next = readings.firstIndex(where: { !cut.isAfter(fence($0)) }) { readings = readings[max(0, next - 1)...next] }
        for reading in readings {
            let offset = fence(reading).offset
            pair.offset = pair.offset.map { min($0.lowerBound, offset.lowerBound)...max($0.upperBound, offset.upperBound) } ?? offset
        }
        return .found(pair)
    }
}
