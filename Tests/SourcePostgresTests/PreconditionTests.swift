import ArchiveCore
import Source
import Testing

@testable import SourcePostgres

@Suite("Preconditions of PostgreSQL")
struct PreconditionTests {
    private static func good() -> Preconditions {
        Preconditions(
            version: 170_002, system: "system 7",
            settings: [
                "wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10", "full_page_writes": "on", "data_checksums": "on",
                "max_slot_wal_keep_size": "20GB", "wal_sender_timeout": "1min",
            ], sessions: .success(.init(senders: 1, ownSenders: 1, slots: 1, slot: .init(isPhysical: true, isActive: true, state: "reserved"), clock: -1_000_000...1_000_000)),
            programs: "/usr/lib/postgresql/17/bin")
    }

    private static func sessions(_ change: (inout Preconditions.Sessions) -> Void) -> Preconditions {
        var all = good()
        var sessions = Preconditions.Sessions(senders: 0, ownSenders: 0, slots: 0, slot: nil, clock: 0...0)
        change(&sessions)
        all.sessions = .success(sessions)
        return all
    }

    private static func setting(_ key: String, _ value: String) -> Preconditions {
        var all = good()
        all.settings[key] = value
        return all
    }

    private static func changed(_ change: (inout Preconditions) -> Void) -> Preconditions {
        var all = good()
        change(&all)
        return all
    }

    @Test("a server that has all is found good")
    func allGood() { #expect(Self.good().findings("main", slot: "s").allSatisfy { $0.level == .ok && $0.remedy == nil }) }

    static let cases: [(name: String, Preconditions, Finding.Level, String)] = [
        ("newer version", changed { $0.version = 190_000 }, .warning, "PostgreSQL 19 is newer"),
        ("wal_level", setting("wal_level", "minimal"), .failure, "wal_level is minimal"),
        ("one sender", setting("max_wal_senders", "1"), .failure, "max_wal_senders is 1"),
        ("no slot", setting("max_replication_slots", "0"), .failure, "max_replication_slots is 0"),
        ("page writes", setting("full_page_writes", "off"), .failure, "full_page_writes"),
        ("checksums", setting("data_checksums", "off"), .warning, "data checksums are off"),
        ("keep for ever", setting("max_slot_wal_keep_size", "-1"), .warning, "can fill the disk"),
        ("keep little", setting("max_slot_wal_keep_size", "64MB"), .warning, "max_slot_wal_keep_size is 64MB"),
        ("keep nothing", setting("max_slot_wal_keep_size", "0"), .warning, "max_slot_wal_keep_size is 0"),
        ("no timeout", setting("wal_sender_timeout", "0"), .warning, "wal_sender_timeout is 0"),
        ("short timeout", setting("wal_sender_timeout", "500ms"), .warning, "wal_sender_timeout is 500ms"),
        ("senders taken", sessions { $0.senders = 9 }, .failure, "others use 9"),
        ("senders enough", sessions { $0.senders = 9; $0.ownSenders = 1 }, .ok, "others use 8"),
        ("slots taken", sessions { $0.slots = 10 }, .failure, "all 10 replication slots"),
        ("slot missing", sessions { $0.slots = 9 }, .ok, "is created when"),
        ("logical slot", sessions { $0.slot = .init(isPhysical: false, isActive: false, state: nil) }, .failure, "logical"),
        ("lost slot", sessions { $0.slot = .init(isPhysical: true, isActive: false, state: "lost") }, .failure, "is lost"),
        ("slot in danger", sessions { $0.slot = .init(isPhysical: true, isActive: false, state: "unreserved") }, .warning, "about to be lost"),
        ("clock behind", sessions { $0.clock = -3_000_000_000 ... -2_500_000_000 }, .warning, "by 2.5 s"),
        ("clock ahead", sessions { $0.clock = 4_000_000_000...4_100_000_000 }, .warning, "by 4.0 s"),
        ("clock unclear", sessions { $0.clock = -9_000_000_000...9_000_000_000 }, .ok, "within a second"),
        ("no session", changed { $0.sessions = .failure(ArchiveError(.sourceRefused, "no pg_hba.conf entry")) }, .warning, "no pg_hba.conf entry"),
        ("no programs", changed { $0.programs = nil }, .warning, "no programs of PostgreSQL 17"),
    ]

    @Test("each lack is told with a remedy", arguments: cases.indices)
    func lacks(_ index: Int) throws {
        let (name, server, level, text) = Self.cases[index]
        let finding = try #require(server.findings("main", slot: "s").first { $0.message.contains(text) }, "\(name)")
        #expect(finding.level == level && (finding.remedy != nil) == (level != .ok), "\(name)")
    }

    @Test("sizes and times of settings", arguments: [
        ("0", 0 as Int64?), ("-1", -1), ("20GB", 20 << 30), ("64MB", 64 << 20), ("8kB", 8192), ("1min", 60_000), ("500ms", 500), ("1h", 3_600_000), ("", nil), ("x", nil),
        ("1PB", nil), ("99999999999999999999", nil), ("9999999999999TB", nil), ("-", nil),
    ] as [(String, Int64?)])
    func numbers(_ text: String, _ expected: Int64?) { #expect(Preconditions.number(text) == expected) }
}
