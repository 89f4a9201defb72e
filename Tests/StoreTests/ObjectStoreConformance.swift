import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Store
import Testing

enum StoreUnderTest: String, CaseIterable, Sendable {
    case memory, file
    /// By moto; and as a server that does not know conditions.
    case s3, s3WithoutConditions
    /// Google Cloud Storage, by two emulators: one honours conditions, the other does not.
    case gcs, gcsWithoutConditions
    case azure, azureWithoutConditions
    func make(in directory: TemporaryDirectory) async throws -> any ObjectStore {
        switch self {
        case .memory: MemoryStore()
        case .file: FileStore(path: directory.path + "/archive")
        case .s3: try await S3Server.shared().store()
        case .s3WithoutConditions:
            try await { server in try server.store(transport: { DeafTransport(inner: $0, header: "if-none-match", server: server) }) }(S3Server.shared())
        case .gcs: try await CloudPlace(.fakeGCS).store()
        case .gcsWithoutConditions: try await CloudPlace(.gcpEmulator).store()
        case .azure: try await CloudPlace(.azure).store()
        case .azureWithoutConditions: try await CloudPlace(.azureWithoutConditions).store()
        }
    }
}

/// What every store promises. A new store is one more case here, and is done when this suite is green.
@Suite("Every object store")
struct ObjectStoreConformance {
    let directory: TemporaryDirectory
    init() throws { directory = try TemporaryDirectory() }
    private let key = ObjectKey(known: "a/b/c.zst")

    @Test("takes the same bytes twice and refuses others", arguments: StoreUnderTest.allCases)
    func putOnce(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        try await store.put([1, 2, 3], at: key)
        try await store.put([1, 2, 3], at: key)
        for other in [[9], [1, 2, 4], [], [1, 2, 3, 4]] as [[UInt8]] {
            let refusal = await #expect(throws: ArchiveError.self) { try await store.put(other, at: key) }
            #expect(refusal?.code == .objectExists)
        }
        #expect(try await store.get(key) == [1, 2, 3])
    }

    @Test("lets exactly one of many writers win", arguments: StoreUnderTest.allCases)
    func race(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        let winners = await withTaskGroup(of: UInt8?.self) { group in
            for i in 0..<16 as Range<UInt8> {
                group.addTask { do { try await store.put([i], at: self.key); return i } catch { return nil } }
            }
            return await group.reduce(into: [UInt8]()) { if let w = $1 { $0.append(w) } }
        }
        #expect(winners.count == 1)
        #expect(try await store.get(key) == winners)
    }

    @Test("reads ranges and refuses those beyond the end", arguments: StoreUnderTest.allCases)
    func ranges(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        try await store.put(Array(0..<100), at: key)
        #expect(try await store.get(key, range: 10..<13) == [10, 11, 12])
        #expect(try await store.get(key, range: 5..<5) == [])
        await #expect(throws: ArchiveError.self) { try await store.get(key, range: 90..<101) }
        let missing = await #expect(throws: ArchiveError.self) { try await store.get(ObjectKey(known: "a/b/d")) }
        #expect(missing?.code == .objectMissing)
    }

    @Test("lists in byte order, page by page, and forgets what was removed", arguments: StoreUnderTest.allCases)
    func lists(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        let keys = ["a", "a-b/x", "a.b", "a/b", "a/b.c", "a/b/", "a0", "b/1", "b/10", "b/2", "b/2.tail", "c"]
            .filter { !$0.hasSuffix("/") && $0 != "a" && $0 != "a/b" }.map(ObjectKey.init(known:))
        for key in keys.shuffled() { try await store.put([1, 2], at: key) }
        #expect(try await store.listAll(prefix: "").map(\.key) == keys.sorted())
        #expect(try await store.listAll(prefix: "b/").map(\.key.path) == ["b/1", "b/10", "b/2", "b/2.tail"])
        #expect(try await store.listAll(prefix: "b/1").map(\.key.path) == ["b/1", "b/10"])
        #expect(try await store.listAll(prefix: "b/", after: "b/10").map(\.key.path) == ["b/2", "b/2.tail"])
        #expect(try await store.listAll(prefix: "zz").isEmpty)
        var paged: [ObjectKey] = []
        while let page = try? await store.list(prefix: "", after: paged.last?.path, limit: 2), !page.isEmpty {
            #expect(page.allSatisfy { $0.size == 2 })
            paged += page.map(\.key)
        }
        #expect(paged == keys.sorted())
        // Whatever the prefix and the place to go on from, names alone are the same ones.
        for prefix in ["", "a", "a/", "a/b", "a-b/", "b/1", "b/2.", "b", "c", "d/", "a/b/c/"] {
            for after in [nil, "", "a", "a/", "a/b", "a/b.c", "a.b", "a0", "b/", "b/1", "b/10", "b/19", "b/2/x", "c", "z"] as [String?] {
                let expected = keys.sorted().filter { key in key.path.hasPrefix(prefix) && after.map { $0.utf8.lexicographicallyPrecedes(key.path.utf8) } ?? true }
                for limit in [1, 3, 100] {
                    #expect(try await store.keys(prefix: prefix, after: after, limit: limit) == Array(expected.prefix(limit)), "\(prefix) \(after ?? "-") \(limit)")
                    #expect(try await store.list(prefix: prefix, after: after, limit: limit).map(\.key) == Array(expected.prefix(limit)))
                }
            }
        }
        #expect(try await store.keys(prefix: "", after: nil, limit: 0) == [])
        try await store.remove(ObjectKey(known: "b/10"))
        try await store.remove(ObjectKey(known: "b/10"))
        #expect(try await store.listAll(prefix: "b/1").map(\.key.path) == ["b/1"])
    }

