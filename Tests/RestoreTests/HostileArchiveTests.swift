import ArchiveCore
import Digests
import ArchiveTesting
import Catalog
import DurableIO
import Glibc
import Pack
import Planner
import Restore
import Source
import SourceGitaly
import Store
import Testing

/// An archive written by somebody who wants a restore to write outside of its directory. Its digests and indexes are in order.
@Suite("A hostile archive")
struct HostileArchiveTests {
    private let directory: TemporaryDirectory
    private let incarnation = IncarnationRecord(
        source: "default", id: "u-0001", kind: "gitaly", identity: "u", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)
    private let kinds: [any ComponentKind] = [GitalyKind()]

    init() throws {
        directory = try TemporaryDirectory()
        try Files.makeDirectory(directory.path + "/outside")
    }

    private var target: String { directory.path + "/target" }

    // MARK: What an attacker writes

    /// A tar header and content, whatever the name.
    private func member(_ name: String, type: UInt8 = 0x30, link: String = "", _ content: [UInt8] = []) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at offset: Int) { for (i, byte) in text.utf8.enumerated() { header[offset + i] = byte } }
        func octal(_ value: Int, _ width: Int) -> String {
            let digits = String(value, radix: 8)
            return String(repeating: "0", count: width - digits.count) + digits
        }
        put(name, at: 0)
        put(octal(0o400, 7), at: 100)
        put(octal(0, 7), at: 108)
        put(octal(0, 7), at: 116)
        put(octal(content.count, 11), at: 124)
        put(octal(0, 11), at: 136)
        header[156] = type
        put(link, at: 157)
        put("ustar", at: 257)
        put("00", at: 263)
        for i in 148..<156 { header[i] = 0x20 }
        put(octal(header.reduce(0) { $0 + Int($1) }, 6), at: 148)
        header[154] = 0
        return header + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    }

    private func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }

    /// A MANIFEST with one operation: link file `1` to `path`.
    private func manifest(linking path: String) -> [UInt8] {
        field(10, field(1, field(1, [0x31]) + field(3, Array(path.utf8))))
    }

    private func entry(_ manifest: [UInt8]) -> [UInt8] {
        member("2/0000000000001/", type: 0x35) + member("2/0000000000001/MANIFEST", manifest) + member("2/0000000000001/1", Array("evil".utf8))
    }

    /// An archive with one base, of `tree`, and one pack with `frame` as its only entry.
    private func archive(tree: [TreeEntry], content: [UInt8] = [], frame: [UInt8]?) async throws -> Catalog {
        let catalog = try await Catalog.create(in: MemoryStore(), at: Moment(rawValue: 0), version: "test")
        try await catalog.record(incarnation)
        var part: [UInt8] = []
        try Zstd.compress(content, into: &part)
        let id = "20260101T000000Z-0000"
        try await catalog.store.put(part, at: catalog.baseKey("part-000001.tar.zst", base: id, of: incarnation))
        let parts = [
            BaseRecord.Part(
                name: "part-000001.tar.zst", offset: 0, length: UInt64(content.count), storedLength: UInt64(part.count),
                sha256: hexText(SHA256.of(part)))
        ]
        _ = try await catalog.record(
            BaseRecord(
                id: id, source: "default", incarnation: incarnation.id, kind: "gitaly", started: Moment(rawValue: 1), completed: Moment(rawValue: 2),
                firstPiece: nil, branch: 0, parts: content.isEmpty ? [] : parts, indexSHA256: "", files: 0, bytes: UInt64(content.count), warnings: [],
                facts: [:]),
            index: TreeIndex(entries: tree, spans: [LogSpan(stream: "2", branch: 0, start: 1, end: 1)]), of: incarnation)
        if let frame {
            let piece = LogPiece(
                name: PieceName(branch: 0, name: hex(1, 16), suffix: "tar.zst"), frames: [frame, [UInt8](repeating: 0, count: 1024)],
                spans: [LogSpan(stream: "2", branch: 0, start: 1, end: 2, lastRecord: 1)],
                events: [LogEvent(span: 0, start: 1, end: 2, time: Moment(rawValue: 3), kind: .commit, frame: 0)], sequence: 1)
            try await catalog.store(try PiecePacker.pack(piece), of: incarnation)
        }
        try await catalog.advanceWatermark(to: Moment(rawValue: 10), replacing: nil, totals: LogTotals(), of: incarnation)
        return catalog
    }

    /// Restores, and says whether anything was written where it must not be.
    private func restore(_ catalog: Catalog) async throws -> RestoreReport {
        let plan = try await PlanLoader(catalog: catalog, kinds: kinds).plan(source: "default", rule: .latest)
        let order = RestoreOrder(plan: plan, directory: target, recover: .none, bindir: nil, fetchCommand: "", mappings: [:])
        return try await RestoreRun(catalog: catalog) { _, _, _ in }.run(order, with: GitalyKind().restoreTarget)
    }

    private func expectRefusal(_ catalog: Catalog, _ code: ArchiveError.Code...) async throws {
        let error = await #expect(throws: ArchiveError.self) { try await restore(catalog) }
        #expect(error.map { code.contains($0.code) } == true, "\(String(describing: error))")
        #expect(try Files.names(in: directory.path) == ["outside"], "something stayed behind")
        #expect(try Files.names(in: directory.path + "/outside").isEmpty, "something was written outside")
    }

    private let repository = [TreeEntry(kind: .directory, path: Array("r".utf8), mode: 0o700)]

    // MARK: Tests

    @Test("what the tests write is restored when it is not hostile")
    func harmless() async throws {
        let catalog = try await archive(tree: repository, frame: entry(manifest(linking: "r/file")))
        _ = try await restore(catalog)
        #expect(try Files.read(target + "/r/file") == Array("evil".utf8))
    }

    @Test("an operation whose path is absolute or leads outside is refused", arguments: ["/outside/x", "../outside/x", "r/../../outside/x", "r//x", "r/./x"])
    func operations(path: String) async throws {
        let path = path.hasPrefix("/") ? directory.path + path : path
        try await expectRefusal(try await archive(tree: repository, frame: entry(manifest(linking: path))), .objectDamaged)
    }

    @Test("a member of a pack whose name is absolute or leads outside is refused", arguments: ["/etc/x", "../x", "2/../../x", "2/0000000000001/../x", "3/0000000000001/1"])
    func members(name: String) async throws {
        let frame = entry(manifest(linking: "r/file")) + member(name, Array("evil".utf8))
        try await expectRefusal(try await archive(tree: repository, frame: frame), .objectDamaged)
    }

    @Test("links and devices in a pack are refused", arguments: [0x31, 0x32, 0x33, 0x34, 0x36] as [UInt8])
    func links(type: UInt8) async throws {
        let frame = entry(manifest(linking: "r/file")) + member("2/0000000000001/2", type: type, link: directory.path + "/outside")
        try await expectRefusal(try await archive(tree: repository, frame: frame), .objectDamaged)
    }

    @Test("nothing is written through a symbolic link of the base")
    func throughBase() async throws {
        let link = TreeEntry(kind: .symlink, path: Array("r/link".utf8), mode: 0o777, target: Array((directory.path + "/outside").utf8))
        try await expectRefusal(try await archive(tree: repository + [link], frame: entry(manifest(linking: "r/link/x"))), .baseUnusable)
    }

    @Test("a base with a path below one of its links or files is refused", arguments: [true, false])
    func treeBelowLink(named: Bool) async throws {
        let link = TreeEntry(kind: .symlink, path: Array("link".utf8), mode: 0o777, target: Array((directory.path + "/outside").utf8))
        // Naming the link as a directory too does not help.
        let directory = named ? [TreeEntry(kind: .directory, path: Array("link".utf8), mode: 0o700)] : []
        let file = TreeEntry(kind: .file, path: Array("link/x".utf8), mode: 0o600, size: 4, offset: 0)
        try await expectRefusal(try await archive(tree: [link] + directory + [file], content: Array("evil".utf8), frame: nil), .objectDamaged)
    }

    @Test("a base's path that leads outside is refused", arguments: ["../outside/x", "/outside/x", "r/../../outside/x"])
    func treePath(path: String) async throws {
        let file = TreeEntry(kind: .file, path: Array(path.utf8), mode: 0o600, size: 4, offset: 0)
        let catalog = try await archive(tree: repository + [file], content: Array("evil".utf8), frame: nil)
        try await expectRefusal(catalog, .objectDamaged)
    }

    @Test("a pack cut off anywhere is refused")
    func truncated() async throws {
        let whole = entry(manifest(linking: "r/file"))
        for count in stride(from: 0, to: whole.count, by: 256) {
            try await expectRefusal(try await archive(tree: repository, frame: Array(whole[..<count])), .objectDamaged)
        }
    }
}
