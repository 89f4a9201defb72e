import ArchiveCore

/// An archive in a bucket of S3, or of something that speaks it: `s3://bucket/folder?option=value&…`.
public struct S3Location: Sendable, Hashable, CustomStringConvertible {
    enum Addressing: String, Sendable { case path, virtual }
    enum Lock: String, Sendable { case governance, compliance }
    enum Checksum: String, Sendable, CaseIterable { case sha256, crc32c, md5, none }

    var bucket: String
    /// Ends in `/` unless it is empty.
    var prefix: String
    /// `nil`: what the environment or the profile says, or us-east-1.
    var region: String?
    /// `nil`: what the environment says, or AWS's own for the region.
    var endpoint: ServiceEndpoint?
    var addressing: Addressing?
    var profile: String?
    var storageClass: String?
    /// The value of `x-amz-server-side-encryption`, and the key that KMS shall use.
    var encryption: String?
    var encryptionKey: String?
    var lock: Lock?
    /// Days that every object stays locked.
    var retainDays: Int?
    /// Whether the archive is not to be without versions of objects.
    var versioning = false
    /// `nil`: the best that the server supports.
    var checksum: Checksum?
    var transport: TransportOptions

    static let names = [
        "region", "endpoint", "addressing", "profile", "storage-class", "sse", "sse-kms-key", "lock", "retain", "versioning", "checksum",
    ]

    /// - Throws: `.usage` with what would be right.
    init(_ url: StoreURL) throws(ArchiveError) {
        try url.checkOptions(Self.names + TransportOptions.names)
        func fail(_ why: String, _ remedy: String) -> ArchiveError { ArchiveError(.usage, "'\(url.summary)' \(why).", remedy: remedy) }
        func word<T: RawRepresentable>(_ name: String, _ known: [String]) throws(ArchiveError) -> T? where T.RawValue == String {
            guard let text = url.options[name] else { return nil }
            guard let value = T(rawValue: text) else { throw fail("has a value for '\(name)' that is not known", "Write one of: \(known.joined(separator: ", ")).") }
            return value
        }
        func plain(_ name: String, _ what: String) throws(ArchiveError) -> String? {
            guard let text = url.options[name] else { return nil }
            guard text.utf8.count <= 256, text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw fail("has a value for '\(name)' that is no \(what)", "Write \(name)= with letters, digits and signs only.")
            }
            return text
        }
        bucket = url.name
        prefix = try url.keyPrefix()
        transport = try TransportOptions(url)
        region = try plain("region", "region")
        if let region,
            !region.utf8.allSatisfy({ byte in (0x30...0x39).contains(byte) || (0x61...0x7A).contains(byte | 0x20) || byte == 0x2D || byte == 0x5F })
        {
            throw fail("has a value for 'region' that is none", "Write it as region=eu-central-1.")
        }
        if let text = url.options["endpoint"] {
            guard let address = ServiceEndpoint(text) else {
                throw fail("has an endpoint that is no address", "Write it as endpoint=https://host:port.")
            }
            endpoint = address
        }
        addressing = try word("addressing", ["path", "virtual"])
        profile = try plain("profile", "profile")
        storageClass = try plain("storage-class", "storage class")
        encryption = try plain("sse", "encryption")
        encryptionKey = try plain("sse-kms-key", "key")
        lock = try word("lock", ["governance", "compliance"])
        checksum = try word("checksum", Checksum.allCases.map(\.rawValue))
        if let text = url.options["retain"] {
            guard text.hasSuffix("d"), let days = Int(text.dropLast()), (1...36_500).contains(days) else {
                throw fail("has a value for 'retain' that is no number of days", "Write days, such as retain=30d.")
            }
            retainDays = days
        }
        if let text = url.options["versioning"] {
            guard text == "required" else { throw fail("has a value for 'versioning' that is not known", "Write versioning=required, or leave it out.") }
            versioning = true
        }
        try checkTogether(fail)
    }

    private func checkTogether(_ fail: (String, String) -> ArchiveError) throws(ArchiveError) {
        // AWS allows less, which is seen when the endpoint is known; other servers have capitals and underscores.
        let isName = bucket.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x39, 0x61...0x7A, 0x41...0x5A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"): true
            default: false
            }
        }
        guard (3...63).contains(bucket.utf8.count), isName, !bucket.contains(".."), !bucket.hasPrefix("."), !bucket.hasPrefix("-") else {
            throw fail("does not name a bucket", "Write it as s3://bucket/folder; a bucket's name has 3 to 63 letters, digits, '-' and '.'.")
        }
        if addressing == .virtual, bucket.contains("_") || bucket.lowercased() != bucket {
            throw fail("has a bucket that cannot be part of a host's name", "Use addressing=path.")
        }
        if let encryption, !["AES256", "aws:kms", "aws:kms:dsse"].contains(encryption) {
            throw fail("has a value for 'sse' that is not known", "Write sse=AES256 or sse=aws:kms.")
        }
        guard encryptionKey == nil || encryption?.hasPrefix("aws:kms") == true else {
            throw fail("has a key for KMS without sse=aws:kms", "Add sse=aws:kms.")
        }
        guard (lock == nil) == (retainDays == nil) else {
            throw fail("has only one of 'lock' and 'retain'", "Write both, such as lock=governance&retain=30d.")
        }
        guard lock == nil || checksum != S3Location.Checksum.none else {
            throw fail("locks objects without a checksum", "Leave checksum=none out: S3 locks nothing without one.")
        }
        if let storageClass, ["GLACIER", "DEEP_ARCHIVE"].contains(storageClass) {
            throw fail("names a storage class that cannot be read at once", "Use STANDARD, STANDARD_IA or GLACIER_IR.")
        }
    }

    public var description: String { "s3://\(bucket)" + (prefix.isEmpty ? "" : "/" + prefix.dropLast()) }
}

