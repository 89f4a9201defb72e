import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Glibc
import Runtime
import Testing

@testable import SourceGitaly

@Suite("Replaying what a real Gitaly wrote")
struct ReplayTests {
    @Test("every entry from nothing gives every path, byte and permission bit", arguments: ["tour", "load", "reftable"])
    func fromNothing(_ life: String) async throws {
        let recording = try await Recording(life)
        let ours = try TemporaryDirectory()
        var replayer = Replayer(root: ours.path)
        for entry in try recording.ordered() { try replayer.apply(entry, tolerant: false) }
        let verdict = try await Recording.compare(life, ours.path)
        #expect(verdict.status == 0, "\(verdict.output)")
        let theirs = try TemporaryDirectory()
        #expect(try await Recording.tool(["state", try Recording.archive(life), theirs.path]).status == 0)
        // Directories above repositories belong to nobody's log.
        let expected = try Recording.modes(theirs.path)
        let found = try Recording.modes(ours.path)
        #expect(expected.count > 100)
        #expect(expected.filter { found[$0.key] != $0.value }.isEmpty)
    }

    @Test("each step of the tour gives the repositories that Gitaly had after it")
    func tour() async throws {
        let recording = try await Recording("tour")
        struct Steps: Decodable {
            struct Step: Decodable { var name: String; var lsns: [String: String]? }
            var steps: [Step]
        }
        let states = try Files.names(in: recording.root + "/states")
        #expect(states.count > 20)
        var entries: [String: [ReplayableEntry]] = [:]
        for partition in try recording.partitions() { entries[partition] = try recording.entries(partition) }
        let ours = try TemporaryDirectory()
        var replayer = Replayer(root: ours.path)
        var done: [String: UInt64] = [:]
        // Entry by entry in commit order; after each, the tool's own state at the same positions is the judge of every tenth.
        for (n, entry) in try recording.ordered().enumerated() {
            try replayer.apply(entry, tolerant: false)
            done[entry.partition] = entry.lsn
            guard n % 10 == 0 else { continue }
            let verdict = try await Recording.compare("tour", ours.path, at: done)
            #expect(verdict.status == 0, "after \(n): \(verdict.output)")
        }
    }

    @Test("fuzzy base copies become exact", arguments: [("load", 4), ("reftable", 2)])
    func bases(_ life: String, _ count: Int) async throws {
        let recording = try await Recording(life)
        let bases = try Files.names(in: recording.root + "/bases")
        #expect(bases.count == count)
        for base in bases {
            struct Window: Decodable { var first: String?; var end: String? }
            let text = try Files.read("\(recording.root)/bases/\(base)/window.json")
            let windows = try WindowFile(text).windows
            var replayer = Replayer(root: "\(recording.root)/bases/\(base)/tree")
            for entry in try recording.ordered() {
                let window = windows[entry.partition]
                guard entry.lsn >= window?.first ?? 1 else { continue }
                try replayer.apply(entry, tolerant: entry.lsn <= window?.end ?? 0)
            }
            let verdict = try await Recording.compare(life, "\(recording.root)/bases/\(base)/tree")
            #expect(verdict.status == 0, "base \(base): \(verdict.output)")
        }
    }

    @Test("a partition backup is what its entries give up to its position, and goes on from there")
    func partitionBackups() async throws {
        let recording = try await Recording("tour")
        let backups = recording.root + "/sink/partition-backups/default"
        let partitions = try Files.names(in: backups)
        #expect(partitions.count == 4)
        for partition in partitions {
            let name = try #require(try Files.names(in: "\(backups)/\(partition)").first)
            let lsn = try #require(PartitionLSN(String(name.dropLast(4)))).rawValue
            let theirs = try TemporaryDirectory()
            #expect(try await Subprocess(["tar", "-xf", "\(backups)/\(partition)/\(name)", "-C", theirs.path]).run().status == 0)
            let ours = try TemporaryDirectory()
            var whole = Replayer(root: ours.path)
            var rest = Replayer(root: theirs.path + "/fs")
            let entries = try recording.entries(partition)
            #expect(entries.count >= Int(lsn))
            for entry in entries where entry.lsn <= lsn { try whole.apply(entry, tolerant: false) }
            func same() async throws {
                let verdict = try await Subprocess(["diff", "-r", ours.path, theirs.path + "/fs"]).run()
                #expect(verdict.status == 0, "partition \(partition): \(verdict.output.prefix(500))")
            }
            try await same()
            for entry in entries where entry.lsn > lsn {
                try whole.apply(entry, tolerant: false)
                try rest.apply(entry, tolerant: false)
            }
            try await same()
        }
    }