    @Test("takes nothing at all, and many MiB of what looks like the end of an upload", arguments: StoreUnderTest.allCases)
    func sizes(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        let line = Array("\r\n--boundary--\r\n\0\n".utf8)
        var large = line
        while large.count < 10 << 20 { large += large }
        for (name, bytes) in [("empty", []), ("large", large), ("newline", [10])] as [(String, [UInt8])] {
            let key = ObjectKey(known: name)
            try await store.put(bytes, at: key)
            #expect(try await store.get(key) == bytes)
        }
        #expect(try await store.get(ObjectKey(known: "large"), range: 5_000_000..<15_000_000) == Array(large[5_000_000..<15_000_000]))
        #expect(try await store.list(prefix: "", after: nil, limit: 10).map(\.size) == [0, UInt64(large.count), 1])
    }

    @Test("names the folders below a prefix", arguments: StoreUnderTest.allCases)
    func folders(_ kind: StoreUnderTest) async throws {
        let store = try await kind.make(in: directory)
        for key in ["a/2/x", "a/10/x", "a/10/y", "a/file", "a/3/deep/x", "b/9/x"] { try await store.put([1], at: ObjectKey(known: key)) }
        #expect(try await store.folders(below: "a/") == ["10", "2", "3"])
        #expect(try await store.folders(below: "a/3/") == ["deep"])
        #expect(try await store.folders(below: "nothing/") == [])
    }
}

@Suite("The archive in a directory")
struct FileStoreTests {
    let directory: TemporaryDirectory
    init() throws { directory = try TemporaryDirectory() }

    @Test("removes what a dead process left unfinished, and not what a living one is writing")
    func abandoned() async throws {
        let root = directory.path
        try Files.makeDirectory(root + "/.tmp/dead")
        try Files.writeDurably([1], to: root + "/.tmp/dead/1")
        let living = FileStore(path: root)
        try await living.put([1], at: ObjectKey(known: "x"))
        #expect(!Files.exists(root + "/.tmp/dead"))
        let folders = try Files.names(in: root + "/.tmp")
        try await FileStore(path: root).put([2], at: ObjectKey(known: "y"))
        for folder in folders { #expect(Files.exists(root + "/.tmp/" + folder)) }
        try await living.put([3], at: ObjectKey(known: "z"))
    }

    @Test("what is neither an object nor a folder of objects is not listed")
    func strangers() async throws {
        let root = directory.path
        let store = FileStore(path: root)
        try await store.put([1], at: ObjectKey(known: "a/b"))
        try Files.makeDirectory(root + "/empty")
        #expect(symlink(root + "/a/b", root + "/a/link") == 0)
        #expect(mkfifo(root + "/a/pipe", 0o600) == 0)
        try Files.writeDurably([1], to: root + "/a/not a key")
        #expect(try await store.listAll(prefix: "").map(\.key.path) == ["a/b"])
        #expect(try await store.keys(prefix: "a/", after: nil, limit: 10).map(\.path) == ["a/b"])
        #expect(try await store.keys(prefix: "a/b/", after: nil, limit: 10) == [])
        try Files.makeDirectory(root + "/x/emptied")
        try await store.put([1], at: ObjectKey(known: "x/full/b"))
        #expect(try await store.folders(below: "x/") == ["full"])
    }

    @Test("many begin at the same moment, and none takes another's unfinished files for abandoned")
    func beginTogether() async throws {
        for round in 0..<20 {
            let root = directory.path + "/round\(round)"
            try await withThrowingTaskGroup(of: Void.self) { group in
                for i in 0..<8 as Range<UInt8> {
                    group.addTask {
                        // Stores of their own, as processes would have, and two puts of each at once.
                        let store = FileStore(path: root)
                        async let first: Void = store.put([i], at: ObjectKey(known: "a/\(i)"))
                        async let second: Void = store.put([i], at: ObjectKey(known: "b/\(i)"))
                        _ = try await (first, second)
                    }
                }
                try await group.waitForAll()
            }
            #expect(try await FileStore(path: root).listAll(prefix: "").count == 16)
        }
    }

    @Test("a place that cannot be written is named with its reason")
    func unwritable() async throws {
        try Files.writeDurably([1], to: directory.path + "/file")
        let error = await #expect(throws: ArchiveError.self) {
            try await FileStore(path: self.directory.path + "/file").put([1], at: ObjectKey(known: "a/b"))
        }
        #expect(error?.description.contains("/file") == true)
    }

    @Test("only absolute file URLs name an archive in a directory", arguments: [
        "", "archive", "/srv/x", "file://", "file://x", "file:///", "file:///a?b",
    ])
    func locations(_ url: String) { #expect(throws: ArchiveError.self) { try StoreLocation(url) } }
}
