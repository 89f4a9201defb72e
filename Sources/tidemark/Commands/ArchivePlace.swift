import ArchiveCore
import Catalog
import Glibc
import Runtime
import Store

/// Where the archive is and how it is opened, as the command line and the configuration say.
struct ArchivePlace: Sendable, CustomStringConvertible {
    /// The primary, then its copies.
    var locations: [StoreLocation]
    /// Shared by everything that this process sends to and gets from archives; `nil`: no limit.
    var bandwidth: Bandwidth?
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
    }

    private init(_ locations: [StoreLocation]) { self.locations = locations }

    init(_ configuration: Configuration) throws {
        locations = try ([configuration.archive] + configuration.copies).map { url throws(ArchiveError) in try StoreLocation(url) }
        bandwidth = Bandwidth(configuration.bandwidth, now: { now() })
        recipients = configuration.recipients
        identities = configuration.identities
    }

    /// The primary's URL.
    var description: String { "\(locations[0])" }

    /// The primary itself, for what writes.
    func primary() throws -> any ObjectStore { try locations[0].open(context) }

    /// Opens the archive.
    func open() async throws -> Catalog { try await Catalog.open(try primary()) }

    private var context: StoreContext {
        StoreContext(
            transport: { [bandwidth] in CurlTransport($0, bandwidth: bandwidth) },
            environment: { name in getenv(name).map { String(cString: $0) } }, now: { now() }, warn: { Log("archive").warning($0) })
    }
}
