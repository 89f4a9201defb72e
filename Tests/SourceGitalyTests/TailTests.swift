import ArchiveCore
import Digests
import ArchiveTesting
import DurableIO
import Foundation
import Glibc
import Runtime
import Source
import Testing

@testable import SourceGitaly

/// Drives a log source as the agent does, and keeps what an archive would.
struct Drain {
    var pieces: [LogPiece] = []
    var gaps: [GapRecord] = []
    var watermark: Moment?
    var historyChanged: String?

    /// Takes everything up to the end of the source, or `count` entries.
    mutating func run(_ source: any LogSource, resume: ResumeState, entries count: Int? = nil) async throws {
        try await source.start(from: resume)
        while let output = try await source.next() {
            switch output {
            case .piece(let piece):
                pieces.append(piece)
                await source.acknowledge(through: piece.sequence)
            case .gap(let gap): gaps.append(gap)
            case .watermark(let time): watermark = time
            case .branch: Issue.record("a storage has no branches")
            case .historyChanged(let reason): historyChanged = reason
            }
            if let count, entries >= count { await source.stop() }
        }
        await source.close()
    }

    var entries: Int { pieces.reduce(0) { $0 + $1.events.count } }

    /// Positions after everything taken, as the archive would give them to the next run.
    func resume(_ incarnation: IncarnationRecord) -> ResumeState {
        var state = ResumeState(incarnation: incarnation)
        for piece in pieces {
            state.lastPiece[0] = piece.name
            for (i, span) in piece.spans.enumerated() {
                let last = piece.events.last { $0.span == i }
                state.positions[span.stream] = .init(
                    end: span.end, sha256: last?.frame.map { SHA256.of(piece.frames[$0]) } ?? [], time: last?.time ?? Moment(rawValue: 0))
            }
        }
        return state
    }

    /// The entries of each partition, decoded from the pieces, which must follow each other without a hole.
    func decoded() throws -> [String: [ReplayableEntry]] {
        var result: [String: [ReplayableEntry]] = [:]
        for piece in pieces {
            for (i, event) in piece.events.enumerated() {
                let first = try #require(event.frame)
                let next = i + 1 < piece.events.count ? try #require(piece.events[i + 1].frame) : piece.frames.count - 1
                let entry = try EntryFrame.decode(Array(piece.frames[first..<next]))
                #expect(entry.lsn == event.start && entry.partition == piece.spans[event.span].stream)
                if let last = result[entry.partition]?.last { #expect(entry.lsn == last.lsn + 1) }
                result[entry.partition, default: []].append(entry)
            }
        }
        return result
    }
}

@Suite("Tailing a storage", .serialized)
struct TailTests {
    static let incarnation = IncarnationRecord(
        source: "default", id: "x-0001", kind: "gitaly", identity: "x", number: 1, created: Moment(rawValue: 0), facts: [:], reason: nil)


    private func replayed(_ drain: Drain) throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        var replayer = Replayer(root: directory.path)
        // Commit order across partitions: ancestors of a repository may come from another partition's log.
        let all = try drain.decoded()
        var times: [String: [UInt64: Moment]] = [:]
        for piece in drain.pieces { for event in piece.events { times[piece.spans[event.span].stream, default: [:]][event.start] = event.time } }
        let ordered = all.values.flatMap { $0 }.sorted { a, b in
            let (x, y) = (times[a.partition]?[a.lsn], times[b.partition]?[b.lsn])
            return (x?.rawValue ?? 0, UInt64(a.partition) ?? 0, a.lsn) < (y?.rawValue ?? 0, UInt64(b.partition) ?? 0, b.lsn)
        }
        for entry in ordered { try replayer.apply(entry, tolerant: false) }
        return directory
    }

