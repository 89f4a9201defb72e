import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Glibc
import Runtime
import Testing

@testable import SourceGitaly

/// A recording of a real Gitaly, unpacked.
final class Recording: Sendable {
    struct Failure: Error, CustomStringConvertible { var description: String }

    let directory: TemporaryDirectory
    /// Where `entries`, `bases`, … lie.
    let root: String

    init(_ life: String) async throws {
        directory = try TemporaryDirectory()
        let result = try await Self.tool(["extract", Self.archive(life), directory.path])
        guard result.status == 0 else { throw Failure(description: result.errors) }
        let top = try Files.names(in: directory.path)
        root = top.count == 1 ? "\(directory.path)/\(top[0])" : directory.path
    }

    static func fixture(_ name: String) throws -> String {
        try #require(Bundle.module.resourceURL).appendingPathComponent("Fixtures/\(name)").path
    }

    static func archive(_ life: String) throws -> String { try fixture("\(life).tar.xz") }

    /// Runs the player that came with the recordings; it decodes by itself, so its verdict is independent of ours.
    static func tool(_ arguments: [String]) async throws -> Subprocess.Result {
        var child = Subprocess(["python3", try fixture("recorded")] + arguments)
        child.keep = 64 << 20
        return try await child.run()
    }

    /// Compares a directory with what the recording holds at `positions` (all of it: `nil`), path by path.
    static func compare(_ life: String, _ directory: String, at positions: [String: UInt64]? = nil) async throws -> Subprocess.Result {
        let at = positions.map { ["--at", $0.map { "\($0.key):\(PartitionLSN(rawValue: $0.value))" }.joined(separator: ",")] } ?? []
        return try await tool(["compare", try archive(life), directory] + at)
    }

    /// All entries of a partition, ascending.
    func entries(_ partition: String) throws -> [ReplayableEntry] {
        let folder = "\(root)/entries/\(partition)"
        let reader = EntryReader(storage: "/nonexistent")
        return try Files.names(in: folder).compactMap(PartitionLSN.init).sorted().map { lsn in
            let found = try #require(try reader.read(partition: partition, lsn: lsn.rawValue, wal: folder))
            let frame = EntryFrame.encode(partition: partition, lsn: lsn.rawValue, time: found.time, manifest: found.manifest, files: found.files)
            return try EntryFrame.decode([frame])
        }
    }

    func partitions() throws -> [String] { try Files.names(in: root + "/entries").sorted { Int($0)! < Int($1)! } }

    /// Entries of all partitions in the order of their commit times; inside a partition by LSN.
    func ordered() throws -> [ReplayableEntry] {
        struct Times: Decodable { var ctime_ns: Int64 }
        let times = try JSONDecoder().decode([String: [String: Times]].self, from: Data(try Files.read(root + "/entries.json")))
        var all: [(Int64, ReplayableEntry)] = []
        for partition in try partitions() {
            var floor: Int64 = 0
            for entry in try entries(partition) {
                floor = max(floor, times[partition]?[PartitionLSN(rawValue: entry.lsn).description]?.ctime_ns ?? 0)
                all.append((floor, entry))
            }
        }
        return all.sorted { $0.0 < $1.0 }.map(\.1)
    }

    /// Permission bits of every path below a directory.
    static func modes(_ directory: String) throws -> [String: UInt32] {
        var modes: [String: UInt32] = [:]
        func walk(_ path: String) throws {
            for name in try Files.names(in: directory + path) {
                let child = "\(path)/\(name)"
                if child == "/+gitaly" { continue }
                let status = try #require(try Files.status(directory + child))
                modes[child] = UInt32(status.st_mode & 0o7777)
                if status.st_mode & S_IFMT == S_IFDIR { try walk(child) }
            }
        }
        try walk("")
        return modes
    }
}
