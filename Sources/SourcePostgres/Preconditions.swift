import ArchiveCore
import Runtime
import Source

/// What a server says of itself that decides whether it can be archived.
struct Preconditions: Sendable {
    /// What an ordinary connection tells, which the replication protocol does not.
    struct Sessions: Sendable {
        /// WAL senders at work, and of them those that are the agent's or another command's.
        var senders: Int
        var ownSenders: Int
        var slots: Int
        var slot: Slot?
        /// Nanoseconds by which the server's clock is ahead of this host's: not less and not more.
        var clock: ClosedRange<Int64>
    }
    /// A line of `pg_replication_slots`.
    struct Slot: Sendable {
        var isPhysical: Bool
        var isActive: Bool
        /// PostgreSQL's `wal_status`: `reserved`, `extended`, `unreserved`, `lost`; `nil` where it keeps nothing yet.
        var state: String?
    }

    /// As `PQserverVersion` tells it: 150004 is 15.4.
    var version: Int
    var system = ""
    /// By name, as `SHOW` tells them.
    var settings: [String: String] = [:]
    /// In bytes.
    var segment: UInt64 = 16 << 20
    /// As the replication protocol tells it.
    var slotState = Connection.SlotState.unknown
    /// Or why there was none.
    var sessions: Result<Sessions, ArchiveError>
    /// Where the programs of the server's version are on this host.
    var programs: String?

    /// The oldest and the newest version that Tidemark was tested with.
    static let tested = 13...18
    private static let asked = [
        "wal_level", "max_wal_senders", "max_replication_slots", "full_page_writes", "data_checksums", "max_slot_wal_keep_size", "wal_sender_timeout",
    ]

    /// Bytes or milliseconds of a setting such as `20GB`, `1min`, `0`; negative for `-1`.
    static func number(_ setting: String) -> Int64? {
        let digits = setting.prefix { $0.isASCII && ($0.isNumber || $0 == "-") }
        let units: [String: Int64] = [
            "": 1, "B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40, "us": 0, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000,
        ]
        guard let value = Int64(digits), let unit = units[String(setting.dropFirst(digits.count))] else { return nil }
        let (product, overflow) = value.multipliedReportingOverflow(by: unit)
        return overflow ? nil : product
    }

    func findings(_ name: String, slot: String) -> [Finding] {
        var found: [Finding] = []
        func add(_ level: Finding.Level, _ message: String, _ remedy: String? = nil) { found.append(Finding(level, name, message, remedy: remedy)) }
        func setting(_ key: String) -> String { settings[key] ?? "" }
        let major = version / 10_000
        add(.ok, "PostgreSQL \(major).\(version % 10_000) is reached over the replication protocol: \(system)")
        if major > Self.tested.upperBound {
            add(.warning, "PostgreSQL \(major) is newer than what this Tidemark was tested with", "Restore a base and its log once as a trial, or look for a newer Tidemark.")
        }
        if setting("wal_level") == "minimal" {
            add(.failure, "wal_level is minimal", "Set wal_level = replica and restart PostgreSQL.")
        } else {
            add(.ok, "wal_level is \(setting("wal_level"))")
        }
        capacity(slot, add)
        if setting("full_page_writes") != "on" { add(.failure, "full_page_writes is off", "Set full_page_writes = on.") }
        if setting("data_checksums") != "on" {
            add(.warning, "data checksums are off: damaged blocks go unnoticed into bases", "Enable them with pg_checksums.")
        }
        limits(add)
        slots(slot, add)
        if case .success(let sessions) = sessions { clock(sessions.clock, add) }
        if let programs {
            add(.ok, "PostgreSQL \(major)'s programs are in \(programs)")
        } else {
            add(
                .warning, "this host has no programs of PostgreSQL \(major): `restore --recover` cannot start what it restores here",
                "Restore on a host that has them, name them with --bindir, or install the package postgresql-\(major).")
        }
        return found
    }

