import ArchiveCore
import ArchiveTesting
import DurableIO
import Testing

@testable import SourceGitaly

@Suite("What a base lacks")
struct LossTests {
    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test("is kept in its index, whatever its name is made of")
    func wire() throws {
        let index = TreeIndex(
            entries: [TreeEntry(kind: .file, path: bytes("a"), mode: 0o600, size: 1)], spans: [LogSpan(stream: "2", branch: 0, start: 1, end: 2)],
            losses: [TreeLoss(path: [0x62, 0xFF, 0x0A], reason: "the file was left out"), TreeLoss(path: [], reason: "pages are damaged")])
        #expect(try TreeIndex(decoding: index.encoded()) == index)
        #expect(try TreeIndex(decoding: TreeIndex(entries: [], spans: []).encoded()).losses.isEmpty)
        let encoded = index.encoded()
        for count in 0..<encoded.count { _ = try? TreeIndex(decoding: Array(encoded[..<count])) }
    }

    @Test("is a path and everything below it, and nothing beside it")
    func covers() {
        let loss = TreeLoss(path: bytes("a/b"), reason: "")
        for path in ["a/b", "a/b/c", "a/b/c/d"] { #expect(loss.covers(bytes(path))) }
        for path in ["a", "a/bc", "a/c", "", "b"] { #expect(!loss.covers(bytes(path))) }
        #expect(!TreeLoss(path: [], reason: "").covers(bytes("a")))
    }

    @Test("is told a hundred times at most")
    func manyWarnings() {
        #expect(bounded((0..<101).map(String.init)).count == 101)
        let told = bounded((0..<5000).map(String.init))
        #expect(told.count == 101)
        #expect(told.last == "and 4900 more")
    }

    @Test("is left out of what is replayed until it is made anew, and everything else is replayed")
    func replay() throws {
        let directory = try TemporaryDirectory()
        for path in ["@hashed", "@hashed/aa", "@hashed/aa/whole.git", "@hashed/aa/whole.git/refs"] { try Files.makeDirectory("\(directory.path)/\(path)") }
        func entry(_ lsn: UInt64, _ repository: String, _ operations: [LogEntry.Operation]) -> ReplayableEntry {
            var log = LogEntry()
            log.relativePath = bytes(repository)
            log.operations = operations
            return ReplayableEntry(partition: "2", lsn: lsn, entry: log, files: ["1": .init(bytes: bytes("content"), mode: 0o644)], links: [:])
        }
        func create(_ path: String) -> LogEntry.Operation { .link(source: bytes("1"), inStorage: false, destination: bytes(path)) }
        let lost = "@hashed/aa/lost.git"
        let changes = entry(1, lost, [create("\(lost)/refs/main"), .makeDirectory(bytes("\(lost)/refs/heads"), mode: 0o755), .remove(bytes("\(lost)/refs/old"))])
        var strict = Replayer(root: directory.path)
        #expect(throws: ArchiveError.self) { try strict.apply(changes, tolerant: false) }

        var replayer = Replayer(root: directory.path)
        replayer.losses = [TreeLoss(path: bytes(lost), reason: "it could not be read")]
        try replayer.apply(changes, tolerant: false)
        #expect(replayer.leftOut == 2)
        #expect(!Files.exists("\(directory.path)/\(lost)"))
        try replayer.apply(entry(2, "@hashed/aa/whole.git", [create("@hashed/aa/whole.git/refs/main")]), tolerant: false)
        #expect(Files.exists("\(directory.path)/@hashed/aa/whole.git/refs/main"))
        // What has nothing to do with the loss is refused as ever.
        #expect(throws: ArchiveError.self) { try replayer.apply(entry(3, "@hashed/aa/whole.git", [create("@hashed/aa/whole.git/nowhere/main")]), tolerant: false) }
        try replayer.apply(
            entry(4, lost, [.makeDirectory(bytes(lost), mode: 0o755), .makeDirectory(bytes("\(lost)/refs"), mode: 0o755), create("\(lost)/refs/main")]), tolerant: false)
        #expect(try Files.read("\(directory.path)/\(lost)/refs/main") == bytes("content"))
        #expect(replayer.leftOut == 2)
    }
}
