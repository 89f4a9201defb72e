import ArchiveCore
import DurableIO
import Foundation
import Glibc
import Runtime
import Source

typealias Runtime_Subprocess = Runtime.Subprocess

/// Brings a laid-out base to the cut with PostgreSQL's own recovery, which is given a position of the log, never a time.
public struct PostgresRestoreTarget: RestoreTarget {
    public init() {}

    public func prepare(base: BaseRecord, recover: RecoveryMode, bindir: String?) async throws {
        guard recover == .promote else { return }
        let major = try Self.major(base)
        try await blocking {
            _ = try Programs.find(major: major, bindir: bindir)
            _ = try Programs.user()
        }
    }

    static func major(_ base: BaseRecord) throws -> Int {
        guard let version = base.facts["server-version"].flatMap({ Int($0) }) else {
            throw ArchiveError(.archiveDamaged, "The base \(base.id) does not say which version of PostgreSQL it is of.")
        }
        return version / 10_000
    }

    public func replay(_ job: RestoreJob) async throws -> RestoreOutcome {
        guard let cut = job.cuts.first(where: { $0.stream == PostgresLogSource.stream }), let stop = job.base.facts["stop"].flatMap(LSN.init),
            let start = job.base.facts["start"].flatMap(LSN.init),
            let size = job.incarnation.facts["segment-size"].flatMap(UInt64.init)
        else { throw ArchiveError(.archiveDamaged, "The base \(job.base.id) does not say where it begins and ends.") }
        var warnings: [String] = []
        // Recovery must not stop before the base is consistent; the record that begins at its end is the one that closes the segment.
        let target = LSN(rawValue: max(cut.through ?? 0, stop.rawValue))
        do {
            try await blocking { try placeTablespaces(job) }
            warnings += try await bring(job, to: target, on: cut.branch, from: start, stop: stop, segmentSize: size)
        } catch {
            try await blocking { try takeBackTablespaces(job) }
            throw error
        }
        return RestoreOutcome(
            facts: [
                ("recovered to", job.recover == .promote ? "\(target), promoted and stopped" : "\(target) when it is started"),
                ("timeline", job.recover == .promote ? "a new one after \(cut.branch)" : "\(cut.branch)"), ("PostgreSQL", "\(try Self.major(job.base))"),
            ], warnings: warnings)
    }

    /// Runs the recovery, or prepares it. - Returns: warnings.
    private func bring(
        _ job: RestoreJob, to target: LSN, on timeline: UInt32, from start: LSN, stop: LSN, segmentSize size: UInt64
    ) async throws -> [String] {
        var warnings: [String] = []
        let user = job.recover == .promote ? try Programs.user() : (geteuid() == 0 ? try? Programs.user() : nil)
        if Files.exists(job.directory + "/postgresql.conf") == false {
            warnings.append("the base has no postgresql.conf (it lies outside of the data directory): a minimal one was written; put yours in place")
            try await blocking { try writeMinimalConfiguration(job.directory) }
        }
        let feederDirectory = "\(job.directory).wal"
        try await blocking { try Files.makeDirectory(feederDirectory) }
        let feeder = SegmentFeeder(job: job, directory: feederDirectory, segmentSize: size, owner: user)
        do {
            if let user { try await blocking { try giveTo(user, job.directory); try giveTo(user, feederDirectory); try giveTablespacesTo(user, job) } }
            switch job.recover {
            case .none:
                try await prepareOnly(job, feeder: feeder, target: target, timeline: timeline, start: start, stop: stop)
                if let user { try await blocking { try giveTo(user, job.directory) } }
            case .promote:
                let programs = try Programs.find(major: try Self.major(job.base), bindir: job.bindir)
                try await Recovery(job: job, programs: programs, user: user, feeder: feeder, target: target, timeline: timeline).run()
            }
            try await blocking { try Files.removeTree(feederDirectory) }
        } catch {
            try await blocking { try Files.removeTree(feederDirectory) }
            throw error
        }
        return warnings
    }

    // MARK: The directory

    private func tablespaces(_ job: RestoreJob) throws -> [String: String] {
        guard let text = job.base.facts["tablespaces"] else { return [:] }
        return try JSONDecoder().decode([String: String].self, from: Data(text.utf8))
    }

