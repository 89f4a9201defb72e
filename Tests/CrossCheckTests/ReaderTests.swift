import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Testing

@testable import CrossCheck

private let nowhere = String(repeating: "12", count: 20)

@Suite("Looking into restored repositories")
struct ReaderTests {
    private let world: GitWorld
    private var storage: RestoredStorage { RestoredStorage(root: world.storage) }

    init() throws { world = try GitWorld() }

    private func reader(_ path: String) throws -> RepositoryReader {
        guard case .repository(let directory) = try storage.locate(path) else { throw ArchiveError(.inputOutput, "\(path) is not there") }
        return try RepositoryReader(directory, in: storage)
    }

    @Test("loose and packed objects are there, others are missing, and a damaged one is told apart")
    func objects() throws {
        let path = try world.make("a/b.git")
        let packed = try world.commit(path, "one")
        try world.pack(path)
        let loose = try world.commit(path, "two", parent: packed)
        #expect(try reader(path).states(of: [packed, loose, nowhere]) == [.present, .present, .missing])
        let file = "\(world.storage)/\(path)/objects/\(loose.prefix(2))/\(loose.dropFirst(2))"
        #expect(chmod(file, 0o600) == 0)
        try Descriptor(file, O_WRONLY | O_TRUNC).write(Array("rubbish".utf8))
        guard case .damaged = try reader(path).states(of: [loose])[0] else {
            Issue.record("damage was not seen")
            return
        }
    }

    @Test("references: equal, reached, through a tag, elsewhere, missing", arguments: ["sha1", "sha256"])
    func references(_ format: String) throws {
        let path = try world.make("r.git", "--object-format=\(format)")
        let first = try world.commit(path, "one")
        let second = try world.commit(path, "two", parent: first)
        let other = try world.commit(path, "other", on: "refs/heads/other")
        let tag = try world.git(path, "mktag", input: "object \(second)\ntype commit\ntag v1\ntagger T <t@example.org> 1700000000 +0000\n\nv1\n")
        try world.git(path, "update-ref", "refs/tags/v1", tag)
        try world.git(path, "pack-refs", "--all")
        let reader = try reader(path)
        #expect(reader.idLength == (format == "sha1" ? 40 : 64))
        #expect(try reader.states(of: [first, second, other, tag, String(repeating: "12", count: reader.idLength / 2)]) == [.present, .present, .present, .present, .missing])
        #expect(reader.state(of: "refs/heads/main", id: second) == .holds)
        #expect(reader.state(of: "refs/heads/main", id: first) == .holds)
        #expect(reader.state(of: "HEAD", id: first) == .holds)
        #expect(reader.state(of: "refs/tags/v1", id: tag) == .holds)
        #expect(reader.state(of: "refs/tags/v1", id: first) == .holds)
        #expect(reader.state(of: "refs/heads/main", id: other) == .other)
        #expect(reader.state(of: "refs/heads/no", id: first) == .missing)
    }

    @Test("objects of a reftable repository are read; its references, when this Git cannot, are unknown and never missing")
    func reftable() throws {
        let path = try world.make("t.git")
        let id = try world.commit(path, "one")
        let file = try Descriptor("\(world.storage)/\(path)/config", O_WRONLY | O_APPEND)
        try file.write(Array("[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = reftable\n".utf8))
        let reader = try reader(path)
        #expect(try reader.states(of: [id, nowhere]) == [.present, .missing])
        switch reader.state(of: "refs/heads/main", id: id) {
        case .unknown, .holds: break
        case let other: Issue.record("\(other)")
        }
    }

    @Test("alternates: one that resolves, one that is missing, one that leads out, one through a link")
    func alternates() throws {
        let pool = try world.make("@pools/p.git")
        let pooled = try world.commit(pool, "one")
        func member(_ name: String, _ line: String) throws -> String {
            let path = try world.make(name)
            try Files.writeDurably(Array((line + "\n").utf8), to: "\(world.storage)/\(path)/objects/info/alternates")
            return path
        }
        let good = try member("@hashed/good.git", "../../../@pools/p.git/objects")
        #expect(try reader(good).states(of: [pooled, nowhere]) == [.present, .missing])
        #expect(symlink("/etc", "\(world.storage)/link") == 0)
        for (name, line) in [
            ("broken", "../../../@pools/gone.git/objects"), ("absolute", "\(world.storage)/@pools/p.git/objects"),
            ("out", "../../../../../etc"), ("link", "../../../link/x.git/objects"),
        ] {
            let path = try member("@hashed/\(name).git", line)
            #expect(throws: ArchiveError.self) { try reader(path) }
        }
    }

    @Test("no path leads out of the storage or through a symbolic link")
    func paths() throws {
        let outside = try world.make("../outside.git")
        try world.make("in.git")
        #expect(symlink("../outside.git", "\(world.storage)/link.git") == 0)
        #expect(symlink("..", "\(world.storage)/up") == 0)
        func isHostile(_ path: String) throws -> Bool { if case .hostile = try storage.locate(path) { true } else { false } }
        for path in [
            "", "/in.git", "../outside.git", "a/../in.git", "./in.git", "in.git/", "a//b", "in.git\0", "in\n.git", "link.git", "up/outside.git",
            String(repeating: "x", count: 300), String(repeating: "x/", count: 1000) + "x", world.storage + "/in.git", outside,
        ] { #expect(try isHostile(path), "'\(path)'") }
        #expect(try storage.locate("in.git") == .repository(world.storage + "/in.git"))
        #expect(try storage.locate("no.git") == .missing)
        #expect(try storage.locate("in.git/HEAD") == .missing)
        #expect(try storage.locate("in.git/HEAD/x") == .missing)
    }

    @Test("repositories of another owner are read all the same", .enabled(if: geteuid() == 0), arguments: ["sha1", "sha256"])
    func owners(_ format: String) throws {
        let path = try world.make("o.git", "--object-format=\(format)")
        let id = try world.commit(path, "one")
        func give(_ path: String) throws {
            #expect(lchown(path, 12345, 12345) == 0)
            guard let status = try Files.status(path), status.st_mode & S_IFMT == S_IFDIR else { return }
            for name in try Files.names(in: path) { try give("\(path)/\(name)") }
        }
        try give("\(world.storage)/\(path)")
        let reader = try reader(path)
        #expect(try reader.states(of: [id]) == [.present])
        #expect(reader.state(of: "refs/heads/main", id: id) == .holds)
    }

    @Test("a repository is moved aside once, whole, and nothing is overwritten")
    func quarantine() throws {
        let path = try world.make("@hashed/aa/bb/x.git")
        let id = try world.commit(path, "one")
        let place = try storage.moveAside(path)
        #expect(place == "\(world.storage).quarantine/@hashed/aa/bb/x.git")
        #expect(try storage.locate(path) == .missing)
        #expect(try RepositoryReader(place, in: RestoredStorage(root: world.storage + ".quarantine")).states(of: [id]) == [.present])
        try world.make(path)
        #expect(throws: ArchiveError.self) { try storage.moveAside(path) }
        #expect(try storage.locate(path) != .missing)
    }
}
