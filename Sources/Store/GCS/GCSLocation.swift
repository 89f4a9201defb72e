import ArchiveCore

/// `gs://bucket/folder?option=value&…`: an archive in Google Cloud Storage.
public struct GCSLocation: Sendable, Hashable, CustomStringConvertible {
    public var bucket: String
    /// Empty, or ends in `/`; every object's name begins with it.
    public var prefix: String
    /// `http(s)://host[:port]`; `nil`: `STORAGE_EMULATOR_HOST`, or Google's own.
    public var endpoint: String?
    /// Such as `NEARLINE`; `nil`: the bucket's.
    public var storageClass: String?
    /// A file of credentials; `none`: no credentials; `nil`: `GOOGLE_APPLICATION_CREDENTIALS`, or the metadata server's.
    public var credentials: String?
    /// The project that pays, for buckets whose readers do.
    public var userProject: String?
    /// Whether `tidemark check` fails where the bucket keeps no versions, or has no retention policy.
    public var needsVersioning = false
    public var needsRetention = false
    public var transport: TransportOptions

    init(_ url: StoreURL) throws(ArchiveError) {
        try url.checkOptions(
            ["endpoint", "storage-class", "credentials", "user-project", "versioning", "retention"] + TransportOptions.names)
        guard (3...222).contains(url.name.utf8.count),
            url.name.utf8.allSatisfy({ byte in
                switch byte {
                case 0x30...0x39, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."): true
                default: false
                }
            })
        else {
            throw ArchiveError(
                .usage, "'\(url.summary)' names no bucket of Google Cloud Storage.",
                remedy: "Write it as gs://bucket/folder; a bucket's name has 3 to 222 of a-z, 0-9, '-', '_' and '.'.")
        }
        bucket = url.name
        prefix = try url.keyPrefix()
        endpoint = url.options["endpoint"]
        if let endpoint, ServiceEndpoint(endpoint) == nil { throw Self.badEndpoint }
        storageClass = url.options["storage-class"]
        guard storageClass.map({ shownCode($0) != nil }) ?? true else {
            throw ArchiveError(.usage, "'\(url.summary)' names no storage class.", remedy: "Use STANDARD, NEARLINE, COLDLINE or ARCHIVE.")
        }
        credentials = url.options["credentials"]
        userProject = url.options["user-project"]
        needsVersioning = try url.requirement("versioning")
        needsRetention = try url.requirement("retention")
        transport = try TransportOptions(url)
    }

    static var badEndpoint: ArchiveError {
        ArchiveError(.usage, "The endpoint is no address of a service.", remedy: "Write it as https://host or http://host:port.")
    }

    public var description: String { "gs://\(bucket)" + (prefix.isEmpty ? "" : "/" + prefix.dropLast()) }

    /// Where requests go to.
    ///
    /// - Throws: `.usage` when `STORAGE_EMULATOR_HOST` is no address.
    func service(_ environment: (String) -> String?) throws(ArchiveError) -> ServiceEndpoint {
        guard let text = endpoint ?? environment("STORAGE_EMULATOR_HOST").map({ $0.contains("://") ? $0 : "http://" + $0 }), !text.isEmpty else {
            return ServiceEndpoint("https://storage.googleapis.com")!
        }
        guard let service = ServiceEndpoint(text) else { throw Self.badEndpoint }
        return service
    }

    /// The store itself; nothing is asked before it is used.
    public func open(_ context: StoreContext) throws -> any ObjectStore { try GCSStore(self, context) }
}

extension StoreURL {
    /// - Throws: `.usage` unless the option is absent or `required`.
    func requirement(_ name: String) throws(ArchiveError) -> Bool {
        guard let value = options[name] else { return false }
        guard value == "required" else {
            throw ArchiveError(.usage, "The value for '\(name)' of '\(summary)' is not known.", remedy: "Write \(name)=required, or leave it out.")
        }
        return true
    }
}