    private func placeTablespaces(_ job: RestoreJob) throws {
        for (oid, old) in try tablespaces(job).sorted(by: { $0.key < $1.key }) {
            let place = job.mappings[old] ?? "\(job.finalDirectory).tablespaces/\(oid)"
            if Files.exists(place) {
                guard try Files.rawNames(in: place).isEmpty else {
                    throw ArchiveError(
                        .targetNotEmpty, "The place '\(place)' for the tablespace at '\(old)' is not empty.",
                        remedy: "Name another with --tablespace-mapping \(old)=DIR.")
                }
                guard rmdir(place) == 0 else { throw ArchiveError.system("replace the directory", place) }
            }
            try Files.makeDirectory(Files.parent(of: place))
            let inside = "\(job.directory)/pg_tblspc/\(oid)"
            if rename(inside, place) != 0 {
                guard errno == EXDEV else { throw ArchiveError.system("move the tablespace to", place) }
                let result = try Runtime.Subprocess(["cp", "-a", inside, place]).runBlocking()
                guard result.status == 0 else { throw ArchiveError(.inputOutput, "Could not copy the tablespace to '\(place)': \(result.errors)") }
                try Files.removeTree(inside)
            }
            guard symlink(place, inside) == 0 else { throw ArchiveError.system("create the symbolic link", inside) }
            try Files.syncFileSystem(of: place)
        }
    }

    /// Removes what a restore that failed had put outside of its directory.
    private func takeBackTablespaces(_ job: RestoreJob) throws {
        for (oid, old) in try tablespaces(job) {
            // A link inside means that it was placed by us.
            guard let status = try Files.status("\(job.directory)/pg_tblspc/\(oid)"), status.st_mode & S_IFMT == S_IFLNK else { continue }
            let place = job.mappings[old] ?? "\(job.finalDirectory).tablespaces/\(oid)"
            try Files.removeTree(place)
            if job.mappings[old] == nil, rmdir(Files.parent(of: place)) != 0, errno != ENOTEMPTY { throw ArchiveError.system("remove the directory", Files.parent(of: place)) }
        }
    }

    private func giveTablespacesTo(_ user: (uid: UInt32, gid: UInt32), _ job: RestoreJob) throws {
        for (oid, old) in try tablespaces(job) {
            let place = job.mappings[old] ?? "\(job.finalDirectory).tablespaces/\(oid)"
            try giveTo(user, place)
            if job.mappings[old] == nil, chown(Files.parent(of: place), user.uid, user.gid) != 0 {
                throw ArchiveError.system("give its owner to", Files.parent(of: place))
            }
        }
    }

    private func giveTo(_ user: (uid: UInt32, gid: UInt32), _ path: String) throws {
        guard lchown(path, user.uid, user.gid) == 0 else { throw ArchiveError.system("give its owner to", path) }
        guard let status = try Files.status(path), status.st_mode & S_IFMT == S_IFDIR else { return }
        for name in try Files.names(in: path) { try giveTo(user, "\(path)/\(name)") }
    }

    private func writeMinimalConfiguration(_ directory: String) throws {
        try Files.writeDurably(Array("# Written by tidemark: the base had no configuration of its own.\n".utf8), to: directory + "/postgresql.conf")
        for (name, text) in [("pg_hba.conf", "local all all peer\n"), ("pg_ident.conf", "")] where !Files.exists("\(directory)/\(name)") {
            try Files.writeDurably(Array(text.utf8), to: "\(directory)/\(name)")
        }
    }

    private func prepareOnly(
        _ job: RestoreJob, feeder: SegmentFeeder, target: LSN, timeline: UInt32, start: LSN, stop: LSN
    ) async throws {
        try await feeder.writeBaseLog(from: start.rawValue, to: stop.rawValue, into: job.directory + "/pg_wal")
        let settings = [
            "restore_command = '\(job.fetchCommand.replacing("'", with: "''")) --target \(target)'", "recovery_target_lsn = '\(target)'",
            "recovery_target_inclusive = on", "recovery_target_timeline = '\(timeline)'", "recovery_target_action = 'promote'",
        ]
        try await blocking {
            let path = job.directory + "/postgresql.auto.conf"
            let before = Files.exists(path) ? try Files.read(path) : []
            let text = "\n# Added by tidemark restore --recover none; remove these lines after the recovery.\n" + settings.joined(separator: "\n") + "\n"
            try Files.writeDurably(before + Array(text.utf8), to: path)
            try Files.writeDurably([], to: job.directory + "/recovery.signal")
        }
    }
}