    private typealias Add = (Finding.Level, String, String?) -> Void

    /// Whether there is room for one who streams, one who takes a base, and a slot.
    private func capacity(_ slot: String, _ add: Add) {
        let senders = Int(settings["max_wal_senders"] ?? "") ?? 0
        let slots = Int(settings["max_replication_slots"] ?? "") ?? 0
        guard senders >= 2 else {
            return add(.failure, "max_wal_senders is \(senders)", "Set it to at least 2, one to stream and one for base backups, and restart PostgreSQL.")
        }
        guard slots >= 1 else {
            return add(.failure, "max_replication_slots is \(slots)", "Set it to at least 1 and restart PostgreSQL.")
        }
        switch sessions {
        case .failure(let error):
            add(.ok, "max_wal_senders is \(senders), max_replication_slots is \(slots)", nil)
            add(
                .warning, "how many of them are taken, the slot's state and the clock were not seen, since no ordinary connection was let in: \(error.message)",
                "Let the role connect to a database too: `tidemark check --print-setup` prints the line of pg_hba.conf.")
        case .success(let sessions):
            let free = senders - (sessions.senders - sessions.ownSenders)
            let text = "max_wal_senders is \(senders), of which others use \(sessions.senders - sessions.ownSenders)"
            if free >= 2 { add(.ok, text, nil) } else {
                add(.failure, text, "Raise it, so that 2 are left, one to stream and one for base backups, and restart PostgreSQL.")
            }
            if sessions.slot == nil, sessions.slots >= slots {
                add(.failure, "all \(slots) replication slots are taken", "Drop one that nobody needs, or raise max_replication_slots and restart PostgreSQL.")
            } else {
                add(.ok, "max_replication_slots is \(slots), of which \(sessions.slots) are taken", nil)
            }
        }
    }

    private func limits(_ add: Add) {
        let text = settings["max_slot_wal_keep_size"] ?? ""
        let keep = Self.number(text)
        if keep == -1 {
            add(
                .warning, "max_slot_wal_keep_size is -1: while no agent runs, the slot can fill the disk of PostgreSQL",
                "Set it to what that disk can spare; beyond it a gap opens instead.")
        } else if let keep, keep >= 0, UInt64(keep) < 64 * segment {
            add(
                .warning, "max_slot_wal_keep_size is \(text): an agent that is away for a short time finds a gap",
                "Set it to at least \(64 * segment >> 20)MB, better to what the disk can spare.")
        } else if keep != nil {
            add(.ok, "max_slot_wal_keep_size is \(text)", nil)
        }
        switch Self.number(settings["wal_sender_timeout"] ?? "") {
        case 0?:
            add(.warning, "wal_sender_timeout is 0: PostgreSQL never notices that an agent is gone without a word", "Set wal_sender_timeout = 60s.")
        case let time? where time < 10_000:
            add(.warning, "wal_sender_timeout is \(settings["wal_sender_timeout"] ?? ""): a short pause ends the stream", "Set wal_sender_timeout = 60s.")
        default: break
        }
    }

    private func slots(_ name: String, _ add: Add) {
        if case .success(let sessions) = sessions {
            guard let slot = sessions.slot else { return add(.ok, "the slot '\(name)' is created when the agent starts", nil) }
            guard slot.isPhysical else {
                return add(.failure, "the slot '\(name)' is a logical one", "Name another with 'slot', or drop it: SELECT pg_drop_replication_slot('\(name)').")
            }
            switch slot.state {
            case "lost":
                return add(
                    .failure, "the slot '\(name)' is lost: WAL that it needed was removed",
                    "Start the agent, which makes it anew and records the gap; then take a base with `tidemark backup`.")
            case "unreserved":
                return add(.warning, "the slot '\(name)' is about to be lost: its WAL goes with the next checkpoint", "Start the agent now, and raise max_slot_wal_keep_size.")
            default: return add(.ok, "the slot '\(name)' is there, \(slot.isActive ? "in use" : "not in use")\(slot.state.map { ", \($0)" } ?? "")", nil)
            }
        }
        switch slotState {
        case .present(let position): add(.ok, "the slot '\(name)' is there\(position.map { ", keeping WAL from \(LSN(rawValue: $0))" } ?? "")", nil)
        case .missing: add(.ok, "the slot '\(name)' is created when the agent starts", nil)
        case .unknown: break
        }
    }

