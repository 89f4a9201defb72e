import ArchiveCore
import Catalog
import Glibc
import Store

/// Writes an archive of a given age and size, for `integration/bench plan`. Test support: no part of `tidemark`.
@main
struct Generator {
    static func main() async {
        do {
            // --lag DIRECTORY TIME: a week of lag history, up to that time.
            let words = Array(CommandLine.arguments.dropFirst())
            if words.first == "--lag" {
                guard words.count == 3, let end = Moment(words[2]) else { throw ArchiveError(.usage, "--lag takes a directory and a time with its zone.") }
                return try await LagSample.write(to: words[1], end: end)
            }
            let (directory, shape) = try arguments(Array(CommandLine.arguments.dropFirst()))
            print(try await generate(shape, in: directory))
        } catch {
            let text = Array("error: \(error)\n".utf8)
            _ = write(2, text, text.count)
            exit(1)
        }
    }

    /// - Returns: what was written, as JSON.
    static func generate(_ shape: Shape, in directory: String) async throws -> String {
        let postgres = PostgresLog.incarnation(shape)
        let storage = StorageLog.incarnation(shape)
        let catalog = try await Catalog.create(in: FileStore(path: directory), at: shape.start, version: "generator")
        try await catalog.record(postgres)
        try await catalog.record(storage)
        async let segments = PostgresLog(shape: shape, catalog: catalog, incarnation: postgres).write(to: directory)
        async let packs = StorageLog(shape: shape, catalog: catalog, incarnation: storage, anchor: postgres).write(to: directory)
        let (a, b) = try await (segments, packs)
        return """
            {"days": \(shape.days), "segments": \(shape.segments), "commits": \(a.totals.commits), "packs": \(shape.packs), \
            "entries": \(b.totals.commits), "partitions": \(shape.partitions), "chapters": \(a.chapters + b.chapters), \
            "realIndexes": \(a.realIndexes + b.realIndexes), "start": "\(shape.start)", "end": "\(shape.end)"}
            """
    }

    private static func arguments(_ given: [String]) throws -> (String, Shape) {
        var shape = Shape()
        var directory: String?
        var packs: Int?
        var rest = given[...]
        while let word = rest.popFirst() {
            guard word.hasPrefix("--") else {
                directory = word
                continue
            }
            guard let value = rest.popFirst() else { throw ArchiveError(.usage, "\(word) takes a value.") }
            func number() throws -> Int {
                guard let number = Int(value), number > 0 else { throw ArchiveError(.usage, "\(word) takes a number, not '\(value)'.") }
                return number
            }
            func time() throws -> Moment {
                guard let time = Moment(value) else { throw ArchiveError(.usage, "\(word) takes a time with its zone, not '\(value)'.") }
                return time
            }
            switch word {
            case "--days": shape.days = try number()
            case "--segments": shape.segments = try number()
            case "--entries": shape.entries = try number()
            case "--packs": packs = try number()
            case "--partitions": shape.partitions = try number()
            case "--commits": shape.commitsInSegment = try number()
            case "--seed": shape.seed = UInt64(try number())
            case "--start": shape.start = try time()
            case "--target": shape.targets.append(try time())
            default: throw ArchiveError(.usage, "There is no option \(word).")
            }
        }
        guard let directory, directory.hasPrefix("/") else {
            throw ArchiveError(
                .usage,
                "usage: archive-generator /DIRECTORY [--days N] [--segments N] [--entries N] [--packs N] [--partitions N] [--commits N] [--seed N] [--start TIME] [--target TIME]…"
            )
        }
        shape.packs = packs ?? max(1, shape.entries / 25)
        return (directory, shape)
    }
}
