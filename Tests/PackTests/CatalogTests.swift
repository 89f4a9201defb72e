import ArchiveCore
import Digests
import Catalog
import Pack
import Source
import Store
import Testing

@Suite("The catalog")
struct CatalogTests {
    private let incarnation = IncarnationRecord(
        source: "main", id: "77-0001", kind: "toy", identity: "77", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)

    /// A plain archive, and one that is encrypted by somebody who has no identity, as an agent is.
    static let keys = [ArchiveKeys(), ArchiveKeys(recipients: [AgeIdentity.generate().recipient])]

    private func piece(_ number: UInt64, _ content: [UInt8], for catalog: Catalog? = nil) throws -> PackedPiece {
        try (catalog?.pack ?? { try PiecePacker.pack($0) })(
            LogPiece(
                name: PieceName(branch: 1, name: hex(number, 24)), frames: [content, [5]],
                spans: [LogSpan(stream: "s", branch: 1, start: number, end: number + 1, lastRecord: number)],
                events: [
                    LogEvent(span: 0, start: number, end: number + 1, time: Moment(rawValue: Int64(number)), kind: .commit, frame: 0)
                ], sequence: number))
    }

    @Test("an agent notices that the archive is gone from its place, or is another one")
    func confirmed() async throws {
        let store = MemoryStore()
        let catalog = try await Catalog.create(in: store, at: Moment(rawValue: 1), version: "test")
        try await catalog.confirm()
        await store.remove(ObjectKey(known: "tidemark.json"))
        let gone = await #expect(throws: ArchiveError.self) { try await catalog.confirm() }
        #expect(gone?.code == .archiveMissing)
        #expect(gone?.message.contains("is gone from memory") == true)
        _ = try await Catalog.create(in: store, at: Moment(rawValue: 1), version: "test")
        let other = await #expect(throws: ArchiveError.self) { try await catalog.confirm() }
        #expect(other?.message.contains("holds another archive now") == true)
    }

    @Test("a plain archive that holds encrypted objects, and recipients that are no keys, are told as what was changed")
    func tampered() async throws {
        let store = MemoryStore()
        let catalog = try await Catalog.create(in: store, at: Moment(rawValue: 1), version: "test")
        let incarnation = IncarnationRecord(
            source: "main", id: "1-0001", kind: "postgres", identity: "1", number: 1, created: Moment(rawValue: 1), facts: ["segment-size": "1048576"], reason: nil)
        try await store.put([1], at: ObjectKey(known: "log/main/1-0001/00000001/000000010000000000000/000000010000000000000001.zst.age"))
        let mixed = await #expect(throws: ArchiveError.self) { _ = try await catalog.pieces(of: incarnation) }
        #expect(mixed?.code == .archiveDamaged)
        let forged = MemoryStore()
        let text = #"{"format": 2, "id": "x", "created": 1, "createdBy": "t", "encryption": {"scheme": "age", "recipients": ["\u001b[31mX\nerror: y"]}}"#
        try await forged.put(Array(text.utf8), at: ObjectKey(known: "tidemark.json"))
        let hostile = await #expect(throws: ArchiveError.self) { _ = try await Catalog.open(forged) }
        #expect(hostile?.code == .archiveDamaged)
        #expect(hostile?.description.contains("\u{1B}") == false)
    }

