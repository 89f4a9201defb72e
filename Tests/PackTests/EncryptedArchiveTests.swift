import ArchiveCore
import ArchiveTesting
import Digests
import Source
import Store
import Synchronization
import Testing

@testable import Catalog
@testable import Pack

/// Counts what is read, and fails one write that is chosen.
private final class WatchedStore: ObjectStore, @unchecked Sendable {
    // The lock protects both.
    private let state = Mutex<(read: UInt64, failing: String?)>((0, nil))
    let inner = MemoryStore()

    var bytesRead: UInt64 { state.withLock { $0.read } }
    func failNextPut(of suffix: String) { state.withLock { $0.failing = suffix } }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        let fails = state.withLock { state in
            guard let suffix = state.failing, key.path.hasSuffix(suffix) else { return false }
            state.failing = nil
            return true
        }
        if fails { throw ArchiveError(.storeUnavailable, "The store was told to fail.") }
        try await inner.put(bytes, at: key)
    }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        let bytes = try await inner.get(key, range: range)
        state.withLock { $0.read += UInt64(bytes.count) }
        return bytes
    }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
    var description: String { "watched" }
}

@Suite("An encrypted archive")
struct EncryptedArchiveTests {
    private let incarnation = IncarnationRecord(
        source: "default", id: "u-0001", kind: "gitaly", identity: "u", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)
    private let alice = AgeIdentity.generate()
    private let bob = AgeIdentity.generate()
    private let repository = "@hashed/6b/86/6b86b273.git"
    private let reference = "refs/heads/secret-plan 0123456789abcdef"

    private func create(_ store: any ObjectStore = MemoryStore()) async throws -> Catalog {
        try await Catalog.create(in: store, at: Moment(rawValue: 0), version: "test", keys: ArchiveKeys(recipients: [alice.recipient, bob.recipient]))
    }
    private func reopen(_ catalog: Catalog, _ identities: AgeIdentity...) async throws -> Catalog {
        try await Catalog.open(catalog.store, keys: ArchiveKeys(recipients: catalog.keys.recipients, identities: identities))
    }

    private func piece(_ number: UInt64, frames: Int = 3, size: Int = 100, seed: UInt64 = 1) -> LogPiece {
        LogPiece(
            name: PieceName(branch: 0, name: hex(number, 16), suffix: "tar.zst"),
            frames: (0..<frames).map { AgeTests.content(size, seed: seed + number * 1000 + UInt64($0)) } + [[0]],
            spans: [LogSpan(stream: "2", branch: 0, start: number * 10, end: number * 10 + UInt64(frames), lastRecord: number * 10)],
            events: (0..<frames).map { n in
                LogEvent(
                    span: 0, start: number * 10 + UInt64(n), end: number * 10 + UInt64(n) + 1, time: Moment(rawValue: 5), kind: .commit,
                    flags: n == 1 ? [.created, .unresolvedLink] : [], subject: repository, details: n == 0 ? [reference] : [], frame: n)
            } + [
                LogEvent(span: 0, start: 1, end: 2, time: Moment(rawValue: 5), kind: .restorePoint, subject: "before-upgrade"),
                LogEvent(span: 0, start: 1, end: 2, time: Moment(rawValue: 0), kind: .fence, subject: "fence-1", details: ["digest"]),
            ], sequence: number)
    }

    private func contains(_ bytes: [UInt8], _ text: String) -> Bool {
        let wanted = Array(text.utf8)
        return bytes.count >= wanted.count && (0...bytes.count - wanted.count).contains { bytes[$0] == wanted[0] && Array(bytes[$0..<$0 + wanted.count]) == wanted }
    }