    @Test("live, with the log kept and pruned by us: every entry once, and the repositories exact", .timeLimit(.minutes(10)), arguments: ["tour", "load", "reftable"])
    func live(_ life: String) async throws {
        let storage = try TemporaryDirectory()
        let player = Task { try await Recording.tool(["play", try Recording.archive(life), storage.path, "--keep"]) }
        while !Files.exists(storage.path + "/.gitaly-metadata") { try await Task.sleep(for: .milliseconds(5)) }
        let recording = try await Recording(life)
        let total = try recording.partitions().reduce(0) { try $0 + Files.names(in: "\(recording.root)/entries/\($1)").count }
        let source = GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: true)
        var drain = Drain()
        try await drain.run(source, resume: ResumeState(incarnation: Self.incarnation), entries: total)
        let played = try await player.value
        #expect(played.status == 0, "\(played.errors)")
        #expect(drain.entries == total)
        #expect(drain.gaps.isEmpty)
        let result = try replayed(drain)
        let verdict = try await Recording.compare(life, result.path)
        #expect(verdict.status == 0, "\(verdict.output)")
        // Only the highest entry of a partition is left in its log.
        for (_, place) in try WALDirectories.all(of: storage.path) { #expect(place.lsns.count == 1) }
        #expect(try Files.names(in: storage.path + "/+gitaly/staging").isEmpty)
    }

    @Test("a second run goes on where the archive ends, and changed content is another history", .timeLimit(.minutes(10)))
    func resume() async throws {
        let storage = try TemporaryDirectory()
        #expect(try await Recording.tool(["play", try Recording.archive("tour"), storage.path, "--keep", "--to", "20"]).status == 0)
        var first = Drain()
        try await first.run(GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: ResumeState(incarnation: Self.incarnation), entries: 20)
        #expect(first.entries == 20)
        #expect(try await Recording.tool(["play", try Recording.archive("tour"), storage.path, "--keep", "--from", "20", "--to", "30"]).status == 0)
        var second = Drain()
        try await second.run(
            GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: first.resume(Self.incarnation), entries: 10)
        #expect(second.entries == 10)
        #expect(second.historyChanged == nil)
        #expect(second.pieces.first?.name.name == hex(UInt64(first.pieces.count) + 1, 16))
        var state = first.resume(Self.incarnation)
        let stream = try #require(state.positions.keys.first)
        state.positions[stream]?.sha256 = [UInt8](repeating: 1, count: 32)
        var other = Drain()
        try await other.run(GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: state)
        #expect(other.historyChanged?.contains("other content") == true)
        state.positions[stream] = .init(end: 1000)
        var shorter = Drain()
        try await shorter.run(GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: state)
        #expect(shorter.historyChanged?.contains("highest") == true)
    }

    @Test("a changed owner or mode is no other history; a log that begins anew is one, also while we look", .timeLimit(.minutes(10)))
    func histories() async throws {
        let storage = try TemporaryDirectory()
        #expect(try await Recording.tool(["play", try Recording.archive("tour"), storage.path, "--keep", "--to", "20"]).status == 0)
        var first = Drain()
        try await first.run(GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: ResumeState(incarnation: Self.incarnation), entries: 20)
        // What a recursive chmod does to entries: another ctime, other modes.
        for (_, place) in try WALDirectories.all(of: storage.path) {
            for lsn in place.lsns {
                let folder = "\(place.wal)/\(PartitionLSN(rawValue: lsn))"
                for name in try Files.names(in: folder) { #expect(chmod("\(folder)/\(name)", 0o640) == 0) }
                #expect(chmod(folder, 0o750) == 0)
            }
        }
        var second = Drain()
        let source = GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false)
        let state = first.resume(Self.incarnation)
        try await source.start(from: state)
        while case .watermark? = try await source.next() {
            // Everything was compared. Now the log of one partition begins anew.
            guard let (partition, place) = try WALDirectories.all(of: storage.path).first(where: { $0.value.lsns.count > 1 }) else { break }
            for lsn in place.lsns.dropFirst() { try Files.removeTree("\(place.wal)/\(PartitionLSN(rawValue: lsn))") }
            let output = try await source.next()
            guard case .historyChanged(let reason)? = output else {
                Issue.record("\(String(describing: output))")
                break
            }
            #expect(reason.contains("partition \(partition)"))
            second.historyChanged = reason
            break
        }
        await source.close()
        #expect(second.historyChanged != nil)
    }

