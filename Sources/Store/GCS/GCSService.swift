import ArchiveCore
import Digests
import Foundation
import Synchronization

/// Single requests to one bucket of Google Cloud Storage, by its JSON API.
final class GCSService: WriteOnceService {
    let location: GCSLocation
    let description: String
    let now: @Sendable () -> Moment
    private let endpoint: ServiceEndpoint
    private let client: HTTPClient
    private let tokens: TokenCache
    private let isAnonymous: Bool

    init(_ location: GCSLocation, _ context: StoreContext) throws {
        self.location = location
        description = location.description
        now = context.now
        endpoint = try location.service(context.environment)
        let credentials = GCSCredentials(location, endpoint, context.environment)
        if case .anonymous = credentials { isAnonymous = true } else { isAnonymous = false }
        let transport = try context.transport(location.transport)
        client = HTTPClient(transport, service: description, now: context.now, policy: context.retries, telling: context.warn)
        var direct = location.transport
        direct.proxy = ""
        let remote = TokenServer(transport, name: "Google's token server", policy: .token, now: context.now)
        direct.connectTimeout = min(direct.connectTimeout, 2)
        direct.stallTimeout = min(direct.stallTimeout, 5)
        let local = TokenServer(
            isAnonymous ? transport : try context.transport(direct), name: "The metadata server of this machine", policy: .nearby, now: context.now)
        tokens = TokenCache { try await credentials.token(at: $0, remote: remote, local: local) }
    }

    /// Sends a request with a token; with a new one, once, where that is not taken.
    ///
    /// - Parameter accepted: the statuses that the caller understands.
    /// - Throws: `.storeRefused` for others.
    func send(_ request: HTTPRequest, accepting accepted: Set<Int>, to doing: String, needing permission: String) async throws -> HTTPResponse {
        var request = request
        if let project = location.userProject { request.query.append(("userProject", project)) }
        for isLast in [false, true] {
            let used = Mutex("")
            let response = try await client.send(
                request,
                preparing: { request, time in
                    guard !self.isAnonymous else { return request }
                    let token = try await self.tokens.value(at: time)
                    used.withLock { $0 = token }
                    var request = request
                    request.set("Authorization", "Bearer \(token)")
                    return request
                }, judging: GCSRefusal.verdict)
            if accepted.contains(response.status) { return response }
            let token = used.withLock { $0 }
            guard response.status == 401, !isLast, !token.isEmpty else {
                throw GCSRefusal(response).error(doing, bucket: location.bucket, needing: permission)
            }
            await tokens.refuse(token)
        }
        preconditionFailure("the last attempt returns or throws")
    }

    /// A request to the bucket: `/storage/v1/b/BUCKET` and what follows.
    func request(_ method: HTTPRequest.Method, _ path: String, _ query: [(name: String, value: String?)] = []) -> HTTPRequest {
        HTTPRequest(
            method, scheme: endpoint.scheme, host: endpoint.host, path: "\(endpoint.path)/storage/v1/b/\(percentEncoded(location.bucket))\(path)", query: query)
    }

    private func path(_ key: ObjectKey) -> String { "/o/" + percentEncoded(location.prefix + key.path) }

