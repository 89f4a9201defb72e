import ArchiveCore
import DurableIO
import Glibc

/// PostgreSQL's own programs of one major version.
struct Programs {
    let directory: String

    /// - Throws: `.recoveryFailed` naming `--bindir` when there are none of this version.
    static func find(major: Int, bindir: String?) throws -> Programs {
        let path = getenv("PATH").map { String(cString: $0) } ?? ""
        let places = bindir.map { [$0] } ?? ["/usr/lib/postgresql/\(major)/bin", "/usr/pgsql-\(major)/bin"] + path.split(separator: ":").map(String.init)
        for place in places where Files.exists(place + "/postgres") && Files.exists(place + "/pg_ctl") {
            let version = try Subprocess(place + "/postgres", "--version")
            guard version.contains(" \(major).") || version.contains(" \(major)\n") || version.contains(" \(major)devel") || version.contains(" \(major)beta") || version.contains(" \(major)rc")
            else {
                if bindir == nil { continue }
                throw ArchiveError(
                    .recoveryFailed, "'\(place)' holds \(version.split(separator: "\n").first ?? "another version"), but the base is of PostgreSQL \(major).",
                    remedy: "Name the programs of PostgreSQL \(major) with --bindir, or prepare only with --recover none.")
            }
            return Programs(directory: place)
        }
        throw ArchiveError(
            .recoveryFailed, "The programs of PostgreSQL \(major) were not found in \(places.prefix(2).joined(separator: ", "))\(bindir == nil ? " and PATH" : "").",
            remedy: "Install them, name them with --bindir, or prepare only with --recover none.")
    }

    private static func Subprocess(_ words: String...) throws -> String {
        try Runtime_Subprocess(words).runBlocking().output
    }

    /// The user that PostgreSQL runs as when we are root: it refuses to be root itself.
    static func user() throws -> (uid: UInt32, gid: UInt32)? {
        guard geteuid() == 0 else { return nil }
        guard let entry = getpwnam("postgres") else {
            throw ArchiveError(
                .recoveryFailed, "PostgreSQL refuses to run as root, and there is no user 'postgres' to run it as.",
                remedy: "Create that user, run tidemark as the user who shall own the database, or prepare only with --recover none.")
        }
        return (entry.pointee.pw_uid, entry.pointee.pw_gid)
    }
}
