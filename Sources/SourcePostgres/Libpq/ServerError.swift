import ArchiveCore

/// What the server answered instead of doing what it was asked.
struct ServerError: Error, CustomStringConvertible {
    /// Five letters and digits; empty when the connection itself failed.
    var state: String
    var message: String

    var description: String { state.isEmpty ? message : "\(message) [\(state)]" }

    static let slotInUse = "55006"
    static let segmentRemoved = "58P01"
    static let notInPrerequisiteState = "55000"
    static let undefinedObject = "42704"
    static let duplicateObject = "42710"
    static let checksumFailure = "XX001"

    /// As the rest of Tidemark wants it, with the server's own words as its cause.
    func archiveError(_ doing: String) -> ArchiveError {
        switch state {
        case Self.slotInUse:
            ArchiveError(
                .alreadyRunning, "Could not \(doing): the replication slot is in use by another receiver.",
                remedy: "Stop the other receiver, or give this source another slot.", cause: self)
        case "28P01", "28000":
            ArchiveError(
                .sourceRefused, "Could not \(doing): PostgreSQL refused the login.",
                remedy: "Check the password and that pg_hba.conf lets this role use replication.", cause: self)
        case "42501":
            ArchiveError(
                .sourceRefused, "Could not \(doing): the role may not.", remedy: "ALTER ROLE … REPLICATION.", cause: self)
        case "53400", "53300":
            ArchiveError(
                .sourceRefused, "Could not \(doing): a limit of the server is reached.",
                remedy: "Raise max_replication_slots, max_wal_senders or max_connections.", cause: self)
        case "", "57P01", "57P02", "57P03", "08006", "08003", "08P01":
            ArchiveError(.sourceUnreachable, "Could not \(doing): PostgreSQL is not there.", cause: self)
        default: ArchiveError(.sourceRefused, "Could not \(doing).", cause: self)
        }
    }
}
