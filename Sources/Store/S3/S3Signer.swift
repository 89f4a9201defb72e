import ArchiveCore
import Digests

/// Signs requests in AWS's manner, Signature Version 4 ("Authenticating Requests", Amazon S3 API reference).
///
/// libcurl could sign (`CURLOPT_AWS_SIGV4`), but 7.88 does not sort the query (curl's issue 9717), hashes the body again for every
/// attempt on the thread that serves all transfers, and what it does with session tokens and odd keys changed from version to version.
struct S3Signer: Sendable {
    var credentials: S3Credentials
    var region: String
    var service = "s3"

    /// Headers that proxies and transports change or add.
    private static let unsigned: Set<String> = ["authorization", "user-agent", "expect", "connection", "transfer-encoding", "x-amzn-trace-id"]

    /// - Parameter payload: SHA-256 of the body; `nil`: computed here.
    /// - Returns: the request with `x-amz-date`, `x-amz-content-sha256` for S3, `x-amz-security-token` for temporary credentials, and `Authorization`.
    func sign(_ request: HTTPRequest, at time: Moment, payload: [UInt8]? = nil) -> HTTPRequest {
        var request = request
        let stamp = Self.stamp(time)
        request.set("x-amz-date", stamp)
        let digest = hexText(payload ?? SHA256.of(request.body))
        if service == "s3" { request.set("x-amz-content-sha256", digest) }
        if let token = credentials.sessionToken { request.set("x-amz-security-token", token) }
        let (canonical, signed) = Self.canonical(request, payload: digest)
        let scope = "\(stamp.prefix(8))/\(region)/\(service)/aws4_request"
        let text = "AWS4-HMAC-SHA256\n\(stamp)\n\(scope)\n\(hexText(SHA256.of(Array(canonical.utf8))))"
        var key = Array("AWS4\(credentials.secretAccessKey)".utf8)
        for part in [String(stamp.prefix(8)), region, service, "aws4_request"] { key = HMACSHA256.of(Array(part.utf8), key: key) }
        let signature = hexText(HMACSHA256.of(Array(text.utf8), key: key))
        request.set(
            "Authorization", "AWS4-HMAC-SHA256 Credential=\(credentials.accessKeyID)/\(scope), SignedHeaders=\(signed), Signature=\(signature)")
        return request
    }

    /// The canonical request, and the names of the headers in it. The path is taken as it goes over the wire: encoded once.
    static func canonical(_ request: HTTPRequest, payload: String) -> (text: String, signed: String) {
        let query = request.query.map { (percentEncoded($0.name), percentEncoded($0.value ?? "")) }.sorted { a, b in
            a.0 == b.0 ? a.1.utf8.lexicographicallyPrecedes(b.1.utf8) : a.0.utf8.lexicographicallyPrecedes(b.0.utf8)
        }
        var values: [String: [String]] = ["host": [request.host]]
        for header in request.headers {
            let name = header.name.lowercased()
            guard !unsigned.contains(name) else { continue }
            values[name, default: []].append(header.value.split { $0 == " " || $0 == "\t" }.joined(separator: " "))
        }
        let names = values.keys.sorted()
        let headers = names.map { "\($0):\((values[$0] ?? []).joined(separator: ","))\n" }.joined()
        let signed = names.joined(separator: ";")
        let text = [
            request.method.rawValue, request.path, query.map { "\($0.0)=\($0.1)" }.joined(separator: "&"), headers, signed, payload,
        ].joined(separator: "\n")
        return (text, signed)
    }

    /// `20150830T123600Z`.
    static func stamp(_ time: Moment) -> String { time.description.prefix(19).filter { $0 != "-" && $0 != ":" } + "Z" }
}
