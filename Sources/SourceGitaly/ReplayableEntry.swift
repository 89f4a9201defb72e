/// One log entry with everything that replaying it needs.
struct ReplayableEntry: Sendable {
    struct File: Sendable {
        var bytes: [UInt8]
        /// Permission bits.
        var mode: UInt32
    }
    var partition: String
    var lsn: UInt64
    var entry: LogEntry
    /// The entry's own files by name.
    var files: [String: File]
    /// Contents of in-storage links that were read when the entry was archived, by the operation's index.
    var links: [Int: File]
}
