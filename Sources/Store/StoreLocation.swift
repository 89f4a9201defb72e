import ArchiveCore
import Runtime

/// An archive's URL, taken apart: `scheme://name/path?option=value&…`.
struct StoreURL: Sendable, Hashable {
    var scheme: String
    /// A bucket or container; empty for a directory.
    var name: String
    /// Without the slashes around it.
    var path: String
    var options: [String: String]

    /// What people are shown: never the options, whose values may hold what is nobody's business.
    var summary: String { "\(scheme)://\(name)" }

    /// The forms that an archive's URL may have.
    static let forms = "Write it as file:///srv/tidemark, s3://bucket/folder, gs://bucket/folder or azblob://container/folder."

    /// - Throws: `.usage`, also when a user name or a password is in it: what is in a URL ends up in logs.
    init(_ text: String) throws(ArchiveError) {
        guard let colon = text.firstRange(of: "://"), colon.lowerBound != text.startIndex else {
            let shown = text.contains("@") || text.contains("?") ? "What is given" : "'\(text)'"
            throw ArchiveError(.usage, "\(shown) is not an archive's URL.", remedy: Self.forms)
        }
        scheme = text[..<colon.lowerBound].lowercased()
        var rest = text[colon.upperBound...]
        options = [:]
        if let mark = rest.firstIndex(of: "?") {
            for item in rest[rest.index(after: mark)...].split(separator: "&") {
                let parts = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                guard parts.count == 2, let value = percentDecoded(parts[1]), !value.isEmpty, options[String(parts[0])] == nil else {
                    // Without a value, the whole item could be one.
                    let shown = parts.count == 2 ? "the option '\(parts[0])'" : "an option"
                    throw ArchiveError(
                        .usage, "The URL of an archive at \(scheme):// has \(shown) without a value, or twice.",
                        remedy: "Write options as ?name=value&name=value.")
                }
                options[String(parts[0])] = value
            }
            rest = rest[..<mark]
        }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        name = String(rest[..<slash])
        guard !name.contains("@") else {
            throw ArchiveError(.usage, "An archive's URL names a user.", remedy: "Leave it out: credentials come from the environment or from files.")
        }
        path = String(rest[slash...])
        while path.hasPrefix("/") { path.removeFirst() }
        while path.hasSuffix("/") { path.removeLast() }
    }

    /// - Throws: `.usage` for an option that is not among `known`.
    func checkOptions(_ known: [String]) throws(ArchiveError) {
        for option in options.keys.sorted() where !known.contains(option) {
            throw ArchiveError(
                .usage, "'\(summary)' has an option '\(option)', which \(scheme):// does not know.", remedy: "It knows: \(known.joined(separator: ", ")).")
        }
    }

    /// - Throws: `.usage` unless the path is empty or what object keys are made of.
    func keyPrefix() throws(ArchiveError) -> String {
        guard path.isEmpty || path.utf8.count <= 200 && ObjectKey(path) != nil else {
            throw ArchiveError(
                .usage, "'\(summary)' has a folder that object names cannot begin with.", remedy: "Use letters, digits and '._-+@=', with '/' between parts.")
        }
        return path.isEmpty ? "" : path + "/"
    }
}

private func percentDecoded(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        guard byte == UInt8(ascii: "%") else {
            bytes.append(byte)
            continue
        }
        guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else { return nil }
        bytes.append(value)
        rest = rest.dropFirst(2)
    }
    return String(validating: bytes, as: UTF8.self)
}

/// What stores of the cloud are given by the process that they run in.
public struct StoreContext: Sendable {
    /// Makes the connection to a service.
    public var transport: @Sendable (TransportOptions) throws -> any HTTPTransport
    /// Looks up a variable of the environment.
    public var environment: @Sendable (String) -> String?
    public var now: @Sendable () -> Moment
    /// How often a service is asked again.
    public var retries: RetryPolicy
    /// Tells somebody what they should know, in one sentence without secrets.
    public var warn: @Sendable (String) -> Void