    @Test("an archive is created once, and one of a newer format is refused")
    func create() async throws {
        let store = MemoryStore()
        let missing = await #expect(throws: ArchiveError.self) { try await Catalog.open(store) }
        #expect(missing?.code == .archiveMissing)
        _ = try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test")
        let second = await #expect(throws: ArchiveError.self) { try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test") }
        #expect(second?.code == .archiveExists)
        let newer = MemoryStore()
        try await newer.put(Array(#"{"format": 3, "whatever": []}"#.utf8), at: ObjectKey(known: "tidemark.json"))
        let refused = await #expect(throws: ArchiveError.self) { try await Catalog.open(newer) }
        #expect(refused?.code == .archiveNewer)
        #expect(refused?.code.exitStatus == 3)
        let foreign = MemoryStore()
        try await foreign.put([1], at: ObjectKey(known: "photos/1.jpg"))
        await #expect(throws: ArchiveError.self) { try await Catalog.create(in: foreign, at: Moment(rawValue: 0), version: "test") }
        let garbled = MemoryStore()
        try await garbled.put([0x7B], at: ObjectKey(known: "tidemark.json"))
        let damaged = await #expect(throws: ArchiveError.self) { try await Catalog.open(garbled) }
        #expect(damaged?.code == .archiveDamaged)
    }

    @Test("damage to an archived piece is noticed, whichever bit it is")
    func damage() async throws {
        let packed = try piece(1, Array("some log, some log, some log".utf8))
        #expect(try PiecePacker.unpack(packed.object, frames: packed.index.frames, of: "x").count == 2)
        for bit in 0..<packed.object.count * 8 {
            var object = packed.object
            object[bit / 8] ^= 1 << UInt8(bit % 8)
            // Some bits of a frame's header mean nothing; then the content is still the right one.
            if let contents = try? PiecePacker.unpack(object, frames: packed.index.frames, of: "x") {
                #expect(contents[0] == Array("some log, some log, some log".utf8))
            }
        }
        for count in 0..<packed.object.count {
            #expect(throws: ArchiveError.self) { try PiecePacker.unpack(Array(packed.object[..<count]), frames: packed.index.frames, of: "x") }
        }
    }

    @Test("the same piece twice is fine, another under its name is two histories", arguments: keys)
    func histories(_ keys: ArchiveKeys) async throws {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test", keys: keys)
        try await catalog.store(try piece(1, [1], for: catalog), of: incarnation)
        try await catalog.store(try piece(1, [1], for: catalog), of: incarnation)
        let refused = await #expect(throws: ArchiveError.self) { try await catalog.store(try self.piece(1, [2], for: catalog), of: incarnation) }
        #expect(refused?.code == .twoHistories)
    }

    @Test("an agent with no state of its own finds out how far the archive is", arguments: [nil, 3, 7] as [UInt64?], keys)
    func resume(_ checkpointAt: UInt64?, _ keys: ArchiveKeys) async throws {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test", keys: keys)
        var checkpoint = Checkpoint()
        for number in 1...7 as ClosedRange<UInt64> {
            let packed = try piece(number, [UInt8(number)], for: catalog)
            try await catalog.store(packed, of: incarnation)
            checkpoint.add(packed.name, packed.index)
            if number == checkpointAt { try await catalog.record(checkpoint, of: incarnation) }
        }
        // Stored without an index by a process that died: never acknowledged.
        let orphan = try piece(8, [8], for: catalog)
        try await catalog.store.put(orphan.object, at: catalog.dataKey(orphan.name, of: incarnation))
        let (state, found) = try await catalog.resume(incarnation, cleaning: true)
        #expect(state.positions["s"]?.end == 8)
        #expect(state.positions["s"]?.sha256 == SHA256.of([7]))
        #expect(state.lastPiece[1]?.name == hex(7, 24))
        #expect(found == checkpoint)
        try await catalog.store(try piece(8, [9], for: catalog), of: incarnation)
    }

    @Test("an agent that starts removes what was never acknowledged, and nothing that lost its index")
    func leftOver() async throws {
        let store = MemoryStore()
        let catalog = try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test")
        for number in 1...5 as ClosedRange<UInt64> { try await catalog.store(try piece(number, [UInt8(number)]), of: incarnation) }
        func key(_ number: UInt64, _ rest: String) throws -> ObjectKey {
            try #require(ObjectKey(catalog.dataKey(PieceName(branch: 1, name: hex(number, 24)), of: incarnation).path.dropLast(4) + rest))
        }
        // An index that was lost, a tail of a piece that is closed, and two pieces that a killed agent had not got to.
        await store.remove(try key(3, ".zst.idx"))
        let tail = try key(4, ".0000000000000004-0000000000000005.tail.zst")
        for orphan in [tail, try key(6, ".zst"), try key(7, ".zst")] { try await store.put([1], at: orphan) }
        _ = try await catalog.resume(incarnation, cleaning: true)
        let keys = Set(try await store.listAll(prefix: "log/").map(\.key))
        #expect(keys.contains(try key(3, ".zst")))
        #expect(!keys.contains(tail))
        #expect(!keys.contains(try key(6, ".zst")))
        #expect(!keys.contains(try key(7, ".zst")))
        #expect(keys.count == 9)
    }
}
