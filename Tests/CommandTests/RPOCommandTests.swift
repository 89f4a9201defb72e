import ArchiveCore
import ArchiveTesting
import Catalog
import DurableIO
import Lag
import Store
import Testing

@testable import tidemark

@Suite("tidemark rpo")
struct RPOCommandTests {
    private let directory: TemporaryDirectory
    private let path: String
    private var place: [String] { ["--archive", "file://\(path)"] }

    init() async throws {
        directory = try TemporaryDirectory()
        path = directory.path + "/archive"
    }

    private func run(_ words: String...) async throws -> Int32 { try await rpoCommand.run(try Arguments(place + words, of: rpoCommand)) }

    private func archive() async throws {
        let start = now().adding(seconds: -300)
        let catalog = try await Catalog.create(in: FileStore(path: path), at: start, version: "test")
        try await catalog.record(IncarnationRecord(source: "main", id: "7-0001", kind: "toy", identity: "7", number: 1, created: start, facts: [:], reason: nil))
        var row = LagRow(start: start, end: start.adding(seconds: 60), objective: 5)
        row.commits.add(30)
        row.exposure.add(30, weight: 60_000)
        row.misses = [Miss(start: start.adding(seconds: 5), end: start.adding(seconds: 60), worst: 30, cause: .store)]
        try await catalog.record(row, of: "main")
    }

    @Test("writes a page in place of its last one, and a missed objective is no failure of the command")
    func page() async throws {
        try await archive()
        let file = directory.path + "/rpo.html"
        try Files.writeDurably([0x78], to: file, mode: 0o644)
        #expect(try await run("--since", "1h", "--html", file) == 0)
        let page = String(decoding: try Files.read(file), as: UTF8.self)
        #expect(page.hasPrefix("<!doctype html>") && page.contains("the store was slow or failed") && page.contains("no agent has recorded anything since"))
        #expect(try Files.names(in: directory.path).sorted() == ["archive", "rpo.html"])
    }

    @Test("what makes no sense is refused as usage")
    func refusals() async throws {
        try await archive()
        for words in [
            ["--since", "yesterday"], ["--since", "1h", "--until", "2h"], ["--until", "2999-01-01T00:00:00Z"], ["--since", "2026-01-01T00:00:00"], ["--since", "99999999999d"],
            ["--objective", "0"], ["--objective", "fast"], ["--objective", "-5s"], ["--source", "other"], ["--json", "--html", "/nowhere"],
        ] {
            let error = await #expect(throws: ArchiveError.self) { try await rpoCommand.run(try Arguments(place + words, of: rpoCommand)) }
            #expect(error?.code == .usage, "\(words)")
        }
    }

    @Test("an archive without a source says what to do")
    func empty() async throws {
        _ = try await Catalog.create(in: FileStore(path: path), at: now(), version: "test")
        let error = await #expect(throws: ArchiveError.self) { try await run() }
        #expect(error?.code == .usage && error?.remedy?.contains("tidemark agent") == true)
    }
}