    @Test("an entry that was removed before it was archived is a gap", .timeLimit(.minutes(10)))
    func gap() async throws {
        let storage = try TemporaryDirectory()
        #expect(try await Recording.tool(["play", try Recording.archive("tour"), storage.path, "--keep", "--to", "40"]).status == 0)
        let place = try #require(try WALDirectories.all(of: storage.path).max { $0.value.lsns.count < $1.value.lsns.count })
        let lost = place.value.lsns[place.value.lsns.count / 2]
        try Files.removeTree("\(place.value.wal)/\(PartitionLSN(rawValue: lost))")
        var drain = Drain()
        try await drain.run(GitalyLogSource(storage: storage.path, spool: nil, tail: 0.05, prune: false), resume: ResumeState(incarnation: Self.incarnation), entries: 39)
        #expect(drain.entries == 39)
        #expect(drain.gaps.map { [$0.start, $0.end] } == [[lost, lost + 1]])
        #expect(drain.gaps.first?.stream == place.key)
    }

    @Test("entries of Raft are refused, and so is a storage without its identity")
    func refused() async throws {
        let storage = try TemporaryDirectory()
        await #expect(throws: ArchiveError.self) { try await GitalyLogSource(storage: storage.path, spool: nil, tail: 1, prune: true).identify() }
        try Files.makeDirectory(storage.path + "/+gitaly/partitions/aa/bb/default_2/wal")
        let source = GitalyLogSource(storage: storage.path, spool: nil, tail: 1, prune: true)
        try await source.start(from: ResumeState(incarnation: Self.incarnation))
        let error = await #expect(throws: ArchiveError.self) { try await source.next() }
        #expect(error?.code == .sourceUnsupported)
    }

    @Test("the native archiver's tars, live", .timeLimit(.minutes(10)), arguments: ["tour", "load"])
    func spool(_ life: String) async throws {
        let storage = try TemporaryDirectory()
        let spool = try TemporaryDirectory()
        let player = Task { try await Recording.tool(["play", try Recording.archive(life), storage.path, "--spool", spool.path]) }
        let recording = try await Recording(life)
        let total = try recording.partitions().reduce(0) { try $0 + Files.names(in: "\(recording.root)/entries/\($1)").count }
        var drain = Drain()
        try await drain.run(
            GitalyLogSource(storage: storage.path, spool: spool.path, tail: 0.05, prune: true), resume: ResumeState(incarnation: Self.incarnation), entries: total)
        #expect(try await player.value.status == 0)
        #expect(drain.entries == total)
        let entries = try drain.decoded()
        for partition in try recording.partitions() {
            let expected = try recording.entries(partition)
            #expect(entries[partition]?.map(\.entry) == expected.map(\.entry))
            #expect(entries[partition]?.map { $0.files.mapValues(\.bytes) } == expected.map { $0.files.mapValues(\.bytes) })
            #expect(entries[partition]?.map { $0.files.mapValues(\.mode) } == expected.map { $0.files.mapValues(\.mode) })
        }
        #expect(try Files.names(in: spool.path + "/default").allSatisfy { try Files.names(in: "\(spool.path)/default/\($0)").isEmpty })
    }

