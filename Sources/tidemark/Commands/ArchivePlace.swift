import ArchiveCore
import Catalog
import Glibc
import Pack
import Runtime
import Store

/// Where the archive is and how it is opened, as the command line and the configuration say.
struct ArchivePlace: Sendable, CustomStringConvertible {
    /// The primary, then its copies.
    var locations: [StoreLocation]
    var bandwidth = BandwidthPlan()
    /// Age public keys, `age1…`, that new content is encrypted for.
    var recipients: [String] = []
    /// Files with age identities.
    var identities: [String] = []

    /// What `--archive` names, or the configuration.
    init(_ arguments: Arguments) throws {
        if let url = arguments["archive"] {
            guard !arguments.has("config") else { throw ArchiveError(.usage, "--archive and --config were both given.", remedy: "Give one of them.") }
            self.init([try StoreLocation(url)])
        } else {
            try self.init(try Shared.configuration(arguments))
        }
        recipients += arguments.all("recipient")
        identities += try IdentityFile.paths(arguments)
    }

    private init(_ locations: [StoreLocation]) { self.locations = locations }

    init(_ configuration: Configuration) throws {
        locations = try ([configuration.archive] + configuration.copies).map { url throws(ArchiveError) in try StoreLocation(url) }
        bandwidth = configuration.bandwidth
        recipients = configuration.recipients
        identities = configuration.identities
    }

    /// The primary's URL.
    var description: String { "\(locations[0])" }

    /// The primary itself, for what writes.
    func primary() throws -> any ObjectStore { try locations[0].open(context) }

    /// Opens the archive to be read, without any identity.
    func open() async throws -> Catalog { try await Catalog.open(try primary(), keys: ArchiveKeys(recipients: try parsedRecipients())) }

    /// Opens the archive to be read with the identities that there are.
    func openWithIdentities() async throws -> Catalog {
        let identities = try await blocking { [identities] in try identities.flatMap(IdentityFile.read) }
        return try await Catalog.open(try primary(), keys: ArchiveKeys(recipients: try parsedRecipients(), identities: identities))
    }

    /// Opens the archive to be written: the configuration and the archive agree on encryption. Who writes needs no identity.
    ///
    /// - Throws: also `.encryptionDiffers`.
    func openToWrite() async throws -> Catalog {
        let catalog = try await open()
        try catalog.checkWriter()
        return catalog
    }

    func parsedRecipients() throws(ArchiveError) -> [AgeRecipient] { try recipients.map { text throws(ArchiveError) in try AgeRecipient(text) } }

    private var context: StoreContext {
        StoreContext(
            transport: { _ in throw ArchiveError(.usage, "This version speaks to no service.") },
            environment: { name in getenv(name).map { String(cString: $0) } }, now: { now() }, warn: { Log("archive").warning($0) })
    }
}
