import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Runtime

/// PostgreSQL takes statuses 1 to 125 as "there is no such file" and ends recovery early; whatever else went wrong must be above; it has words of
/// its own for 126 and 127, which would mislead.
private let failed: Int32 = 128

let walFetchCommand = Command(
    "wal-fetch", "Fetch one file of the log, for PostgreSQL's restore_command.",
    options: [
        Shared.config, Shared.archive, IdentityFile.option, Shared.source,
        Option("target", "LSN", help: "The recovery_target_lsn: a hole in the log behind it does not matter. Default: any hole fails."),
    ],
    positionals: ["file", "destination"],
    example: "restore_command = 'tidemark wal-fetch --archive file:///srv/tidemark --source main %f %p'"
) { arguments in
    do {
        let (catalog, fallbacks) = try await ArchivePlace(arguments).openReading(withIdentities: true)
        defer { fallbacks.warn() }
        try catalog.checkIdentity(for: "its log")
        guard let source = arguments["source"] else { throw ArchiveError(.usage, "wal-fetch needs --source NAME.") }
        guard let incarnation = try await catalog.incarnations(of: source).last else {
            throw ArchiveError(.usage, "The archive has no source '\(source)'.")
        }
        let target = try arguments["target"].map { text in
            guard let lsn = LSN(text) else { throw ArchiveError(.usage, "--target takes an LSN such as 16/B374D848, not '\(text)'.") }
            return lsn
        }
        let file = arguments.positionals[0]
        guard let content = try await catalog.file(named: file, of: incarnation, recoveringTo: target) else { return 1 }
        let destination = arguments.positionals[1]
        try await blocking { try Files.writeDurably(content, to: destination) }
        return 0
    } catch let error as ArchiveError {
        Output.report(error, json: false)
        return failed
    } catch {
        Output.note("error: \(error)")
        return failed
    }
}
