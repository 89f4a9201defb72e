/// What a source keeps back for its receiver, and what that may cost it.
public struct GuardReading: Sendable, Hashable {
    /// Of what keeps the log: PostgreSQL's slot.
    public var name: String
    /// In the source's own words: PostgreSQL's `wal_status`.
    public var state: String
    /// Bytes of log that are kept for the receiver.
    public var retained: UInt64
    /// Bytes that may still be written before the receiver's log is lost or the source's disk is full; `nil`: not known.
    public var room: UInt64?
    /// Below this many retained bytes the receiver counts as keeping up.
    public var slack: UInt64
    /// What the receiver needs is gone already.
    public var isLost: Bool
    /// The source no longer promises to keep what the receiver needs.
    public var isUnreserved: Bool
    /// Why `room` is not known, and what makes it known.
    public var note: String?

    public init(
        name: String, state: String, retained: UInt64, room: UInt64?, slack: UInt64, isLost: Bool = false, isUnreserved: Bool = false, note: String? = nil
    ) {
        self.name = name
        self.state = state
        self.retained = retained
        self.room = room
        self.slack = slack
        self.isLost = isLost
        self.isUnreserved = isUnreserved
        self.note = note
    }
}

/// Watches over a source that keeps its log for the receiver, so that it does not keep it until its disk is full.
public protocol SourceGuard: Sendable {
    /// - Returns: `nil` where nothing is kept for us now.
    /// - Throws: `.sourceUnreachable`, `.sourceRefused`; the next call tries again.
    func look() async throws -> GuardReading?
    /// Lets the source do away with what it keeps. The receiver has let go of it, or is about to.
    ///
    /// - Throws: `.sourceUnreachable`, `.alreadyRunning` where another receiver holds it.
    func release() async throws
    func close() async
}
