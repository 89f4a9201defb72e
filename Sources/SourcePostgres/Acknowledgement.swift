/// When PostgreSQL is told that WAL is durable, and commits that wait for it return.
public enum Acknowledgement: String, Sendable, CaseIterable {
    /// When it is flushed to the agent's own disk.
    case spool
    /// When the archive has it.
    case archive
}
