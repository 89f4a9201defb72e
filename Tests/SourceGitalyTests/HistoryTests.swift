import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Source
import Testing

@testable import SourceGitaly

/// A recording's entries as an archive would hold them, a few in each pack.
private struct RecordedLog: LogReader {
    var packs: [LogPiece] = []
    let branches: [BranchRecord] = []

    init(_ recording: Recording, entriesInPack: Int = 7) throws {
        let reader = EntryReader(storage: "/nonexistent")
        var builder = PackBuilder()
        var count = 0
        for entry in try recording.ordered() {
            builder.add(try #require(try reader.read(partition: entry.partition, lsn: entry.lsn, wal: "\(recording.root)/entries/\(entry.partition)")))
            count += 1
            if count % entriesInPack == 0 {
                packs.append(builder.piece(number: UInt64(packs.count)))
                builder = PackBuilder()
            }
        }
        if !builder.isEmpty { packs.append(builder.piece(number: UInt64(packs.count))) }
    }

    var pieces: [ArchivedPiece] { packs.map { ArchivedPiece(name: $0.name, storedLength: 0) } }

    func index(of piece: ArchivedPiece) async throws -> PieceIndex {
        let pack = try #require(packs.first { $0.name == piece.name })
        return PieceIndex(
            spans: pack.spans, events: pack.events,
            frames: pack.frames.map { LogFrame(offset: 0, length: UInt64($0.count), rawLength: UInt64($0.count), sha256: []) }, storedLength: 0, storedSHA256: [])
    }

    func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]] {
        let pack = try #require(packs.first { $0.name == piece.name })
        return (frames ?? Array(pack.frames.indices)).map { pack.frames[$0] }
    }

    var events: [(partition: String, event: LogEvent)] { packs.flatMap { pack in pack.events.map { (pack.spans[$0.span].stream, $0) } } }
}

@Suite("What the log tells of restored repositories")
struct HistoryTests {
    private let project = "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b.git"

    /// A life restored up to these positions, and its history.
    private func restored(_ recording: Recording, _ log: RecordedLog, to cuts: [String: UInt64], in directory: String) throws -> GitalyHistory {
        var replayer = Replayer(root: directory)
        for entry in try recording.ordered() where entry.lsn <= cuts[entry.partition] ?? 0 { try replayer.apply(entry, tolerant: false) }
        let base = BaseRecord(
            id: "b", source: "default", incarnation: "i", kind: "gitaly", started: Moment(rawValue: 0), completed: Moment(rawValue: 0), firstPiece: nil,
            branch: 0, parts: [], indexSHA256: "", files: 0, bytes: 0, warnings: [], facts: [:])
        let incarnation = IncarnationRecord(
            source: "default", id: "i", kind: "gitaly", identity: "x", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)
        let place = RestoredPlace(
            directory: directory, incarnation: incarnation, base: base, spans: [],
            cuts: cuts.map { StreamCut(stream: $0.key, branch: 0, through: $0.value, end: $0.value + 1) }, log: log, bindir: nil)
        return GitalyHistory(place: place)
    }

