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
    /// Their URLs as they were written, with all options.
    private let urls: [String]
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
            try self.init(urls: urls)
        } else {
            try self.init(try Shared.configuration(arguments))
        }
        recipients += arguments.all("recipient")
        identities += try IdentityFile.paths(arguments)
    }

    private init(urls: [String]) throws(ArchiveError) {
        self.urls = urls
        locations = try urls.map { url throws(ArchiveError) in try StoreLocation(url) }
    }

    init(_ configuration: Configuration) throws {
        try self.init(urls: [configuration.archive] + configuration.copies)
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

    /// Why a copy's place is none, as far as the names of the places tell; `nil`: it may be one. Follows symbolic links, so it blocks.
    ///
    /// - Parameter copy: counts from 0.
    func misplacement(ofCopy copy: Int) -> ArchiveError? {
        let location = locations[copy + 1]
        for (n, other) in locations[...copy].enumerated() {
            if let overlap = location.overlap(with: other) { return .noCopy("\(location)", overlap, "\(other)", isPrimary: n == 0) }
        }
        return nil
    }

    /// Opens the archive in its primary alone, for what examines or writes that one place.
    ///
    /// - Parameters:
    ///   - withIdentities: whether what is encrypted is to be read too.
    ///   - wrap: puts something before the store.
    func open(withIdentities: Bool = false, through wrap: (any ObjectStore) -> any ObjectStore = { $0 }) async throws -> Catalog {
        try await Catalog.open(wrap(try primary()), keys: try await keys(withIdentities))
    }

    private func keys(_ withIdentities: Bool) async throws -> ArchiveKeys {
        var keys = ArchiveKeys(recipients: try parsedRecipients())
        if withIdentities { keys.identities = try await blocking { [identities] in try identities.flatMap(IdentityFile.read) } }
        return keys
    }

    /// Opens the archive to be written: the configuration and the archive agree on encryption. Who writes needs no identity.
    ///
    /// - Throws: also `.encryptionDiffers`.
    func openToWrite(through wrap: (any ObjectStore) -> any ObjectStore = { $0 }) async throws -> Catalog {
        let catalog = try await open(through: wrap)
        try catalog.checkWriter()
        return catalog
    }

    /// Opens the archive for what only reads: what the primary does not give comes from the copies, and the report tells.
    ///
    /// - Parameter withIdentities: whether what is encrypted is to be read too.
    func openReading(withIdentities: Bool = false) async throws -> (catalog: Catalog, fallbacks: FallbackReport) {
        let report = FallbackReport()
        guard locations.count > 1 else { return (try await open(withIdentities: withIdentities), report) }
        let begun = ContinuousClock.now
        let store = try await FallbackStore.open(primary: try primary(), copies: try copies(), rules: Catalog.placeRules, report: report) {
            let passed = (ContinuousClock.now - begun).components
            return Double(passed.seconds) + Double(passed.attoseconds) / 1e18
        }
        return (try await Catalog.open(store, keys: try await keys(withIdentities)), report)
    }

    func parsedRecipients() throws(ArchiveError) -> [AgeRecipient] { try recipients.map { text throws(ArchiveError) in try AgeRecipient(text) } }

    /// The options that name all places, and the identities, to another tidemark, for a shell.
    var shellOptions: String {
        (urls.map { "--archive " + shellQuoted($0) } + identities.map { "--identity " + shellQuoted($0) }).joined(separator: " ")
    }

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
