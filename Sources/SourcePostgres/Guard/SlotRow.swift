import ArchiveCore
import Source

/// What the server says of a slot, and how much room it leaves.
struct SlotRow: Hashable {
    /// `wal_status`; see the view pg_replication_slots in PostgreSQL's manual.
    var state: String
    var retained: UInt64
    /// `safe_wal_size`, which is null without a limit and negative when it is used up.
    var safe: Int64?
    /// Whether max_slot_wal_keep_size sets a limit.
    var isLimited: Bool

    /// Bytes of a disk that are left to others when its room is counted: a twentieth of it, 64 MiB at least.
    static func reserve(ofTotal total: UInt64) -> UInt64 { max(total / 20, 64 << 20) }

    /// One row: wal_status, bytes retained, safe_wal_size, max_slot_wal_keep_size.
    static let query = """
        SELECT wal_status, pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
        THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn), \
        safe_wal_size, pg_catalog.current_setting('max_slot_wal_keep_size') FROM pg_catalog.pg_replication_slots WHERE slot_name =
        """

    /// - Returns: `nil` for what is no answer to `query`.
    init?(_ row: [String?]) {
        guard row.count == 4, let limit = row[3] else { return nil }
        // A slot that reserves nothing yet has no status.
        state = row[0] ?? "unused"
        let distance = row[1].map { Int64($0) } ?? 0
        guard let distance else { return nil }
        retained = UInt64(max(0, distance))
        if let text = row[2] {
            guard let bytes = Int64(text) else { return nil }
            safe = bytes
        }
        isLimited = limit != "-1"
    }

    /// - Parameter disk: bytes free and in all where WAL is kept, when this machine can tell.
    func reading(slot: String, segment: UInt64, disk: (free: UInt64, total: UInt64)?) -> GuardReading {
        var reading = GuardReading(
            name: slot, state: state, retained: retained, room: nil, slack: 2 * segment, isLost: state == "lost", isUnreserved: state == "unreserved")
        if isLimited {
            reading.room = reading.isLost ? 0 : safe.map { UInt64(max(0, $0)) }
        } else if let disk {
            let reserve = Self.reserve(ofTotal: disk.total)
            reading.room = disk.free > reserve ? disk.free - reserve : 0
        } else {
            reading.note = """
                max_slot_wal_keep_size is -1 and the disk of pg_wal cannot be seen from here. Set max_slot_wal_keep_size, or let the agent run on the \
                server's machine and GRANT pg_read_all_settings to its role.
                """
        }
        return reading
    }
}
