import ArchiveCore

/// What the content of a piece says by itself, as its source told it when it was archived.
public struct PieceContent: Sendable, Hashable {
    public var spans: [LogSpan]
    public var events: [LogEvent]
    /// Whether it begins within a record of which the beginning was not read: what that record means is not known.
    public var beginsInside: Bool

    public init(spans: [LogSpan], events: [LogEvent], beginsInside: Bool = false) {
        self.spans = spans
        self.events = events
        self.beginsInside = beginsInside
    }
}

/// Reads the content of archived pieces and checks it as the source's own log, without the source and without any index.
///
/// A value: a copy made before a piece was read goes on from there.
public protocol LogIndexer: Sendable {
    /// Reads the next piece. Pieces come in log order, for each branch; some may be left out, and closed pieces come without their tails.
    ///
    /// - Parameter frames: the piece's content, before compression.
    /// - Returns: `nil` when the piece means nothing without one before it that was not read.
    /// - Throws: `.logDamaged` when the content is not what the source writes under that name; later pieces can still be read.
    mutating func read(_ name: PieceName, frames: [[UInt8]]) throws(ArchiveError) -> PieceContent?
}

extension ComponentKind {
    /// By default the content does not tell what the index has to say.
    public func makeIndexer(for incarnation: IncarnationRecord) throws(ArchiveError) -> (any LogIndexer)? { nil }
}