/// Where the requests go: worked out from the location, the environment and the profile.
struct S3Place: Sendable, Hashable {
    var region: String
    var endpoint: ServiceEndpoint
    /// Whether the bucket stands in the path, and not in the host's name.
    var isPathStyle: Bool

    /// - Parameter configured: what the profile's configuration file says of region and endpoint.
    /// - Throws: `.usage` for an endpoint in the environment that is no address, and for a bucket that AWS cannot have.
    init(_ location: S3Location, environment: (String) -> String?, configured: (String) -> String?) throws(ArchiveError) {
        func set(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
        region = location.region ?? set("AWS_REGION") ?? set("AWS_DEFAULT_REGION") ?? configured("region") ?? "us-east-1"
        let given = set("AWS_ENDPOINT_URL_S3") ?? set("AWS_ENDPOINT_URL") ?? configured("endpoint_url")
        if let address = location.endpoint {
            endpoint = address
        } else if let given {
            guard let address = ServiceEndpoint(given) else {
                throw ArchiveError(
                    .usage, "The endpoint for S3 in the environment or in the profile is no address.",
                    remedy: "Write AWS_ENDPOINT_URL_S3 as https://host:port.")
            }
            endpoint = address
        } else {
            guard let address = ServiceEndpoint("https://s3.\(region).\(Self.domain(region))") else {
                throw ArchiveError(.usage, "'\(region)' is no region.", remedy: "Write it as region=eu-central-1.")
            }
            endpoint = address
        }
        // A certificate for *.s3.amazonaws.com does not cover a bucket with a dot; servers of one's own rarely have a name for each bucket.
        let isOwn = location.endpoint != nil || given != nil
        guard isOwn || location.bucket.lowercased() == location.bucket && !location.bucket.contains("_") else {
            throw ArchiveError(
                .usage, "'\(location.bucket)' is no name of a bucket of AWS.",
                remedy: "A bucket's name has 3 to 63 of a-z, 0-9, '-' and '.'. For a server of your own, which may allow more, add endpoint=https://host:port.")
        }
        isPathStyle = location.addressing.map { $0 == .path } ?? (isOwn || location.bucket.contains(".") || location.bucket.contains("_"))
    }

    /// The domain of AWS's partition.
    static func domain(_ region: String) -> String { region.hasPrefix("cn-") ? "amazonaws.com.cn" : "amazonaws.com" }
}