    private func clock(_ ahead: ClosedRange<Int64>, _ add: Add) {
        // What is certain: the nearest to zero that the bounds allow.
        let least = ahead.contains(0) ? 0 : min(ahead.lowerBound.magnitude, ahead.upperBound.magnitude)
        let seconds = Double(least / 1_000_000) / 1000
        if least > 1_000_000_000 {
            add(
                .warning, "the server's clock differs from this host's by \(seconds) s: lags and schedules are told by both",
                "Let both hosts follow the same time server (chrony or NTP).")
        } else {
            add(.ok, "the server's clock and this host's agree within a second", nil)
        }
    }
}

extension Preconditions {
    /// Asks a server. Blocks.
    ///
    /// - Throws: `.sourceUnreachable`, `.sourceRefused`; `.sourceUnsupported` for one that is too old.
    init(conninfo: String, slot: String) throws {
        let connection = try Connection(conninfo: conninfo, purpose: .replication)
        version = connection.serverVersion
        guard version / 10_000 >= Self.tested.lowerBound else { throw PostgresServer.tooOld(version) }
        sessions = .failure(ArchiveError(.sourceUnreachable, "It was not tried."))
        do {
            let identity = try connection.identifySystem()
            system = "system \(identity.identifier), timeline \(identity.timeline), at \(LSN(rawValue: identity.position))"
            for name in Self.asked { settings[name] = try connection.setting(name) }
            segment = try connection.segmentSize().bytes
            slotState = try connection.slotState(slot)
        } catch let error as ServerError { throw error.archiveError("examine PostgreSQL") }
        do { sessions = .success(try Self.ask(conninfo, slot)) } catch let error as ArchiveError { sessions = .failure(error) } catch let error as ServerError {
            sessions = .failure(error.archiveError("ask for replication slots"))
        }
        // None of this version, which is told; a version that cannot be asked is as good as none.
        programs = try? Programs.find(major: version / 10_000, bindir: nil).directory
    }

    private static func ask(_ conninfo: String, _ slot: String) throws -> Sessions {
        let connection = try Connection(conninfo: conninfo, purpose: .sql, database: "postgres")
        let before = now()
        let clock = try connection.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").first?.first ?? nil
        let after = now()
        guard let microseconds = clock.flatMap(Int64.init), microseconds.magnitude < 1 << 52 else {
            throw ArchiveError(.sourceUnsupported, "PostgreSQL did not tell its time.")
        }
        // A sender's slot is ours; a base backup's sender has our name.
        let counts = try connection.query(
            """
            SELECT (SELECT count(*) FROM pg_stat_replication),
                (SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'tidemark%'), (SELECT count(*) FROM pg_replication_slots)
            """
        ).first?.map { $0.flatMap(Int.init) ?? 0 }
        guard let counts, counts.count == 3 else { throw ArchiveError(.sourceUnsupported, "PostgreSQL did not tell its WAL senders.") }
        let line = try connection.query(
            "SELECT slot_type = 'physical', active, wal_status FROM pg_replication_slots WHERE slot_name = '\(slot.replacing("'", with: "''"))'"
        ).first
        let server = microseconds * 1000
        return Sessions(
            senders: counts[0], ownSenders: counts[1], slots: counts[2],
            slot: line.map { Slot(isPhysical: $0[0] == "t", isActive: $0[1] == "t", state: $0[2]) },
            clock: (server - after.rawValue)...max(server - after.rawValue, server - before.rawValue))
    }
}
