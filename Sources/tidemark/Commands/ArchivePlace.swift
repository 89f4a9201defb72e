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
        let urls = arguments.all("archive")
        if !urls.isEmpty {
            guard !arguments.has("config") else { throw ArchiveError(.usage, "--archive and --config were both given.", remedy: "Give one of them.") }
            guard Set(urls).count == urls.count else { throw ArchiveError(.usage, "--archive names a place twice.") }
            self.init(try urls.map { try StoreLocation($0) })
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

    /// The copies themselves.
    func copies() throws -> [any ObjectStore] { try locations.dropFirst().map { try $0.open(context) } }

    /// Opens the archive in its primary, for what writes or examines that one place.
    ///
    /// - Parameter wrap: puts something before the store.
    func open(through wrap: (any ObjectStore) -> any ObjectStore = { $0 }) async throws -> Catalog { try await Catalog.open(wrap(try primary())) }

    /// Opens the archive for what only reads: what the primary does not give comes from the copies, and the report tells.
    func openReading() async throws -> (catalog: Catalog, fallbacks: FallbackReport) {
        let report = FallbackReport()
        guard locations.count > 1 else { return (try await open(), report) }
        let begun = ContinuousClock.now
        let store = try await FallbackStore.open(primary: try primary(), copies: try copies(), rules: Catalog.placeRules, report: report) {
            let passed = (ContinuousClock.now - begun).components
            return Double(passed.seconds) + Double(passed.attoseconds) / 1e18
        }
        return (try await Catalog.open(store), report)
    }

    /// The options that name all places to another tidemark, for a shell.
    var shellOptions: String { locations.map { "--archive " + shellQuoted("\($0)") }.joined(separator: " ") }

    private var context: StoreContext {
        StoreContext(
            transport: { [bandwidth] in CurlTransport($0, bandwidth: bandwidth) },
            environment: { name in getenv(name).map { String(cString: $0) } }, now: { now() }, warn: { Log("archive").warning($0) })
    }
}

/// What a command read from copies, in its JSON.
struct Fallback: Encodable {
    var store: String
    var objects: Int
    var examples: [FallbackReport.Example]
    /// Why names were listed there alone.
    var listing: String?
}

extension FallbackReport {
    var json: [Fallback] { entries.map { Fallback(store: $0.store, objects: $0.objects, examples: $0.examples, listing: $0.listing) } }

    /// Tells on standard error what did not come from the primary.
    func warn() {
        for warning in warnings { Output.note("warning: \(warning)") }
        if !entries.isEmpty { Output.note("  next: nothing was put in order; `tidemark verify --contents` says what is wrong in the primary, docs/copies.md how to mend it") }
    }
}

func shellQuoted(_ text: String) -> String { "'" + text.replacing("'", with: "'\\''") + "'" }
