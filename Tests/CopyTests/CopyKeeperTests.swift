import ArchiveCore
import ArchiveTesting
import Catalog
import DurableIO
import Glibc
import Runtime
import Sidecar
import Store
import Synchronization
import Testing

@Suite("The keeper of a copy")
struct CopyKeeperTests {
    private let primary = MemoryStore()

    private func keeper(_ store: any ObjectStore, memory: CopyKeeper.Memory? = nil) async throws -> CopyKeeper {
        CopyKeeper(primary: try await Catalog.open(primary), copy: store, interval: 0.01, output: Log("test"), memory: memory)
    }

    @Test("makes an empty place a copy, and refuses another archive and a place that holds anything else")
    func places() async throws {
        _ = try await World(in: primary, seed: 1)
        let empty = MemoryStore()
        try await keeper(empty).create()
        #expect(try await empty.get(ObjectKey(known: "tidemark.json")) == primary.get(ObjectKey(known: "tidemark.json")))
        try await keeper(empty).create()
        let other = MemoryStore()
        _ = try await World(in: other, seed: 2)
        let foreign = await #expect(throws: ArchiveError.self) { try await keeper(FaultyStore(other, "s3://other")).create() }
        #expect(foreign?.code == .twoHistories && foreign?.message.contains("s3://other") == true)
        let photos = MemoryStore()
        try await photos.put([1], at: ObjectKey(known: "photos/1.jpg"))
        let full = await #expect(throws: ArchiveError.self) { try await keeper(photos).create() }
        #expect(full?.code == .archiveExists && full?.message.contains("photos/1.jpg") == true)
        // Refusals end it; it is not tried again and again.
        await #expect(throws: ArchiveError.self) { try await keeper(photos).run() }
    }

    @Test("refuses the primary itself under another name, and leaves no probe behind")
    func same() async throws {
        let directory = try TemporaryDirectory()
        try await checkSame(FaultyStore(primary, "http://127.0.0.1"), FaultyStore(primary, "http://localhost"), primary)
        let (path, link) = (directory.path + "/a", directory.path + "/link")
        try #require(symlink(path, link) == 0)
        try await checkSame(FileStore(path: path), FileStore(path: link), FileStore(path: path))
    }

    private func checkSame(_ store: any ObjectStore, _ alias: any ObjectStore, _ plain: any ObjectStore) async throws {
        _ = try await World(in: plain, seed: 1)
        let before = try await plain.listAll(prefix: "").map(\.key)
        let keeper = CopyKeeper(primary: try await Catalog.open(RecentStore(store)), copy: alias, interval: 0.01, output: Log("test"))
        for _ in 0..<2 {
            let error = await #expect(throws: ArchiveError.self) { try await keeper.run() }
            #expect(error?.code == .archiveExists && error?.message.contains("\(alias.description) cannot be a copy: it is the same place as the primary \(store.description)") == true)
        }
        #expect(try await plain.listAll(prefix: "").map(\.key) == before)
    }

