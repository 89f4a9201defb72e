import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Source
import Testing

@testable import SourcePostgres

/// A log whose segments hold their own names.
private struct NamedLog: LogReader {
    static let size: UInt64 = 1 << 20
    var pieces: [ArchivedPiece]
    var branches: [BranchRecord]
    /// The segment that cannot be read.
    var damaged = ""

    static func piece(_ number: UInt64, branch: UInt32 = 1) -> ArchivedPiece {
        ArchivedPiece(name: PieceName(branch: branch, name: name(number, branch)), storedLength: 0)
    }
    static func name(_ number: UInt64, _ branch: UInt32 = 1) -> String { hex(UInt64(branch), 8) + hex(0, 8) + hex(number, 8) }
    func index(of piece: ArchivedPiece) async throws -> PieceIndex {
        throw ArchiveError(.objectMissing, "The feeder of '\(piece.name)' needs no index.")
    }
    func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]] {
        guard piece.name.name != damaged else { throw ArchiveError(.objectDamaged, "The segment \(damaged) is damaged.") }
        return [Array(piece.name.name.utf8)]
    }
}

@Suite("The feeder of a recovering server", .timeLimit(.minutes(10)))
struct SegmentFeederTests {
    private let directory: TemporaryDirectory
    private let feeder: SegmentFeeder

    /// - Parameter checkpoint: number of the segment in which the base's checkpoint lies.
    private init(_ log: NamedLog, checkpoint: UInt64) throws {
        directory = try TemporaryDirectory()
        for folder in ["data", "data/pg_wal", "feed"] { try Files.makeDirectory("\(directory.path)/\(folder)") }
        let label = "START WAL LOCATION: 0/100028 (file 000000010000000000000001)\nCHECKPOINT LOCATION: \(LSN(rawValue: checkpoint * NamedLog.size + 96))\n"
        try Files.writeDurably(Array(label.utf8), to: "\(directory.path)/data/backup_label")
        let time = now()
        let base = BaseRecord(
            id: "b", source: "main", incarnation: "x-0001", kind: "postgres", started: time, completed: time, firstPiece: NamedLog.name(1), branch: 1, parts: [],
            indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:])
        let incarnation = IncarnationRecord(source: "main", id: "x-0001", kind: "postgres", identity: "x", number: 1, created: time, facts: [:], reason: nil)
        feeder = SegmentFeeder(
            job: RestoreJob(
                incarnation: incarnation, base: base, spans: [], cuts: [], log: log, directory: "\(directory.path)/data", finalDirectory: "\(directory.path)/final",
                recover: .promote, bindir: nil, fetchCommand: "", mappings: [:], progress: { _, _, _ in }),
            directory: "\(directory.path)/feed", segmentSize: NamedLog.size, owner: nil)
    }

    init() throws {
        var pieces = (1...64).map { NamedLog.piece($0) }
        // A branch that begins in the middle of segment 63.
        pieces += (63...65).map { NamedLog.piece($0, branch: 2) }
        let branch = BranchRecord(branch: 2, ancestors: [.init(branch: 1, end: 63 * NamedLog.size + 512)], file: Array("history".utf8), fileName: "00000002.history")
        try self.init(NamedLog(pieces: pieces, branches: [branch]), checkpoint: 50)
    }

    /// What PostgreSQL would do: its status, and the file if there is one.
    private func ask(_ name: String, to path: String = "pg_wal/RECOVERYXLOG") async throws -> (status: Int32, content: String) {
        let command = feeder.restoreCommand.replacing("%f", with: name).replacing("%p", with: path)
        let result = try await Subprocess(["sh", "-c", "cd '\(directory.path)/data' && \(command)"]).run()
        let file = "\(directory.path)/data/pg_wal/RECOVERYXLOG"
        guard Files.exists(file) else { return (result.status, "") }
        let content = String(decoding: try Files.read(file), as: UTF8.self)
        #expect(unlink(file) == 0)
        return (result.status, content)
    }

    @Test("gives every file that PostgreSQL asks for, in PostgreSQL's order")
    func order() async throws {
        let files = try await feeder.prepare()
        // Twice, before anything is fed, as PostgreSQL asks.
        for _ in 1...2 { #expect(try await ask("00000002.history") == (0, "history")) }
        #expect(try await ask("00000003.history") == (1, ""))
        let feeding = Task { try await feeder.run(files) }
        // The segment of the checkpoint first, further ahead than what lies ready; then from the start on. It is not given twice.
        #expect(try await ask(NamedLog.name(50)) == (0, NamedLog.name(50)))
        for number: UInt64 in 1...62 { #expect(try await ask(NamedLog.name(number)) == (number == 50 ? (1, "") : (0, NamedLog.name(number)))) }
        // Of the segment in which a branch begins, that branch's; it has all that the older one had.
        for number: UInt64 in 63...65 { #expect(try await ask(NamedLog.name(number, 2)) == (0, NamedLog.name(number, 2))) }
        #expect(!files.contains { $0.name == NamedLog.name(63) })
        // What never comes is not waited for.
        #expect(try await ask(NamedLog.name(99, 2)) == (1, ""))
        try await feeding.value
    }

    @Test("what cannot be read is not taken for missing")
    func damaged() async throws {
        let log = NamedLog(pieces: (1...3).map { NamedLog.piece($0) }, branches: [], damaged: NamedLog.name(2))
        let suite = try SegmentFeederTests(log, checkpoint: 1)
        let files = try await suite.feeder.prepare()
        await #expect(throws: ArchiveError.self) { try await suite.feeder.run(files) }
        #expect(try await suite.ask(NamedLog.name(2)) == (128, ""))
    }

    @Test("a command that fails itself ends above 125")
    func ownFailure() async throws {
        let files = try await feeder.prepare()
        #expect(try await ask("00000002.history", to: "no/such/folder").status == 128)
        let feeding = Task { try await feeder.run(files) }
        #expect(try await ask(NamedLog.name(1), to: "no/such/folder").status == 128)
        try Files.removeTree("\(directory.path)/feed/taken")
        #expect(try await ask(NamedLog.name(2)).status == 128)
        #expect(unlink("\(directory.path)/feed/coming") == 0)
        #expect(try await ask(NamedLog.name(99)).status == 128)
        feeding.cancel()
        _ = await feeding.result
    }
}
