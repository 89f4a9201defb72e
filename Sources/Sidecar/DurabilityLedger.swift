import ArchiveCore

/// Pieces in flight, in the order in which the source gave them out. The pure part of acknowledging: never past a hole.
struct DurabilityLedger {
    struct Entry {
        var sequence: UInt64
        var name: PieceName
        var index: PieceIndex?
    }
    private var entries: [Entry] = []

    var isEmpty: Bool { entries.isEmpty }

    mutating func begin(_ sequence: UInt64, _ name: PieceName) {
        precondition(entries.last.map { $0.sequence < sequence } ?? true, "a source's sequence went back")
        entries.append(Entry(sequence: sequence, name: name, index: nil))
    }

    /// Notes that a piece is durable.
    ///
    /// - Returns: the pieces that became safe by it: durable themselves, as is everything before them; in order.
    mutating func finish(_ sequence: UInt64, _ index: PieceIndex) -> [(sequence: UInt64, name: PieceName, index: PieceIndex)] {
        if let i = entries.firstIndex(where: { $0.sequence == sequence }) { entries[i].index = index }
        var safe: [(sequence: UInt64, name: PieceName, index: PieceIndex)] = []
        while let first = entries.first, let index = first.index {
            safe.append((first.sequence, first.name, index))
            entries.removeFirst()
        }
        return safe
    }
}