    @Test("places whose names say that they share objects are told apart from others")
    func overlaps() throws {
        let directory = try TemporaryDirectory()
        let real = directory.path
        try Files.makeDirectory(real + "/a")
        try #require(symlink(real + "/a", real + "/link") == 0)
        func overlap(_ a: String, _ b: String) throws -> PlaceOverlap? { try StoreLocation(a).overlap(with: StoreLocation(b)) }
        let cases: [(String, PlaceOverlap?)] = [
            ("a/", .same), ("./a", .same), ("b/../a", .same), ("link", .same), ("a/sub", .inside), ("link/new/sub", .inside), ("", .around), ("ab", nil), ("b", nil),
        ]
        for (name, expected) in cases { #expect(try overlap("file://\(real)/\(name)", "file://\(real)/a") == expected, "\(name)") }
        #expect(try overlap("file:///x/new/a", "file:///x/./new/a/") == .same)
        for scheme in ["s3", "gs", "azblob"] {
            #expect(try overlap("\(scheme)://bucket/a/", "\(scheme)://bucket/a") == .same)
            #expect(try overlap("\(scheme)://bucket/a/b", "\(scheme)://bucket/a") == .inside)
            #expect(try overlap("\(scheme)://bucket", "\(scheme)://bucket/a") == .around)
            #expect(try overlap("\(scheme)://bucket/ab", "\(scheme)://bucket/a") == nil)
            #expect(try overlap("\(scheme)://other/a", "\(scheme)://bucket/a") == nil)
        }
    }

    @Test("looks at once for a history that this process begins, not only when it is time for it", .timeLimit(.minutes(10)))
    func begins() async throws {
        let recent = RecentStore(primary)
        _ = try await Catalog.create(in: primary, at: at(0), version: "test")
        let place = FaultyStore(recent, "primary")
        let copy = MemoryStore()
        // The next look would come after an hour.
        let keeper = CopyKeeper(primary: try await Catalog.open(place), copy: copy, interval: 1, seldom: 3600, output: Log("test"), histories: { recent.histories })
        let task = Task { try await keeper.run() }
        while place.count("list") == 0 { try await Task.sleep(for: .milliseconds(5)) }
        let fresh = MemoryStore()
        _ = try await World(in: fresh, seed: 1)
        for (key, bytes) in try await fresh.everything() where key != "tidemark.json" { try await recent.put(bytes, at: ObjectKey(known: key)) }
        #expect(recent.histories == 1)
        while try await copy.listAll(prefix: "sources/").isEmpty { try await Task.sleep(for: .milliseconds(5)) }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
    }

    @Test("does not fill a place that lost its copy again before it is told to")
    func emptied() async throws {
        _ = try await World(in: primary, seed: 1)
        let known = Mutex(false)
        let memory = CopyKeeper.Memory(name: "/state/copies/x", isKnown: { known.withLock { $0 } }, note: { known.withLock { $0 = true } })
        try await keeper(MemoryStore(), memory: memory).create()
        let error = await #expect(throws: ArchiveError.self) { try await keeper(MemoryStore(), memory: memory).create() }
        #expect(error?.code == .storeUnavailable && error?.remedy?.contains("/state/copies/x") == true)
        known.withLock { $0 = false }
        try await keeper(MemoryStore(), memory: memory).create()
    }

    @Test("stops where other bytes lie under a name, keeps both, and says which", arguments: ["zst", "zst.idx"])
    func histories(_ suffix: String) async throws {
        let world = try await World(in: primary, seed: 1)
        try await world.tail()
        try await world.close()
        let copy = MemoryStore()
        let key = try #require(try await primary.listAll(prefix: "log/").map(\.key).first { $0.path.hasSuffix(suffix) })
        try await keeper(copy).create()
        try await copy.put([9, 9], at: key)
        let error = await #expect(throws: ArchiveError.self) { try await keeper(copy).run() }
        #expect(error?.code == .twoHistories && error?.message.contains(key.path) == true)
        #expect(try await copy.get(key) == [9, 9])
        try await world.close()
    }

    @Test("follows its primary, outlives an outage, and ends at once when it is told to", .timeLimit(.minutes(10)))
    func follows() async throws {
        let world = try await World(in: primary, seed: 5)
        let copy = MemoryStore()
        let place = FaultyStore(copy, "copy")
        let keeper = try await keeper(place)
        let task = Task { try await keeper.run() }
        func isLevel() async throws -> Bool {
            func state(_ store: MemoryStore) async throws -> [ObjectKey] {
                try await store.listAll(prefix: "watermarks/").map(\.key) + store.listAll(prefix: "bases/").map(\.key).filter { $0.path.hasSuffix("/base.json") }
            }
            return try await state(primary) == state(copy)
        }
        func wait() async throws { while try await !isLevel() { try await Task.sleep(for: .milliseconds(5)) } }
        try await world.grow(20)
        try await wait()
        place.set { call, _ in call == "put" ? .before : .none }
        // The agent goes on meanwhile as if there were no copy.
        try await world.grow(20)
        #expect(try await !isLevel())
        while place.count("put") == 0 { try await Task.sleep(for: .milliseconds(5)) }
        place.set { _, _ in .none }
        try await wait()
        #expect(try await restored(try await Catalog.open(copy)) == restored(world.catalog))
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
    }

    @Test("reads what was just put from memory, within its limit")
    func recent() async throws {
        let inner = FaultyStore(MemoryStore(), "primary")
        let store = RecentStore(inner, limit: 100)
        let keys = (0..<10).map { ObjectKey(known: "log/main/\($0)") }
        for (n, key) in keys.enumerated() { try await store.put([UInt8](repeating: UInt8(n), count: 30), at: key) }
        #expect(store.changes(of: "main") == 10)
        #expect(store.changes(of: "other") == 0)
        for (n, key) in keys.enumerated() {
            #expect(try await store.get(key) == [UInt8](repeating: UInt8(n), count: 30))
            #expect(try await store.get(key, range: 3..<5) == [UInt8(n), UInt8(n)])
        }
        // Three of thirty bytes fit into a hundred.
        #expect(inner.count("get") == 2 * 7)
        await #expect(throws: ArchiveError.self) { try await store.get(keys[9], range: 20..<31) }
        try await store.put([UInt8](repeating: 1, count: 101), at: ObjectKey(known: "log/main/large"))
        #expect(try await store.get(keys[9]).count == 30)
        try await store.remove(keys[9])
        #expect(try await #require(throws: ArchiveError.self) { try await store.get(keys[9]) }.code == .objectMissing)
        try await store.put([7], at: keys[9])
        #expect(try await store.get(keys[9]) == [7])
    }

    @Test("holds a bounded number of bytes, however slow the copy is")
    func memory() async throws {
        let world = try await World(in: primary, seed: 9)
        for _ in 0..<60 { try await world.close() }
        let flying = Mutex((now: 0, most: 0))
        let copy = SlowStore(MemoryStore(), parallelism: 3) { change in
            flying.withLock {
                $0.now += change
                $0.most = max($0.most, $0.now)
            }
        }
        #expect(try await keeper(copy).catchUp())
        #expect((1...3).contains(flying.withLock { $0.most }))
    }

    @Test("a directory that is gone is not made anew under a store that knew it")
    func directory() async throws {
        let directory = try TemporaryDirectory()
        let store = FileStore(path: directory.path + "/copy")
        try await store.put([1], at: ObjectKey(known: "a/b"))
        try Files.rename(directory.path + "/copy", to: directory.path + "/elsewhere")
        let error = await #expect(throws: ArchiveError.self) { try await store.put([1], at: ObjectKey(known: "a/c")) }
        #expect(error != nil)
        #expect(!Files.exists(directory.path + "/copy"))
        try Files.rename(directory.path + "/elsewhere", to: directory.path + "/copy")
        try await store.put([1], at: ObjectKey(known: "a/c"))
    }

    @Test("a directory that was emptied under a store is named, and not begun anew")
    func emptiedDirectory() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/copy"
        let store = FileStore(path: path)
        try await store.put([1], at: ObjectKey(known: "a/b"))
        try Files.removeTree(path)
        try Files.makeDirectory(path)
        let error = await #expect(throws: ArchiveError.self) { try await store.put([1], at: ObjectKey(known: "a/c")) }
        #expect(error?.code == .storeUnavailable && error?.message.contains("'\(path)' was emptied") == true && error?.remedy != nil)
        #expect(try Files.names(in: path).isEmpty)
    }
}

/// Tells when a put of content begins and ends, and takes its time.
private final class SlowStore: ObjectStore {
    private let inner: MemoryStore
    private let tell: @Sendable (Int) -> Void
    let parallelism: Int
    let description = "slow"

    init(_ inner: MemoryStore, parallelism: Int, tell: @escaping @Sendable (Int) -> Void) {
        self.inner = inner
        self.parallelism = parallelism
        self.tell = tell
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        guard key.path.hasSuffix(".zst"), key.path.hasPrefix("log/") else { return try await inner.put(bytes, at: key) }
        tell(1)
        defer { tell(-1) }
        for _ in 0..<5 { await Task.yield() }
        try await inner.put(bytes, at: key)
    }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await inner.get(key, range: range) }
    func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] { await inner.list(prefix: prefix, after: key, limit: limit) }
    func folders(below prefix: String) async throws -> [String] { await inner.folders(below: prefix) }
    func remove(_ key: ObjectKey) async throws { await inner.remove(key) }
}