    @Test("tidemark.json says how it is encrypted, and of a plain archive not a word")
    func identity() async throws {
        let catalog = try await create()
        let key = ObjectKey(known: "tidemark.json")
        let text = String(decoding: try await catalog.store.get(key), as: UTF8.self)
        #expect(text.contains(#""format" : 2"#) && text.contains(alice.recipient.description) && text.contains(bob.recipient.description))
        #expect(catalog.identity == (try await Catalog.open(catalog.store)).identity)
        let plain = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        let record = String(decoding: try await plain.store.get(key), as: UTF8.self)
        #expect(record.contains(#""format" : 1"#) && !record.contains("encryption"))
        // Somebody took the word about encryption out.
        for (changed, code) in [
            (text.replacing(#""format" : 2"#, with: #""format" : 1"#), ArchiveError.Code.archiveDamaged),
            (record.replacing(#""format" : 1"#, with: #""format" : 2"#), .archiveDamaged), (text.replacing(#""age""#, with: #""rot13""#), .archiveNewer),
        ] {
            let store = MemoryStore()
            try await store.put(Array(changed.utf8), at: key)
            let refusal = await #expect(throws: ArchiveError.self) { try await Catalog.open(store) }
            #expect(refusal?.code == code)
        }
    }

    @Test("who writes has to want what the archive is")
    func writers() async throws {
        let catalog = try await create()
        try catalog.checkWriter()
        let without = #expect(throws: ArchiveError.self) { try Catalog(store: catalog.store, identity: catalog.identity, keys: ArchiveKeys()).checkWriter() }
        #expect(without?.code == .encryptionDiffers && without?.code.exitStatus == 3)
        #expect(without?.remedy?.contains(alice.recipient.description) == true)
        let plain = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        try plain.checkWriter()
        let with = try await Catalog.open(plain.store, keys: catalog.keys)
        #expect(throws: ArchiveError.self) { try with.checkWriter() }
        #expect(throws: ArchiveError.self) { try Catalog(store: catalog.store, identity: catalog.identity, keys: ArchiveKeys()).pack(piece(1)) }
    }

    @Test("a piece is an age file for every recipient, and its index names nothing that is secret")
    func pieces() async throws {
        let catalog = try await create()
        let piece = piece(1)
        let packed = try catalog.pack(piece)
        try await catalog.store(packed, of: incarnation)
        let keys = try await catalog.store.listAll(prefix: "log/").map(\.key.path)
        let name = "log/default/u-0001/00000000/0000000000000/0000000000000001.tar.zst.age"
        #expect(keys == [name, name + ".idx"])
        let object = try await catalog.store.get(ObjectKey(known: name))
        for identity in [alice, bob] {
            #expect(try PiecePacker.frames(of: try Age.open(object, with: [identity], of: name)).contents == piece.frames)
        }
        let stored = try await catalog.store.get(ObjectKey(known: name + ".idx"))
        for text in [repository, "6b86b273", "secret-plan", "0123456789abcdef"] { #expect(!contains(stored, text)) }
        for text in ["before-upgrade", "fence-1", "digest"] { #expect(contains(stored, text)) }

        let locked = try await catalog.index(of: packed.name, of: incarnation)
        #expect(locked.events.map(\.start) == piece.events.map(\.start) && locked.events.allSatisfy { !$0.subject.contains("hashed") })
        #expect(locked.storedLength == UInt64(object.count) && locked.storedSHA256 == SHA256.of(object))
        let opened = try await reopen(catalog, .generate(), bob).index(of: packed.name, of: incarnation, names: .required)
        #expect(opened == packed.index)
        for (identities, code) in [([], ArchiveError.Code.keyMissing), ([AgeIdentity.generate()], .keyWrong)] {
            let reader = try await Catalog.open(catalog.store, keys: ArchiveKeys(identities: identities))
            let refusal = await #expect(throws: ArchiveError.self) { try await reader.index(of: packed.name, of: incarnation, names: .required) }
            #expect(refusal?.code == code)
            #expect(try await reader.index(of: packed.name, of: incarnation) == locked)
            let content = await #expect(throws: ArchiveError.self) { try await reader.read(packed.name, index: locked, of: incarnation) }
            #expect(content?.code == code)
            let part = await #expect(throws: ArchiveError.self) { try await reader.read(packed.name, index: locked, frames: [0], of: incarnation) }
            #expect(part?.code == code)
        }
        #expect(try await reopen(catalog, alice).read(packed.name, index: locked, of: incarnation) == piece.frames)
    }

    @Test("what an agent counts without an identity is what it counted when it had the log in hand")
    func totals() async throws {
        let catalog = try await create()
        var known = Checkpoint()
        for number in 1...4 as ClosedRange<UInt64> {
            let packed = try catalog.pack(piece(number))
            try await catalog.store(packed, of: incarnation)
            known.add(packed.name, packed.index)
        }
        #expect(known.totals.pushes == 4 && known.totals.created == 4 && known.totals.commits == 12)
        let (state, checkpoint) = try await catalog.resume(incarnation, cleaning: true)
        #expect(checkpoint == known)
        #expect(state.content == nil)
        #expect(try await reopen(catalog, alice).resume(incarnation, cleaning: false).state.content != nil)
        // Chapters that are made with the log in hand, and ones made from the indexes, have the same and no names.
        var keeper = ChapterKeeper(maximumPieces: 2)
        var written: [Chapter] = []
        for number in 1...4 as ClosedRange<UInt64> {
            let packed = try catalog.pack(piece(number))
            written += keeper.add(PieceSummary(packed.name, packed.index))
        }
        for chapter in written { try await catalog.record(chapter, of: incarnation) }
        let before = try await catalog.store.listAll(prefix: "chapters/").map(\.key)
        #expect(before.count == 2)
        var contents: [[UInt8]] = []
        for key in before {
            let content = try Zstd.decompress(try await catalog.store.get(key)[...], limit: 1 << 20)
            #expect(!contains(content, "hashed") && !contains(content, "secret-plan") && contains(content, "before-upgrade"))
            contents.append(content)
        }
        try await catalog.store.remove(before)
        _ = try await catalog.resumeChapters(of: incarnation, maximumPieces: 2)
        for (key, content) in zip(before, contents) { #expect(try Zstd.decompress(try await catalog.store.get(key)[...], limit: 1 << 20) == content) }
    }

    @Test("single frames are read from the chunks that hold them")
    func ranges() async throws {
        let store = WatchedStore()
        let catalog = try await create(store)
        let piece = piece(1, frames: 40, size: 50_000)
        let packed = try catalog.pack(piece)
        try await catalog.store(packed, of: incarnation)
        let reader = try await reopen(catalog, bob)
        let index = try await reader.index(of: packed.name, of: incarnation, names: .required)
        for wanted in [[0], [39], [40], [7], [1, 2, 3], [0, 20, 39], [5, 30, 31], [3, 2], Array(0...40), []] {
            let before = store.bytesRead
            #expect(try await reader.read(packed.name, index: index, frames: wanted, of: incarnation) == wanted.map { piece.frames[$0] }, "\(wanted)")
            // Each run of neighbours lies in its own bytes and a part of a chunk on either side.
            let most = index.headerLength + UInt64(wanted.count) * (50_100 + 2 * 65_552)
            #expect(store.bytesRead - before <= min(most, index.storedLength + index.headerLength), "\(wanted)")
        }
        // An index that says something else of the content is noticed.
        for change in [{ $0.headerLength = 0 }, { $0.headerLength += 1 }, { $0.headerLength = .max }, { $0.frames[7].offset = .max }, { $0.frames[7].length = .max }, { $0.frames[7].offset += 1 }, { $0.storedLength += 70_000 }] as [(inout PieceIndex) -> Void] {
            var wrong = index
            change(&wrong)
            let damage = await #expect(throws: ArchiveError.self) { try await reader.read(packed.name, index: wrong, frames: [7, 40], of: incarnation) }
            #expect(damage?.code == .objectDamaged)
        }
    }

    @Test("an agent that was killed or failed between content and index goes on, though it encrypts with other keys")
    func orphans() async throws {
        let store = WatchedStore()
        let catalog = try await create(store)
        try await catalog.store(try catalog.pack(piece(1)), of: incarnation)
        store.failNextPut(of: ".idx")
        await #expect(throws: ArchiveError.self) { try await catalog.store(try catalog.pack(piece(2)), of: incarnation) }
        #expect(try await store.listAll(prefix: "log/").count == 3)
        // What every start of the shipping does.
        _ = try await catalog.resume(incarnation, cleaning: true)
        #expect(try await store.listAll(prefix: "log/").count == 2)
        try await catalog.store(try catalog.pack(piece(2)), of: incarnation)
        // A piece that was archived, and of which that was not heard.
        try await catalog.store(try catalog.pack(piece(2)), of: incarnation)
        let read = try await reopen(catalog, alice).index(of: piece(2).name, of: incarnation, names: .required)
        #expect(try await reopen(catalog, alice).read(piece(2).name, index: read, of: incarnation) == piece(2).frames)
        let other = await #expect(throws: ArchiveError.self) { try await catalog.store(try catalog.pack(piece(2, seed: 9)), of: incarnation) }
        #expect(other?.code == .twoHistories)
    }

    @Test("keys rotate: each piece is for those who were recipients when it was archived")
    func rotation() async throws {
        let carol = AgeIdentity.generate()
        let first = try await create()
        try await first.store(try first.pack(piece(1)), of: incarnation)
        let second = try await Catalog.open(first.store, keys: ArchiveKeys(recipients: [carol.recipient]))
        try await second.store(try second.pack(piece(2)), of: incarnation)
        func opens(_ number: UInt64, _ identities: AgeIdentity...) async throws -> Bool {
            let reader = try await Catalog.open(first.store, keys: ArchiveKeys(identities: identities))
            do {
                let index = try await reader.index(of: piece(number).name, of: incarnation, names: .required)
                return try await reader.read(piece(number).name, index: index, of: incarnation) == piece(number).frames
            } catch let error as ArchiveError where error.code == .keyWrong { return false }
        }
        #expect(try await opens(1, alice))
        #expect(try await opens(1, bob))
        #expect(try await !opens(1, carol))
        #expect(try await opens(2, carol))
        #expect(try await !opens(2, alice))
        #expect(try await opens(1, carol, bob))
        #expect(try await opens(2, alice, carol))
    }

    // MARK: Bases

    private func base(_ catalog: Catalog, warnings: [String]) async throws -> BaseRecord {
        let id = "20260101T000000Z-0000"
        let content = AgeTests.content(200_000)
        let (object, suffix) = try catalog.pack(part: content)
        #expect(suffix == ".tar.zst.age")
        try await catalog.store.put(object, at: catalog.baseKey("part-000001" + suffix, base: id, of: incarnation))
        return try await catalog.record(
            BaseRecord(
                id: id, source: "default", incarnation: incarnation.id, kind: "gitaly", started: Moment(rawValue: 1), completed: Moment(rawValue: 2),
                firstPiece: nil, branch: 0,
                parts: [.init(name: "part-000001" + suffix, offset: 0, length: UInt64(content.count), storedLength: UInt64(object.count), sha256: hexText(SHA256.of(object)))],
                indexSHA256: "", files: 1, bytes: 1, warnings: warnings, facts: [:]),
            index: TreeIndex(entries: [TreeEntry(kind: .file, path: Array(repository.utf8), mode: 0o600)], spans: [LogSpan(stream: "2", branch: 0, start: 10, end: 12)]), of: incarnation)
    }

    @Test("a base's parts, paths and warnings are encrypted; its record and windows are not")
    func bases() async throws {
        let catalog = try await create()
        let base = try await base(catalog, warnings: ["'\(repository)/x' became shorter"])
        #expect(base.warnings == ["'\(repository)/x' became shorter"])
        let folder = "bases/default/u-0001/20260101T000000Z-0000/"
        let keys = try await catalog.store.listAll(prefix: folder).map { String($0.key.path.dropFirst(folder.utf8.count)) }
        #expect(keys == ["base.json", "index.zst.age", "part-000001.tar.zst.age", "spans.zst", "warnings.txt.age"])
        for key in keys { #expect(!contains(try await catalog.store.get(ObjectKey(known: folder + key)), "hashed"), "\(key)") }
        let read = try #require(try await catalog.bases(of: incarnation).first)
        #expect(read.warnings == ["1 warning, encrypted in warnings.txt.age"])
        #expect(try await catalog.spans(of: read, in: incarnation).count == 1)
        for (identities, code) in [([], ArchiveError.Code.keyMissing), ([AgeIdentity.generate()], .keyWrong)] {
            let reader = try await Catalog.open(catalog.store, keys: ArchiveKeys(identities: identities))
            let paths = await #expect(throws: ArchiveError.self) { try await reader.treeIndex(of: read, in: incarnation) }
            let part = await #expect(throws: ArchiveError.self) { try await reader.read(read.parts[0], of: read, in: incarnation) }
            let proof = await #expect(throws: ArchiveError.self) { try await reader.proveIdentity(by: read, in: incarnation) }
            #expect(paths?.code == code && part?.code == code && proof?.code == code)
        }
        let reader = try await reopen(catalog, bob)
        try await reader.proveIdentity(by: read, in: incarnation)
        #expect(try await reader.treeIndex(of: read, in: incarnation).entries.count == 1)
        #expect(try await reader.read(read.parts[0], of: read, in: incarnation) == AgeTests.content(200_000))
    }

    @Test("verify proves what is at rest without an identity, and what it means with one")
    func verify() async throws {
        let catalog = try await create()
        try await catalog.record(incarnation)
        for number in 1...2 as ClosedRange<UInt64> { try await catalog.store(try catalog.pack(piece(number, frames: 10)), of: incarnation) }
        _ = try await base(catalog, warnings: [])
        func verify(_ identities: [AgeIdentity]) async throws -> VerifyReport {
            let reader = try await Catalog.open(catalog.store, keys: ArchiveKeys(identities: identities))
            return try #require(try await reader.verify(source: "default", kinds: [], options: VerifyOptions(contents: true)).first)
        }
        for identities in [[], [alice]] {
            let report = try await verify(identities)
            #expect(report.findings.isEmpty, "\(report.findings)")
            #expect(report.provenPieces == 2 && report.provenParts == 1 && report.isAtRestOnly == identities.isEmpty)
        }
        let wrong = await #expect(throws: ArchiveError.self) { try await verify([.generate()]) }
        #expect(wrong?.code == .keyWrong)
        let reindex = await #expect(throws: ArchiveError.self) {
            try await catalog.verify(source: "default", kinds: [], options: VerifyOptions(reindex: true))
        }
        #expect(reindex?.code == .keyMissing)
        for (key, code) in [
            (catalog.dataKey(piece(2).name, of: incarnation), VerifyFinding.Code.contentDamaged),
            (catalog.baseKey("part-000001.tar.zst.age", base: "20260101T000000Z-0000", of: incarnation), .baseDamaged),
            (catalog.baseKey("index.zst.age", base: "20260101T000000Z-0000", of: incarnation), .baseDamaged),
        ] {
            let whole = try await catalog.store.get(key)
            for at in [10, whole.count / 2, whole.count - 1] {
                var bytes = whole
                bytes[at] ^= 1
                try await catalog.store.remove(key)
                try await catalog.store.put(bytes, at: key)
                for identities in [[], [bob]] { #expect(try await verify(identities).findings.map(\.code) == [code], "\(key) at \(at)") }
            }
            try await catalog.store.remove(key)
            try await catalog.store.put(whole, at: key)
        }
    }

    @Test("names that are taken out of an index are put back as they were, and into no other index")
    func names() throws {
        var random = SeededRandom(seed: 3)
        for _ in 0..<200 {
            let whole = PieceIndex(
                spans: [LogSpan(stream: "s", branch: 0, start: 0, end: 100)],
                events: (0..<Int.random(in: 0...8, using: &random)).map { n in
                    let kind = LogEvent.Kind(rawValue: .random(in: 1...6, using: &random))
                    return LogEvent(
                        span: 0, start: UInt64(n), end: UInt64(n) + 1, time: Moment(rawValue: 1), kind: kind,
                        subject: Bool.random(using: &random) ? "" : "name \(n)", details: (0..<Int.random(in: 0...2, using: &random)).map { $0 == 0 ? "" : "detail \(n)" })
                }, frames: [], storedLength: 1, storedSHA256: [UInt8](repeating: 0, count: 32))
            var index = whole
            guard let names = index.takeNames() else {
                #expect(index == whole)
                continue
            }
            #expect(index.events.allSatisfy { $0.kind == .restorePoint || $0.kind == .fence || $0.subject.isEmpty && $0.details.isEmpty })
            var read = try PieceIndex(decoding: index.encoded())
            try read.putNames(names)
            #expect(read == whole)
            #expect(throws: WireError.self) { try read.putNames(names) }
            var shorter = index
            shorter.events = []
            #expect(throws: WireError.self) { try shorter.putNames(names) }
        }
    }
}
