import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Source
import SourcePostgres
import Testing

/// A PostgreSQL cluster as a restore leaves it: filled, and stopped. Its superuser is not called `postgres`.
final class Cluster: Sendable {
    static let bindirs: [String] = {
        if let list = getenv("TIDEMARK_TEST_PG_BINDIRS") { return String(cString: list).split(separator: ":").map(String.init) }
        do {
            return try Files.names(in: "/usr/lib/postgresql").map { "/usr/lib/postgresql/\($0)/bin" }.filter { Files.exists($0 + "/postgres") }
        } catch { return [] }
    }()

    let directory: TemporaryDirectory
    let bindir: String
    var data: String { directory.path + "/data" }
    private static let user: (uid: UInt32, gid: UInt32)? = geteuid() == 0 ? getpwnam("postgres").map { ($0.pointee.pw_uid, $0.pointee.pw_gid) } : nil

    init(_ bindir: String) async throws {
        self.bindir = bindir
        directory = try TemporaryDirectory()
        if let user = Self.user { #expect(chown(directory.path, user.uid, user.gid) == 0) }
        try await run("initdb", ["-D", data, "-U", "gitlab-psql", "-A", "reject", "--no-sync", "-E", "UTF8", "--no-locale"])
    }

    /// Runs statements in a database through PostgreSQL's single-user mode: no server, no socket.
    func fill(_ database: String, _ statements: String) async throws {
        let file = directory.path + "/statements"
        // One statement ends with an empty line.
        try Files.writeDurably(Array((statements.replacing(";\n", with: ";\n\n") + "\n\n").utf8), to: file, mode: 0o644)
        #expect(chmod(file, 0o644) == 0)
        let words = ["sh", "-c", "f=$1; shift; exec \"$@\" <\"$f\"", "sh", file, "\(bindir)/postgres", "--single", "-j", "-D", data, "-F", database]
        let result = try await Subprocess(words, user: Self.user).run()
        guard result.status == 0, !result.errors.contains("ERROR:") else { throw ArchiveError(.inputOutput, "\(result.errors)") }
    }

    private func run(_ program: String, _ arguments: [String]) async throws {
        let result = try await Subprocess(["\(bindir)/\(program)"] + arguments, user: Self.user).run()
        guard result.status == 0 else { throw ArchiveError(.inputOutput, "\(program): \(result.errors)") }
    }

    var place: RestoredPlace {
        get throws {
            let version = String(decoding: try Files.read(data + "/PG_VERSION"), as: UTF8.self).filter { $0.isNumber }
            return RestoredPlace(
                directory: data,
                incarnation: IncarnationRecord(
                    source: "main", id: "i", kind: "postgres", identity: "7", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil),
                base: BaseRecord(
                    id: "b", source: "main", incarnation: "i", kind: "postgres", started: Moment(rawValue: 0), completed: Moment(rawValue: 0),
                    firstPiece: nil, branch: 1, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [],
                    facts: ["server-version": "\((Int(version) ?? 0) * 10_000)"]),
                spans: [], cuts: [], log: EmptyLog(), bindir: bindir)
        }
    }

    func state() throws -> String {
        var child = Subprocess(["\(bindir)/pg_controldata", "-D", data], user: Self.user)
        child.environment = ["LC_ALL=C", "PATH=/usr/bin:/bin"]
        let line = try child.runBlocking().output.split(separator: "\n").first { $0.hasPrefix("Database cluster state:") }
        return line.map { String($0.dropFirst("Database cluster state:".count).drop { $0 == " " }) } ?? ""
    }
}

struct EmptyLog: LogReader {
    let pieces: [ArchivedPiece] = []
    let branches: [BranchRecord] = []
    func index(of piece: ArchivedPiece) async throws -> PieceIndex { throw ArchiveError(.objectMissing, "There is no piece '\(piece.name)'.") }
    func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]] { [] }
}

/// What an archive would say, written down.
struct WrittenHistory: RepositoryHistory {
    var told: [String: ObjectEvidence] = [:]
    var roll: @Sendable ([String: Set<String>], RollForwardLimit) async throws -> [RollForwardOutcome] = { _, _ in [] }

    func evidence(of objects: [String: Set<String>]) async throws -> [String: [String: ObjectEvidence]] {
        objects.mapValues { ids in Dictionary(uniqueKeysWithValues: ids.map { ($0, told[$0] ?? .none) }) }
    }
    func rollForward(to objects: [String: Set<String>], limit: RollForwardLimit) async throws -> [RollForwardOutcome] { try await roll(objects, limit) }
}