    func create(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Creation {
        struct Metadata: Encodable {
            var name: String
            var crc32c: String
            var md5Hash: String
            var storageClass: String?
        }
        let metadata = Metadata(
            name: location.prefix + key.path, crc32c: GCSHashes.text(crc32c: mark.crc32c), md5Hash: Data(mark.md5).base64EncodedString(),
            storageClass: location.storageClass)
        // Not known before it is sent, so that no object can contain it on purpose.
        let boundary = "tidemark-\(hexText((0..<16).map { _ in UInt8.random(in: 0...255) }))"
        let head = "--\(boundary)\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
        let middle = "\r\n--\(boundary)\r\nContent-Type: application/octet-stream\r\n\r\n"
        let json = try JSONEncoder().encode(metadata)
        var body: [UInt8] = []
        body.reserveCapacity(bytes.count + json.count + 512)
        body += head.utf8
        body += json
        body += middle.utf8
        body += bytes
        body += "\r\n--\(boundary)--\r\n".utf8
        let request = HTTPRequest(
            .post, scheme: endpoint.scheme, host: endpoint.host, path: "\(endpoint.path)/upload/storage/v1/b/\(percentEncoded(location.bucket))/o",
            query: [("uploadType", "multipart"), ("ifGenerationMatch", "0")], headers: [("Content-Type", "multipart/related; boundary=\(boundary)")], body: body)
        let response = try await send(request, accepting: [200, 400, 403, 412], to: "put '\(key)' into \(description)", needing: "storage.objects.create")
        switch response.status {
        case 200:
            let answer = try? JSONDecoder().decode(GCSObject.self, from: Data(response.body))
            return .created(answer?.state)
        case 412: return .exists
        default:
            let refusal = GCSRefusal(response)
            if refusal.mismatch { return .mangled("other bytes arrived than were sent") }
            // Objects under retention are not replaced, whatever the condition says.
            if refusal.reason == "retentionPolicyNotMet", try await look(at: key) != nil { return .exists }
            throw refusal.error("put '\(key)' into \(description)", bucket: location.bucket, needing: "storage.objects.create")
        }
    }

    func look(at key: ObjectKey) async throws -> StoredState? {
        let request = request(.get, path(key), [("fields", "name,size,md5Hash,crc32c,generation")])
        let response = try await send(request, accepting: [200, 404], to: "look at '\(key)' in \(description)", needing: "storage.objects.get")
        if response.status == 404 {
            let refusal = GCSRefusal(response)
            guard !refusal.lacksBucket else { throw refusal.error("look at '\(key)'", bucket: location.bucket, needing: "storage.objects.get") }
            return nil
        }
        guard let state = try? JSONDecoder().decode(GCSObject.self, from: Data(response.body)).state else { throw unreadable(request) }
        return state
    }

    func lockedUntil(_ key: ObjectKey) async throws -> Moment? {
        let request = request(.get, path(key), [("fields", "retentionExpirationTime,temporaryHold,eventBasedHold")])
        let response = try await send(request, accepting: [200, 404], to: "look at '\(key)' in \(description)", needing: "storage.objects.get")
        guard response.status == 200 else { return nil }
        guard let object = try? JSONDecoder().decode(GCSObject.self, from: Data(response.body)) else { throw unreadable(request) }
        return object.lockedUntil
    }

    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        var request = request(.get, path(key), [("alt", "media")])
        let doing = "read '\(key)' from \(description)"
        return try await readObject(key, range: range, from: description, size: { try await self.look(at: key)?.size }) { header, limit in
            if let header { request.set("Range", header) }
            request.responseLimit = limit
            let response = try await self.send(request, accepting: [200, 206, 404, 416], to: doing, needing: "storage.objects.get")
            if response.status == 404 {
                let refusal = GCSRefusal(response)
                if refusal.lacksBucket { throw refusal.error(doing, bucket: self.location.bucket, needing: "storage.objects.get") }
            }
            return response
        } isWhole: { response in
            let stated = GCSHashes.stated(in: response)
            if let wanted = stated.crc32c {
                var sum = CRC32C()
                sum.update(response.body)
                return sum.value == wanted
            }
            return stated.md5.map { $0 == MD5.of(response.body) } ?? true
        }
    }

    func remove(_ key: ObjectKey, version: String) async throws { try await remove(key, [("ifGenerationMatch", version)]) }

    func remove(_ key: ObjectKey) async throws { try await remove(key, []) }

    private func remove(_ key: ObjectKey, _ query: [(name: String, value: String?)]) async throws {
        let request = request(.delete, path(key), query)
        let accepted: Set = query.isEmpty ? [200, 204, 404] : [200, 204, 404, 412]
        let response = try await send(request, accepting: accepted, to: "remove '\(key)' from \(description)", needing: "storage.objects.delete")
        if response.status == 404, case let refusal = GCSRefusal(response), refusal.lacksBucket {
            throw refusal.error("remove '\(key)'", bucket: location.bucket, needing: "storage.objects.delete")
        }
    }

    /// One page of a listing; names are whole ones, with the location's prefix. - Throws: `DisorderedListing` for what is none.
    func page(prefix: String, from start: String?, delimiter: String?, limit: Int, token: String?) async throws -> GCSPage {
        var query: [(name: String, value: String?)] = [("maxResults", "\(limit)"), ("fields", "items(name,size),prefixes,nextPageToken")]
        if !prefix.isEmpty { query.append(("prefix", prefix)) }
        if let start { query.append(("startOffset", start)) }
        if let delimiter { query.append(("delimiter", delimiter)) }
        if let token { query.append(("pageToken", token)) }
        let request = request(.get, "/o", query)
        let response = try await send(request, accepting: [200], to: "list \(description)", needing: "storage.objects.list")
        guard let page = try? JSONDecoder().decode(GCSPage.self, from: Data(response.body)) else { throw DisorderedListing(unreadable(request)) }
        return page
    }

    private func unreadable(_ request: HTTPRequest) -> ArchiveError { unusableAnswer(description, request) }
}
