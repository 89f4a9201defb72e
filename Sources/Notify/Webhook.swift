import ArchiveCore
import Digests
import Store

/// An address that is posted to.
public struct Webhook: Sendable, Hashable {
    public enum Format: String, Sendable, CaseIterable { case json, slack }

    public let scheme: String
    /// With `:port`.
    public let host: String
    /// With its query; a secret.
    let path: String
    public var format: Format
    /// Further ones of the request; their values may be secrets.
    public var headers: [(name: String, value: String)] = []
    /// Key of the signature; `nil`: it is not signed.
    public var secret: String?

    public static func == (a: Webhook, b: Webhook) -> Bool {
        (a.scheme, a.host, a.path, a.format, a.secret) == (b.scheme, b.host, b.path, b.format, b.secret) && a.headers.elementsEqual(b.headers, by: ==)
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(host)
        hasher.combine(path)
    }

    /// - Returns: `nil` unless `url` is `https://host[:port]/path`, or the same with `http`; a user in it belongs into a header.
    public init?(_ url: String, format: Format = .json) {
        guard let end = url.range(of: "://"), url.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "\\") }) else { return nil }
        scheme = url[..<end.lowerBound].lowercased()
        let rest = url[end.upperBound...].prefix { $0 != "#" }
        let hostEnd = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        host = String(rest[..<hostEnd])
        let tail = rest[hostEnd...]
        path = tail.hasPrefix("/") ? String(tail) : "/\(tail)"
        guard scheme == "https" || scheme == "http", !host.isEmpty, !host.contains("@") else { return nil }
        self.format = format
    }

    /// Without what is secret.
    public var shown: String { "\(scheme)://\(host)/…" }

    /// Whether a header can be sent as it is.
    public static func isHeader(_ name: String, _ value: String) -> Bool {
        let marks = Set("!#$%&'*+-.^_`|~".utf8)
        return !name.isEmpty
            && name.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0) || marks.contains($0) }
            && value.utf8.allSatisfy { (0x20...0x7E).contains($0) || $0 == 9 }
    }

    public func request(_ notice: Notice, from origin: Origin) -> HTTPRequest {
        let body = format == .slack ? NoticeText.slack(notice, from: origin) : NoticeText.json(notice, from: origin)
        var request = HTTPRequest(
            .post, scheme: scheme, host: host, path: path, headers: [("Content-Type", "application/json"), ("User-Agent", "tidemark/\(origin.version)")], body: body,
            responseLimit: 64 << 10)
        for header in headers { request.set(header.name, header.value) }
        if let secret { request.set("X-Tidemark-Signature", "sha256=\(hexText(HMACSHA256.of(body, key: Array(secret.utf8))))") }
        return request
    }

    /// - Throws: `.notificationFailed`, `.notificationRefused`, `CancellationError`.
    func send(_ notice: Notice, from origin: Origin, over transport: any HTTPTransport) async throws {
        let response: HTTPResponse
        do { response = try await transport.send(request(notice, from: origin)) } catch let failure as HTTPFailure {
            if failure.kind == .cancelled { throw CancellationError() }
            throw ArchiveError(
                .notificationFailed, "The webhook \(shown) did not answer: \(failure.message)",
                remedy: "See that it is up and can be reached from here.")
        }
        switch response.status {
        case 200...299: return
        case 408, 425, 429, 500...599:
            throw ArchiveError(.notificationFailed, "The webhook \(shown) answered \(response.status).", remedy: "See to the service behind it.")
        default:
            throw ArchiveError(
                .notificationRefused, "The webhook \(shown) answered \(response.status).", remedy: "Correct its URL, its headers or its secret under 'notify'.")
        }
    }
}