    @Test("with a spool, entries that nobody uploaded are taken from the log, and late tars are removed", .timeLimit(.minutes(10)))
    func notUploaded() async throws {
        let storage = try TemporaryDirectory()
        let spool = try TemporaryDirectory()
        #expect(try await Recording.tool(["play", try Recording.archive("tour"), storage.path, "--keep", "--to", "10"]).status == 0)
        // A tar of an archived entry, as a restarted Gitaly uploads it again.
        let (partition, place) = try #require(try WALDirectories.all(of: storage.path).max { $0.value.lsns.count < $1.value.lsns.count })
        let lsn = PartitionLSN(rawValue: try #require(place.lsns.first))
        try Files.makeDirectory("\(spool.path)/default/\(partition)")
        let source = GitalyLogSource(storage: storage.path, spool: spool.path, tail: 0.05, prune: true)
        try await source.start(from: ResumeState(incarnation: Self.incarnation))
        var entries = 0
        var isLate = false
        while let output = try await source.next() {
            if case .piece(let piece) = output {
                entries += piece.events.count
                for event in piece.events { #expect(event.time.rawValue % 1_000_000_000 != 0, "a time of whole seconds is the tar's, not the log's") }
                await source.acknowledge(through: piece.sequence)
            } else if case .watermark = output {
                if isLate {
                    if try Files.names(in: "\(spool.path)/default/\(partition)").isEmpty { await source.stop() }
                    continue
                }
                isLate = true
                #expect(try await Subprocess(["tar", "-cf", "\(spool.path)/default/\(partition)/\(lsn).tar", "-C", place.wal, "\(lsn)"]).run().status == 0)
            }
        }
        await source.close()
        #expect(entries == 10)
        #expect(try Files.names(in: "\(spool.path)/default/\(partition)").isEmpty)
        // The log itself is Gitaly's to prune.
        #expect(try WALDirectories.all(of: storage.path)[partition]?.lsns.count == place.lsns.count)
    }

    @Test("links inside the storage: objects by their name, everything else only while it is one file")
    func links() throws {
        let storage = try TemporaryDirectory()
        for folder in ["pool/objects/pack", "member/objects/pack"] { try Files.makeDirectory("\(storage.path)/\(folder)") }
        func write(_ text: String, _ path: String) throws { try Files.writeDurably(Array(text.utf8), to: "\(storage.path)/\(path)") }
        func link(_ name: String) -> LogEntry.Operation {
            .link(source: Array("pool/objects/pack/\(name)".utf8), inStorage: true, destination: Array("member/objects/pack/\(name)".utf8))
        }
        try write("pack", "pool/objects/pack/pack-1.pack")
        try write("old", "pool/objects/pack/multi-pack-index")
        #expect(Glibc.link("\(storage.path)/pool/objects/pack/multi-pack-index", "\(storage.path)/member/objects/pack/multi-pack-index") == 0)
        var entry = LogEntry()
        entry.operations = [link("pack-1.pack"), link("multi-pack-index")]
        let reader = EntryReader(storage: storage.path)
        let both = try reader.materialise(entry)
        #expect(both.unresolved == 0)
        #expect(both.links.mapValues { String(decoding: $0.bytes, as: UTF8.self) } == [0: "pack", 1: "old"])
        // The pool's index was replaced since.
        try write("new", "pool/objects/pack/multi-pack-index")
        let one = try reader.materialise(entry)
        #expect(one.unresolved == 1)
        #expect(Array(one.links.keys) == [0])
    }

    @Test("what Gitaly's own archiver wrote", .timeLimit(.minutes(10)))
    func native() async throws {
        let unpacked = try TemporaryDirectory()
        #expect(try await Subprocess(["tar", "-xJf", try Recording.archive("native"), "-C", unpacked.path]).run().status == 0)
        let root = try #require(try Files.names(in: unpacked.path).first.map { "\(unpacked.path)/\($0)" })
        var drain = Drain()
        try await drain.run(
            GitalyLogSource(storage: "/nonexistent", spool: root + "/walsink", tail: 0.05, prune: false), resume: ResumeState(incarnation: Self.incarnation),
            entries: 1)
        #expect(try drain.decoded().count == 13)
        let directory = try TemporaryDirectory()
        var replayer = Replayer(root: directory.path)
        for entry in try drain.decoded().sorted(by: { Int($0.key)! < Int($1.key)! }).flatMap(\.value) { try replayer.apply(entry, tolerant: false) }
        let final = try JSONSerialization.jsonObject(with: Data(try Files.read(root + "/final.json"))) as? [String: [Any]]
        let listing = try #require(final)
        #expect(listing.count > 50)
        for (path, what) in listing {
            let status = try #require(try Files.status("\(directory.path)/\(path)"), "\(path) is missing")
            #expect((status.st_mode & S_IFMT == S_IFDIR) == (what.first as? String == "d"))
            if what.count > 1 { #expect(Int(status.st_size) == what[1] as? Int) }
        }
    }
}

@Suite("Fuzzy copies of a storage at work", .serialized)
struct SnapshotTests {
    /// Writes what it is given below a directory, as a restore would.
    final class Writer: TreeSink, @unchecked Sendable {  // used by one thread at a time
        let root: String
        private var file: Descriptor?
        init(_ root: String) { self.root = root }
        func directory(_ entry: TreeEntry) throws {
            file = nil
            guard mkdir("\(root)/\(entry.displayPath)", 0o700) == 0 || errno == EEXIST else { throw ArchiveError.system("make", entry.displayPath) }
        }
        func symlink(_ entry: TreeEntry) throws {}
        func file(_ entry: TreeEntry) throws { file = try Descriptor("\(root)/\(entry.displayPath)", O_WRONLY | O_CREAT | O_TRUNC) }
        func write(_ bytes: UnsafeRawBufferPointer) throws { try file?.write(bytes) }
        func discard(under path: [UInt8]) throws {
            file = nil
            try Files.removeTree("\(root)/\(String(decoding: path, as: UTF8.self))")
        }
        func progress(bytes: UInt64, of total: UInt64?) {}
    }

    @Test("copies taken during the load become exact with the entries of their windows", .timeLimit(.minutes(10)), arguments: ["load", "reftable"])
    func copies(_ life: String) async throws {
        let storage = try TemporaryDirectory()
        let player = Task { try await Recording.tool(["play", try Recording.archive(life), storage.path, "--keep", "--apply-delay", "0.003"]) }
        while !Files.exists(storage.path + "/.gitaly-metadata") { try await Task.sleep(for: .milliseconds(5)) }
        var copies: [(TemporaryDirectory, SnapshotOutcome)] = []
        for _ in 0..<4 {
            let directory = try TemporaryDirectory()
            let outcome = try await GitalySnapshot(storage: storage.path, spool: nil).capture(into: Writer(directory.path), archived: [:])
            #expect(outcome.warnings.filter { !$0.contains("links inside") && !$0.contains("transactions are off") }.isEmpty)
            #expect(outcome.losses.isEmpty, "what Gitaly removes meanwhile is no loss")
            copies.append((directory, outcome))
            try await Task.sleep(for: .milliseconds(100))
        }
        #expect(try await player.value.status == 0)
        var all = Drain()
        let source = GitalyLogSource(storage: storage.path, spool: nil, tail: 0.01, prune: false)
        await source.stop()
        try await all.run(source, resume: ResumeState(incarnation: TailTests.incarnation))
        var ordered = try all.decoded().sorted { Int($0.key)! < Int($1.key)! }.flatMap(\.value)
        let times = Dictionary(uniqueKeysWithValues: all.pieces.flatMap { p in p.events.map { ("\(p.spans[$0.span].stream)/\($0.start)", $0.time) } })
        ordered.sort { (times["\($0.partition)/\($0.lsn)"]!, $0.lsn) < (times["\($1.partition)/\($1.lsn)"]!, $1.lsn) }
        for (directory, outcome) in copies {
            let spans = Dictionary(uniqueKeysWithValues: outcome.spans.map { ($0.stream, $0) })
            var replayer = Replayer(root: directory.path)
            for entry in ordered {
                let span = spans[entry.partition]
                guard entry.lsn >= span?.start ?? 1 else { continue }
                try replayer.apply(entry, tolerant: entry.lsn < span?.end ?? 0)
            }
            let verdict = try await Recording.compare(life, directory.path)
            #expect(verdict.status == 0, "\(verdict.output)")
        }
    }
}
