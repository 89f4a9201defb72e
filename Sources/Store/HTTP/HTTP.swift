import ArchiveCore

/// One request of HTTP, held in memory so that it can be repeated.
public struct HTTPRequest: Sendable {
    public enum Method: String, Sendable { case get = "GET", head = "HEAD", put = "PUT", post = "POST", delete = "DELETE" }

    public var method: Method
    /// `https`, or `http` for servers that an administrator named so.
    public var scheme: String
    /// With `:port` where it is not the scheme's own.
    public var host: String
    /// Begins with `/`; percent-encoded as it goes over the wire.
    public var path: String
    /// Not encoded; sent, and signed, in this order; a `nil` value is sent without `=`.
    public var query: [(name: String, value: String?)]
    public var headers: [(name: String, value: String)]
    public var body: [UInt8]
    /// Bytes of body that an answer may have: more end the transfer with `.tooLong`.
    public var responseLimit: Int

    public init(
        _ method: Method, scheme: String = "https", host: String, path: String, query: [(name: String, value: String?)] = [],
        headers: [(name: String, value: String)] = [], body: [UInt8] = [], responseLimit: Int = 8 << 20
    ) {
        self.method = method
        self.scheme = scheme
        self.host = host
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.responseLimit = responseLimit
    }

    /// The query as it goes over the wire: names and values percent-encoded (RFC 3986), joined by `&`.
    public var encodedQuery: String {
        query.map { item in percentEncoded(item.name) + (item.value.map { "=" + percentEncoded($0) } ?? "") }.joined(separator: "&")
    }

    public var url: String { "\(scheme)://\(host)\(path)" + (query.isEmpty ? "" : "?" + encodedQuery) }

    /// `host:port`, also where the port is the scheme's own.
    var server: String {
        let end = host.lastIndex(of: ":").map { host[host.index(after: $0)...] } ?? ""
        return !end.isEmpty && end.allSatisfy(\.isNumber) ? host : host + (scheme == "https" ? ":443" : ":80")
    }

    /// What people are shown: never the query, which may carry a signature.
    public var summary: String { "\(method.rawValue) \(scheme)://\(host)\(path)" }

    public mutating func set(_ name: String, _ value: String) {
        headers.removeAll { $0.name.lowercased() == name.lowercased() }
        headers.append((name, value))
    }

    public subscript(_ name: String) -> String? { headers.first { $0.name.lowercased() == name.lowercased() }?.value }
}

public struct HTTPResponse: Sendable {
    public var status: Int
    public var headers: [(name: String, value: String)]
    public var body: [UInt8]

    public init(status: Int, headers: [(name: String, value: String)] = [], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    /// A header's value, whatever the case of its name.
    public subscript(_ name: String) -> String? { headers.first { $0.name.lowercased() == name.lowercased() }?.value }
}

/// Why no whole answer came.
public struct HTTPFailure: Error, CustomStringConvertible, Sendable {
    public enum Kind: String, Sendable {
        /// Nobody listens there.
        case unreachable
        /// The name of the server, or of the proxy, is unknown.
        case unknownName
        /// The server's certificate is not trusted, not for this host, or no TLS could be spoken.
        case tls
        /// Something other than TLS is spoken at an address of `https`.
        case plain
        /// No connection, or no byte, within the time that is allowed.
        case timeout
        /// The connection ended before the answer did.
        case cut
        /// The answer is no HTTP.
        case malformed
        /// The answer has more bytes than `responseLimit`.
        case tooLong
        /// The proxy refused.
        case proxy
        /// The request cannot be sent as it is: its address, or a header, is none.
        case request
        case cancelled
    }
    public var kind: Kind
    /// A sentence without secrets.
    public var message: String

    public init(_ kind: Kind, _ message: String) {
        self.kind = kind
        self.message = message
    }

    public var description: String { message }
}

/// Carries one request to one answer. No retries; whoever calls decides.
public protocol HTTPTransport: Sendable {
    /// - Returns: any whole answer, whatever its status.
    /// - Throws: `HTTPFailure` when none came; `.cancelled` when the task was.
    func send(_ request: HTTPRequest) async throws -> HTTPResponse
}

/// RFC 3986: everything but letters, digits and `-._~` becomes `%XX`.
///
/// - Parameter slash: whether `/` stays as it is, as in a path.
public func percentEncoded(_ text: some StringProtocol, keeping slash: Bool = false) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var result: [UInt8] = []
    for byte in text.utf8 {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"): result.append(byte)
        case UInt8(ascii: "/") where slash: result.append(byte)
        default: result += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }
    return String(decoding: result, as: UTF8.self)
}
