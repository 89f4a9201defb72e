import ArchiveCore
import Digests
import Synchronization
import Testing

@testable import Store

/// A server of S3 that answers as a test says, and keeps what it was asked. What the script does not answer is like a simple, right server.
final class ScriptedS3: HTTPTransport {
    struct Stored: Sendable {
        var bytes: [UInt8]
        var headers: [(name: String, value: String)] = []
    }
    private struct State: Sendable {
        var objects: [String: Stored] = [:]
        var asked: [HTTPRequest] = []
    }
    private let state = Mutex(State())
    private let script: @Sendable (HTTPRequest, Int) async throws -> HTTPResponse?

    /// - Parameter script: by a request and how many came before it; `nil`: as a right server would.
    init(_ script: @escaping @Sendable (HTTPRequest, Int) async throws -> HTTPResponse? = { _, _ in nil }) { self.script = script }

    var asked: [HTTPRequest] { state.withLock { $0.asked } }
    func asked(_ method: HTTPRequest.Method, _ end: String) -> Int { asked.count { $0.method == method && $0.path.hasSuffix(end) } }
    func object(_ name: String) -> [UInt8]? { state.withLock { $0.objects["/bucket/" + name]?.bytes } }
    func set(_ name: String, _ bytes: [UInt8]) { state.withLock { $0.objects["/bucket/" + name] = Stored(bytes: bytes) } }

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        let number = state.withLock { state in
            state.asked.append(request)
            return state.asked.count - 1
        }
        if let answer = try await script(request, number) { return answer }
        return state.withLock { Self.serve(request, &$0.objects) }
    }

    static func tag(_ bytes: [UInt8]) -> String { "\"\(hexText(MD5.of(bytes)))\"" }

    private static func serve(_ request: HTTPRequest, _ objects: inout [String: Stored]) -> HTTPResponse {
        if request.query.contains(where: { $0.name == "list-type" }) { return list(request, objects.mapValues(\.bytes)) }
        if request.path == "/bucket", request.method == .get {
            let absent = request.query.first?.name == "lifecycle" ? "NoSuchLifecycleConfiguration" : "ObjectLockConfigurationNotFoundError"
            return request.query.first?.name == "versioning" ? xml(200, "<VersioningConfiguration/>") : error(404, absent)
        }
        let object = objects[request.path]
        switch request.method {
        case .put:
            if object != nil, request["if-none-match"] == "*" { return error(412, "PreconditionFailed") }
            if let told = request["x-amz-checksum-sha256"], told != base64(SHA256.of(request.body)) { return error(400, "BadDigest") }
            let kept = request.headers.filter { $0.name.hasPrefix("x-amz-checksum-") }
            objects[request.path] = Stored(bytes: request.body, headers: kept)
            return HTTPResponse(status: 200, headers: [("ETag", tag(request.body))])
        case .head:
            guard let object else { return HTTPResponse(status: 404) }
            return HTTPResponse(status: 200, headers: [("ETag", tag(object.bytes)), ("Content-Length", "\(object.bytes.count)")] + object.headers)
        case .delete:
            objects[request.path] = nil
            return HTTPResponse(status: 204)
        case .get:
            guard let object else { return error(404, "NoSuchKey") }
            let parts = (request["range"] ?? "bytes=0-99999999").dropFirst(6).split(separator: "-").map { Int($0) ?? 0 }
            guard parts[0] < object.bytes.count else { return error(416, "InvalidRange") }
            let end = min(parts[1] + 1, object.bytes.count)
            return HTTPResponse(
                status: 206, headers: [("ETag", tag(object.bytes)), ("Content-Range", "bytes \(parts[0])-\(end - 1)/\(object.bytes.count)")],
                body: Array(object.bytes[parts[0]..<end]))
        case .post: return xml(200, "<DeleteResult/>")
        }
    }

    private static func list(_ request: HTTPRequest, _ objects: [String: [UInt8]]) -> HTTPResponse {
        let prefix = request.query.first { $0.name == "prefix" }?.value ?? ""
        let items = objects.map { (String($0.key.dropFirst(8)), $0.value.count) }.filter { $0.0.hasPrefix(prefix) }.sorted { $0.0 < $1.0 }
        let text = items.map { "<Contents><Key>\(percentEncoded($0.0))</Key><Size>\($0.1)</Size></Contents>" }.joined()
        return xml(200, "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\(text)</ListBucketResult>")
    }

    static func xml(_ status: Int, _ text: String) -> HTTPResponse { HTTPResponse(status: status, body: Array(text.utf8)) }
    static func error(_ status: Int, _ code: String, _ more: String = "") -> HTTPResponse {
        xml(status, "<Error><Code>\(code)</Code><Message>echoes s3cr3t and AKIDTEST</Message>\(more)</Error>")
    }

    static let time = Moment("2026-11-24T12:00:00Z")!

    /// A store that asks this server, and does not wait between attempts.
    func store(
        _ url: String = "s3://bucket/folder?endpoint=http://s3.test",
        environment: [String: String] = ["AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "s3cr3t"],
        warn: @escaping @Sendable (String) -> Void = { _ in }
    ) throws -> S3Store {
        S3Store(
            try S3Location(try StoreURL(url)),
            StoreContext(transport: { _ in self }, environment: { environment[$0] }, now: { Self.time }, warn: warn),
            pacing: Pacing(random: { 0 }, sleep: { _ in try Task.checkCancellation() }, seconds: { 0 }))
    }
}

/// The failure of `body`, which must be one of ours and must not show a secret.
func refusal<T>(_ body: () async throws -> T, sourceLocation: SourceLocation = #_sourceLocation) async -> ArchiveError {
    do {
        _ = try await body()
        Issue.record("nothing was refused", sourceLocation: sourceLocation)
    } catch let error as ArchiveError {
        let text = "\(error)"
        for secret in ["s3cr3t", "AKIDTEST", "Signature=", "t0k3n"] { #expect(!text.contains(secret), "\(text)", sourceLocation: sourceLocation) }
        return error
    } catch { Issue.record("an error of another kind: \(error)", sourceLocation: sourceLocation) }
    return ArchiveError(.usage, "")
}