    private func id(_ log: RecordedLog, _ partition: String, _ lsn: UInt64, _ reference: String) throws -> String {
        let event = try #require(log.events.first { $0.partition == partition && $0.event.start == lsn }).event
        return String(try #require(event.details.first { $0.hasPrefix(reference + " ") }).split(separator: " ")[1])
    }

    private let unlimited = RollForwardLimit(records: 1000, latest: Moment(rawValue: .max))

    @Test("an object named after the cut is told from one named before it, and from one that may have been pruned")
    func evidence() async throws {
        let recording = try await Recording("tour")
        let log = try RecordedLog(recording)
        let directory = try TemporaryDirectory()
        let history = try restored(recording, log, to: ["2": 14], in: directory.path)
        let early = try id(log, "2", 5, "refs/tags/v1")
        let recent = try id(log, "2", 14, "refs/heads/imported")
        let later = try id(log, "2", 19, "refs/heads/main")
        let nowhere = String(repeating: "ab", count: 20)
        let told = try await history.evidence(of: [project: [early, recent, later, nowhere], "@hashed/no.git": [early]])
        // Entry 12 is housekeeping.
        #expect(told[project]?[early] == .removedBefore)
        #expect(told[project]?[recent] == .before)
        #expect(told[project]?[later] == .after)
        #expect(told[project]?[nowhere] == ObjectEvidence.none)
        #expect(told["@hashed/no.git"]?[early] == ObjectEvidence.none)
    }

    @Test("a partition is rolled forward to the entry that brings an object, and not further")
    func rollForward() async throws {
        let recording = try await Recording("tour")
        let log = try RecordedLog(recording)
        let directory = try TemporaryDirectory()
        let history = try restored(recording, log, to: ["2": 2, "3": 1], in: directory.path)
        let wanted = try id(log, "2", 3, "refs/heads/main")
        let outcomes = try await history.rollForward(to: [project: [wanted]], limit: unlimited)
        let outcome = try #require(outcomes.first)
        #expect(outcomes.count == 1 && outcome.partition == "2" && outcome.end == .found)
        #expect(outcome.found == [project: [wanted]])
        #expect(outcome.from == PartitionLSN(rawValue: 2).description && outcome.to == outcome.records.last?.position)
        let last = try #require(outcome.to.flatMap { PartitionLSN($0) }).rawValue
        #expect(last == 3)
        let verdict = try await Recording.compare("tour", directory.path, at: ["2": last, "3": 1])
        #expect(verdict.status == 0, "\(verdict.output)")
    }

    @Test("what no entry brings changes nothing, and limits hold")
    func nothingToFind() async throws {
        let recording = try await Recording("tour")
        let log = try RecordedLog(recording)
        let directory = try TemporaryDirectory()
        let history = try restored(recording, log, to: ["2": 2], in: directory.path)
        let wanted = try id(log, "2", 19, "refs/heads/main")
        for (ids, limit) in [
            ([String(repeating: "ab", count: 20)], unlimited), ([wanted], RollForwardLimit(records: 5, latest: Moment(rawValue: .max))),
            ([wanted], RollForwardLimit(records: 1000, latest: Moment(rawValue: 1))),
        ] {
            let outcome = try #require(try await history.rollForward(to: [project: Set(ids)], limit: limit).first)
            #expect(outcome.records.isEmpty && outcome.to == nil && outcome.end == .notInLog && outcome.found.isEmpty)
        }
        #expect(try await history.rollForward(to: ["@hashed/no.git": [wanted]], limit: unlimited).isEmpty)
        let verdict = try await Recording.compare("tour", directory.path, at: ["2": 2])
        #expect(verdict.status == 0, "\(verdict.output)")
    }

    @Test("a deletion is never passed, and a repository that is made after the cut comes with its partition")
    func deletion() async throws {
        let recording = try await Recording("tour")
        let log = try RecordedLog(recording)
        let directory = try TemporaryDirectory()
        let fork = "@hashed/4f/c8/4fc82b26aecb47d2868c4efbe3581732a3e7cbcc6c2efb32062c08170a05eeb8.git"
        // Entry 20 makes the repository, 21 deletes it, 22 and 23 make it anew.
        let history = try restored(recording, log, to: ["2": 26, "4": 19], in: directory.path)
        let first = try id(log, "4", 20, "refs/heads/main")
        let second = try id(log, "4", 23, "refs/heads/main")
        #expect(first != second)
        let outcome = try #require(try await history.rollForward(to: [fork: [first, second]], limit: unlimited).first)
        #expect(outcome.end == .deletion && outcome.records.count == 1 && outcome.found == [fork: [first]])
        #expect(Files.exists("\(directory.path)/\(fork)/HEAD"))
        let verdict = try await Recording.compare("tour", directory.path, at: ["2": 26, "4": 20])
        #expect(verdict.status == 0, "\(verdict.output)")
    }

    @Test("every object that a reference is set to is found by rolling its partition on from before it, in a life under load")
    func load() async throws {
        let recording = try await Recording("load")
        let log = try RecordedLog(recording, entriesInPack: 40)
        // The partition with the most entries, cut in its middle.
        let byPartition = Dictionary(grouping: log.events, by: \.partition)
        let (partition, events) = try #require(byPartition.filter { e in !e.value.contains { $0.event.flags.contains(.deleted) } }.max { $0.value.count < $1.value.count })
        let cut = events[events.count / 2].event.start
        let directory = try TemporaryDirectory()
        let history = try restored(recording, log, to: [partition: cut], in: directory.path)
        var wanted: [String: Set<String>] = [:]
        for (_, event) in events where event.start > cut {
            for detail in event.details {
                if let id = detail.split(separator: " ").last, id.count == 40, id.contains(where: { $0 != "0" }), !id.contains("/") {
                    wanted[event.subject, default: []].insert(String(id))
                }
            }
        }
        let told = try await history.evidence(of: wanted)
        wanted = wanted.mapValues { $0 }.reduce(into: [:]) { result, pair in
            result[pair.key] = pair.value.filter { told[pair.key]?[$0] == .after }
        }
        #expect(wanted.values.reduce(0) { $0 + $1.count } > 3)
        let outcome = try #require(try await history.rollForward(to: wanted, limit: unlimited).first)
        let last = try #require(outcome.to.flatMap { PartitionLSN($0) }).rawValue
        let verdict = try await Recording.compare("load", directory.path, at: [partition: last])
        #expect(verdict.status == 0, "\(verdict.output)")
        #expect(outcome.records.map(\.position) == (cut + 1...last).map { PartitionLSN(rawValue: $0).description })
        // What came not with an entry's own objects was there before under another reference's name.
        let missing = wanted.reduce(0) { $0 + $1.value.subtracting(outcome.found[$1.key] ?? []).count }
        #expect(missing <= wanted.values.reduce(0) { $0 + $1.count } / 2)
    }
}