    public init(
        transport: @escaping @Sendable (TransportOptions) throws -> any HTTPTransport, environment: @escaping @Sendable (String) -> String?,
        now: @escaping @Sendable () -> Moment, retries: RetryPolicy = RetryPolicy(), warn: @escaping @Sendable (String) -> Void
    ) {
        self.retries = retries
        self.transport = transport
        self.environment = environment
        self.now = now
        self.warn = warn
    }
}

/// How to talk to a service; the options of an archive's URL that all clouds share.
public struct TransportOptions: Sendable, Hashable {
    /// A PEM file with the authorities to trust; `nil`: the system's.
    public var caFile: String?
    /// Such as `http://proxy:3128`; `nil`: what the environment says (`https_proxy`, `no_proxy`); empty: none.
    public var proxy: String?
    /// Seconds until a connection must stand, and without a byte until a transfer counts as stalled.
    public var connectTimeout = 10.0
    public var stallTimeout = 30.0
    /// Whether an answer that tells the right checksum is enough for a put to count; otherwise the object is asked for as well.
    public var believesAnswers = false

    static let names = ["ca-file", "proxy", "connect-timeout", "stall-timeout", "confirm"]

    public init() {}

    init(_ url: StoreURL) throws(ArchiveError) {
        caFile = url.options["ca-file"]
        proxy = url.options["proxy"]
        guard proxy?.contains("@") != true else {
            throw ArchiveError(
                .usage, "The option 'proxy' of '\(url.summary)' names a user or a password.",
                remedy: "Put them in https_proxy, and leave proxy= out: what is in a URL ends up in logs and configurations.")
        }
        func seconds(_ name: String, _ standard: Double) throws(ArchiveError) -> Double {
            guard let text = url.options[name] else { return standard }
            guard text.hasSuffix("s"), let value = Double(text.dropLast()), (0.1...3600).contains(value) else {
                throw ArchiveError(.usage, "The value for '\(name)' is no time.", remedy: "Write seconds from 0.1s to 3600s, such as \(name)=10s.")
            }
            return value
        }
        connectTimeout = try seconds("connect-timeout", connectTimeout)
        stallTimeout = try seconds("stall-timeout", stallTimeout)
        switch url.options["confirm"] {
        case nil, "look": break
        case "answer": believesAnswers = true
        case .some: throw ArchiveError(.usage, "The value for 'confirm' is not known.", remedy: "Write confirm=look or confirm=answer.")
        }
    }
}

/// The place that an archive's URL names.
public enum StoreLocation: Sendable, Hashable, CustomStringConvertible {
    case file(path: String)
    case s3(S3Location)
    case gcs(GCSLocation)
    case azure(AzureLocation)

    /// - Throws: `.usage` for a URL of no known kind.
    public init(_ text: String) throws(ArchiveError) {
        let url = try StoreURL(text)
        switch url.scheme {
        case "file":
            guard url.name.isEmpty, !url.path.isEmpty, url.options.isEmpty, !url.path.utf8.contains(0) else {
                throw ArchiveError(.usage, "'\(url.summary)/\(url.path)' does not name an absolute directory.", remedy: "Write it as file:///srv/tidemark.")
            }
            self = .file(path: "/" + url.path)
        case "s3": self = .s3(try S3Location(url))
        case "gs": self = .gcs(try GCSLocation(url))
        case "azblob": self = .azure(try AzureLocation(url))
        default:
            throw ArchiveError(
                .usage, "Archives at '\(url.scheme)://…' are not supported: there are file://, s3://, gs:// and azblob://.", remedy: StoreURL.forms)
        }
    }

    public var description: String {
        switch self {
        case .file(let path): "file://\(path)"
        case .s3(let location): location.description
        case .gcs(let location): location.description
        case .azure(let location): location.description
        }
    }

    /// The store itself; nothing is asked or created before it is used.
    public func open(_ context: StoreContext) throws -> any ObjectStore {
        switch self {
        case .file(let path): FileStore(path: path)
        case .s3(let location): S3Store(location, context)
        case .gcs(let location): try location.open(context)
        case .azure(let location): try location.open(context)
        }
    }
}
