import Testing

@testable import SourcePostgres

@Suite("What PostgreSQL says of a slot")
struct SlotRowTests {
    @Test("a limit's room is safe_wal_size, none when it is negative")
    func limited() throws {
        let row = try #require(SlotRow(["extended", "1000", "500", "1GB"]))
        #expect(row.reading(slot: "s", segment: 16, disk: (1, 1)).room == 500)
        let over = try #require(SlotRow(["unreserved", "1000", "-5", "1GB"])).reading(slot: "s", segment: 16, disk: nil)
        #expect(over.room == 0 && over.isUnreserved && over.slack == 32)
        let lost = try #require(SlotRow(["lost", nil, nil, "1GB"])).reading(slot: "s", segment: 16, disk: nil)
        #expect(lost.isLost && lost.room == 0)
    }

    @Test("without a limit it is the disk's less a reserve, or not known")
    func unlimited() throws {
        let row = try #require(SlotRow(["reserved", "1000", nil, "-1"]))
        #expect(row.reading(slot: "s", segment: 16, disk: (1 << 40, 1 << 40)).room == (1 << 40) - (1 << 40) / 20)
        #expect(row.reading(slot: "s", segment: 16, disk: (5, 1 << 40)).room == 0)
        let blind = row.reading(slot: "s", segment: 16, disk: nil)
        #expect(blind.room == nil && blind.note?.contains("pg_read_all_settings") == true)
    }

    @Test("what is no answer is none", arguments: [[], ["reserved", "x", nil, "-1"], ["reserved", "1", "x", "1GB"], ["reserved", "1", nil, nil]] as [[String?]])
    func absurd(_ row: [String?]) { #expect(SlotRow(row) == nil) }
}