    @Test("nothing is written through a symbolic link")
    func symlink() throws {
        let directory = try TemporaryDirectory()
        try Files.makeDirectory(directory.path + "/outside")
        try Files.makeDirectory(directory.path + "/root/r")
        #expect(Glibc.symlink(directory.path + "/outside", directory.path + "/root/r/link") == 0)
        var entry = LogEntry()
        entry.operations = [.link(source: [0x31], inStorage: false, destination: Array("r/link/evil".utf8))]
        var replayer = Replayer(root: directory.path + "/root")
        for tolerant in [true, false] {
            #expect(throws: ArchiveError.self) {
                try replayer.apply(
                    ReplayableEntry(partition: "2", lsn: 1, entry: entry, files: ["1": .init(bytes: [1], mode: 0o400)], links: [:]), tolerant: tolerant)
            }
        }
        #expect(try Files.names(in: directory.path + "/outside").isEmpty)
    }

    @Test("what root replays belongs to the storage's owner", .enabled(if: geteuid() == 0))
    func owner() throws {
        let directory = try TemporaryDirectory()
        var entry = LogEntry()
        entry.relativePath = Array("@hashed/aa/r.git".utf8)
        entry.operations = [
            .makeDirectory(entry.relativePath, mode: 0o700), .link(source: [0x31], inStorage: false, destination: entry.relativePath + Array("/HEAD".utf8)),
        ]
        var replayer = Replayer(root: directory.path)
        replayer.owner = (65534, 65533)
        try replayer.apply(
            ReplayableEntry(partition: "2", lsn: 1, entry: entry, files: ["1": .init(bytes: [1], mode: 0o400)], links: [:]), tolerant: false)
        for path in ["@hashed", "@hashed/aa", "@hashed/aa/r.git", "@hashed/aa/r.git/HEAD"] {
            let status = try #require(try Files.status("\(directory.path)/\(path)"))
            #expect(status.st_uid == 65534 && status.st_gid == 65533, "\(path)")
        }
    }

    @Test("outside the window every deviation is an error that names the entry")
    func strict() throws {
        let directory = try TemporaryDirectory()
        try Files.makeDirectory(directory.path + "/full/inner")
        func apply(_ operation: LogEntry.Operation, tolerant: Bool) throws {
            var entry = LogEntry()
            entry.operations = [operation]
            var replayer = Replayer(root: directory.path)
            try replayer.apply(
                ReplayableEntry(partition: "2", lsn: 36, entry: entry, files: ["1": .init(bytes: [1], mode: 0o400)], links: [:]), tolerant: tolerant)
        }
        let deviations: [LogEntry.Operation] = [
            .remove(Array("full".utf8)), .makeDirectory(Array("missing/d".utf8), mode: 0o700),
            .link(source: [0x31], inStorage: false, destination: Array("missing/f".utf8)),
        ]
        for operation in deviations {
            let error = #expect(throws: ArchiveError.self) { try apply(operation, tolerant: false) }
            #expect(error?.message.contains("0000000000010") == true)
            try apply(operation, tolerant: true)
        }
        // In no window can a link be made whose source is gone.
        #expect(throws: ArchiveError.self) { try apply(.link(source: Array("gone".utf8), inStorage: true, destination: Array("x".utf8)), tolerant: true) }
        #expect(try Files.names(in: directory.path) == ["full"])
    }
}

/// `window.json` of a recorded base: per partition the highest entries seen before the first byte and after the last one.
struct WindowFile {
    var windows: [String: (first: UInt64?, end: UInt64?)] = [:]

    init(_ bytes: [UInt8]) throws {
        let object = try JSONSerialization.jsonObject(with: Data(bytes))
        let top = try #require(object as? [String: Any])
        func lsn(_ value: Any?) -> UInt64? { (value as? String).flatMap { PartitionLSN($0)?.rawValue } }
        if let first = top["first"] as? [String: Any], let end = top["end"] as? [String: Any] {
            for partition in Set(first.keys).union(end.keys) { windows[partition] = (lsn(first[partition]), lsn(end[partition])) }
        } else {
            for (partition, value) in top {
                guard let window = value as? [String: Any] else { continue }
                windows[partition] = (lsn(window["first"]), lsn(window["end"]))
            }
        }
    }
}
