import ArchiveCore
import DurableIO
import Glibc
import Pack

/// Files with what opens an encrypted archive.
enum IdentityFile {
    static let option = Option(
        "identity", "FILE", repeats: true, help: "A file with age identities that open an encrypted archive, as age-keygen writes it; also $TIDEMARK_IDENTITY.")

    /// What the command line and the environment name; absolute, since PostgreSQL runs in another directory.
    static func paths(_ arguments: Arguments) throws(ArchiveError) -> [String] {
        guard arguments.command.options.contains(where: { $0.name == option.name }) else { return [] }
        var paths = arguments.all(option.name)
        if let path = getenv("TIDEMARK_IDENTITY").map({ String(cString: $0) }), !path.isEmpty { paths.append(path) }
        return paths.map(absolute)
    }

    /// Reads one file, and warns of one that others can read.
    ///
    /// - Throws: `.inputOutput`, `.configuration`; never with what is in the file.
    static func read(_ path: String) throws(ArchiveError) -> [AgeIdentity] {
        if let status = try Files.status(path), status.st_mode & S_IFMT == S_IFREG, status.st_mode & 0o077 != 0 {
            Output.note("warning: '\(path)' can be read by others than its owner; next: chmod 600 '\(path)'")
        }
        return try AgeIdentity.parse(try Files.read(path, limit: AgeIdentity.maximumFileSize), of: path)
    }
}
