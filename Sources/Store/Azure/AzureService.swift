import ArchiveCore
import Digests
import Foundation
import Synchronization

/// Single requests to one container of Azure Blob Storage.
final class AzureService: WriteOnceService {
    /// The version of the service's protocol that we speak.
    static let version = "2021-12-02"

    let location: AzureLocation
    let description: String
    let now: @Sendable () -> Moment
    private let access: AzureAccess
    private let client: HTTPClient
    private let tokens: TokenCache?

    init(_ location: AzureLocation, _ context: StoreContext) throws {
        self.location = location
        description = location.description
        now = context.now
        access = try AzureAccess(location, context.environment)
        let transport = try context.transport(location.transport)
        client = HTTPClient(transport, service: description, now: context.now, policy: context.retries, telling: context.warn)
        guard case .identity(let identity) = access.credentials else {
            tokens = nil
            return
        }
        var direct = location.transport
        direct.proxy = ""
        let remote = TokenServer(transport, name: "Microsoft Entra", policy: .token, now: context.now)
        direct.connectTimeout = min(direct.connectTimeout, 2)
        direct.stallTimeout = min(direct.stallTimeout, 5)
        let local = TokenServer(
            try context.transport(direct), name: "The identity service of this machine", policy: .nearby, now: context.now)
        tokens = TokenCache { try await identity.token(at: $0, remote: remote, local: local) }
    }

    /// Signs and sends a request; with a new token, once, where the old one is not taken.
    ///
    /// - Parameter accepted: whether the caller understands an answer.
    /// - Throws: `.storeRefused` for others.
    func send(
        _ request: HTTPRequest, accepting accepted: (AzureRefusal) -> Bool, to doing: String, needing permission: String
    ) async throws -> HTTPResponse {
        for isLast in [false, true] {
            let used = Mutex("")
            let response = try await client.send(
                request,
                preparing: { request, time in
                    var request = request
                    request.set("x-ms-date", HTTPDates.text(time))
                    request.set("x-ms-version", Self.version)
                    switch self.access.credentials {
                    case .sharedKey(let signer): request.set("Authorization", signer.authorization(request))
                    case .sas(let token): request.query += token.map { (name: $0.name, value: Optional($0.value)) }
                    case .identity:
                        guard let token = try await self.tokens?.value(at: time) else { return request }
                        used.withLock { $0 = token }
                        request.set("Authorization", "Bearer \(token)")
                    }
                    return request
                }, judging: AzureRefusal.verdict)
            let refusal = AzureRefusal(response)
            if (200...299).contains(response.status) || accepted(refusal) { return response }
            let token = used.withLock { $0 }
            guard response.status == 401, !isLast, !token.isEmpty, let tokens else {
                throw refusal.error(doing, container: location.container, needing: permission)
            }
            await tokens.refuse(token)
        }
        preconditionFailure("the last attempt returns or throws")
    }

    /// A request to the container, or to a blob in it.
    func request(
        _ method: HTTPRequest.Method, _ key: ObjectKey? = nil, query: [(name: String, value: String?)] = [],
        headers: [(name: String, value: String)] = [], body: [UInt8] = []
    ) -> HTTPRequest {
        let blob = key.map { "/" + percentEncoded(location.prefix + $0.path, keeping: true) } ?? ""
        return HTTPRequest(
            method, scheme: access.endpoint.scheme, host: access.endpoint.host, path: "\(access.endpoint.path)/\(location.container)\(blob)", query: query,
            headers: headers, body: body)
    }

    func create(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Creation {
        var headers: [(name: String, value: String)] = [
            ("x-ms-blob-type", "BlockBlob"), ("If-None-Match", "*"), ("Content-MD5", Data(mark.md5).base64EncodedString()),
            ("Content-Type", "application/octet-stream"),
        ]
        if let tier = location.accessTier { headers.append(("x-ms-access-tier", tier)) }
        let request = request(.put, key, headers: headers, body: bytes)
        let response = try await send(
            request, accepting: { $0.isTaken || $0.code == "Md5Mismatch" }, to: "put '\(key)' into \(description)", needing: "c")
        let refusal = AzureRefusal(response)
        if refusal.isTaken { return .exists }
        if refusal.code == "Md5Mismatch" { return .mangled("other bytes arrived than were sent") }
        // The answer states no size; the checksum is that of what arrived.
        let md5 = response["Content-MD5"].flatMap { Data(base64Encoded: $0) }.map(Array.init)
        return .created(StoredState(size: mark.size, md5: md5, version: response["ETag"]))
    }

    func look(at key: ObjectKey) async throws -> StoredState? {
        let request = request(.head, key)
        let response = try await send(request, accepting: { $0.isMissing }, to: "look at '\(key)' in \(description)", needing: "r")
        if response.status == 404 { return nil }
        guard let size = response["Content-Length"].flatMap({ UInt64($0) }) else { throw unusableAnswer(description, request) }
        return StoredState(size: size, md5: response["Content-MD5"].flatMap { Data(base64Encoded: $0) }.map(Array.init), version: response["ETag"])
    }

    /// From the headers of Get Blob Properties: a legal hold, and a time-based policy of the version. A policy of the whole container shows in
    /// `x-ms-immutability-policy-until-date` where it is at the level of versions only; else a removal is refused.
    func lockedUntil(_ key: ObjectKey) async throws -> Moment? {
        let response = try await send(request(.head, key), accepting: { $0.isMissing }, to: "look at '\(key)' in \(description)", needing: "r")
        guard response.status != 404 else { return nil }
        if response["x-ms-legal-hold"]?.lowercased() == "true" { return Moment(rawValue: .max) }
        return response["x-ms-immutability-policy-until-date"].map { HTTPDates.parse($0) ?? Moment(rawValue: .max) }
    }

    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        try await readObject(key, range: range, from: description, size: { try await self.look(at: key)?.size }) { header, limit in
            var request = self.request(.get, key)
            if let header { request.set("x-ms-range", header) }
            request.responseLimit = limit
            return try await self.send(
                request, accepting: { $0.isMissing || $0.status == 416 }, to: "read '\(key)' from \(self.description)", needing: "r")
        } isWhole: { response in
            response["Content-MD5"].flatMap { Data(base64Encoded: $0) }.map { Array($0) == MD5.of(response.body) } ?? true
        }
    }

    func remove(_ key: ObjectKey, version: String) async throws {
        _ = try await send(
            request(.delete, key, headers: [("If-Match", version)]), accepting: { $0.isMissing || $0.status == 412 },
            to: "remove '\(key)' from \(description)", needing: "d")
    }

    func remove(_ key: ObjectKey) async throws {
        _ = try await send(request(.delete, key), accepting: { $0.isMissing }, to: "remove '\(key)' from \(description)", needing: "d")
    }
}

extension AzureRefusal {
    /// The condition that the name is free did not hold; a blob under an immutability policy is not replaced either.
    var isTaken: Bool { status == 412 || status == 409 && (code == "BlobAlreadyExists" || code == "BlobImmutableDueToPolicy") }
    /// A blob is missing, not its container. An answer to HEAD has its code in a header; one without says no more than 404.
    var isMissing: Bool { status == 404 && (code == nil || code == "BlobNotFound") }
}
