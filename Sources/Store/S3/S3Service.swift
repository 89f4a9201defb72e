import ArchiveCore
import Digests
import Runtime
import Synchronization

/// One request of S3, as its API reference names them.
struct S3Request: Sendable {
    /// What is asked for, and the permission of IAM that it needs.
    enum Action: String, Sendable {
        case put = "PutObject"
        case get = "GetObject"
        case head = "HeadObject"
        case list = "ListObjectsV2"
        case delete = "DeleteObject"
        case deleteMany = "DeleteObjects"
        case versioning = "GetBucketVersioning"
        case objectLock = "GetObjectLockConfiguration"
        case lifecycle = "GetBucketLifecycleConfiguration"

        var permission: String {
            switch self {
            case .put: "s3:PutObject"
            case .get, .head: "s3:GetObject"
            case .list: "s3:ListBucket"
            case .delete, .deleteMany: "s3:DeleteObject"
            case .versioning: "s3:GetBucketVersioning"
            case .objectLock: "s3:GetBucketObjectLockConfiguration"
            case .lifecycle: "s3:GetLifecycleConfiguration"
            }
        }
    }

    var action: Action
    var method: HTTPRequest.Method
    /// With the archive's prefix; `nil`: the bucket itself.
    var key: String?
    var query: [(name: String, value: String?)] = []
    var headers: [(name: String, value: String)] = []
    var body: [UInt8] = []
    /// SHA-256 of the body, where it is known.
    var payload: [UInt8]?
    /// Bytes of an answer that succeeds.
    var limit = 1 << 20
    /// Whether an answer of 400 is what was hoped for.
    var mayBeRefused = false
    /// An answer that cannot be, which may be a fault on the way: asked again.
    var check: @Sendable (HTTPResponse) -> String? = { _ in nil }
}

/// Speaks to one bucket: where it is, who we are, what answers mean.
final class S3Service: Sendable {
    let location: S3Location
    private let context: StoreContext
    private let pacing: Pacing
    private let lastSkew = Mutex<Double?>(nil)

    /// What is found out at the first request.
    struct Session: Sendable {
        var place: S3Place
        var client: HTTPClient
        var credentials: S3CredentialCache
    }
    private let session = Mutex<Task<Session, any Error>?>(nil)

    init(_ location: S3Location, _ context: StoreContext, _ pacing: Pacing) {
        self.location = location
        self.context = context
        self.pacing = pacing
    }

    /// Seconds that the server's clock was ahead of ours at its last answer with a date; negative: behind.
    var skew: Double? { lastSkew.withLock { $0 } }

    func warn(_ message: String) { context.warn(message) }
    func now() -> Moment { context.now() }

    /// Reads the profile and makes the connection, once. Nothing is asked of anybody yet.
    func open() async throws -> Session {
        let task = session.withLock { state in
            if let state { return state }
            let task = Task { try await self.begin() }
            state = task
            return task
        }
        do { return try await task.value } catch {
            session.withLock { if $0 == task { $0 = nil } }
            throw error
        }
    }

    private func begin() async throws -> Session {
        let environment = context.environment
        let files: @Sendable () async throws -> AWSProfiles = { try await blocking { try AWSProfiles.read(environment) } }
        let profile = location.profile ?? environment("AWS_PROFILE") ?? "default"
        // Only what is configured there is of interest now: that a file cannot be read is told when credentials are wanted of it.
        let settings = (try? await files())?.profiles[profile] ?? [:]
        let place = try S3Place(location, environment: environment, configured: { settings[$0] })
        let transport = try context.transport(location.transport)
        var near = TransportOptions()
        near.proxy = ""
        near.connectTimeout = 2
        near.stallTimeout = 5
        let requests = AWSCredentialRequests(
            environment: environment, transport: transport, nearby: try context.transport(near), region: place.region, now: context.now,
            pacing: pacing)
        let chain = S3CredentialChain(environment: environment, files: files, requests: requests, profile: location.profile)
        return Session(
            place: place, client: HTTPClient(transport, service: location.description, now: context.now, policy: context.retries, pacing: pacing, telling: context.warn),
            credentials: S3CredentialCache { now in try await chain.find(at: now) })
    }

    /// - Returns: an answer, whatever its status, but none that is worth another attempt.
    /// - Throws: `.storeUnavailable` when attempts are used up; `.storeRefused` without credentials; `.interrupted`.
    func send(_ wanted: S3Request) async throws -> HTTPResponse {
        let session = try await open()
        let place = session.place
        var path = place.endpoint.path
        if place.isPathStyle { path += "/" + percentEncoded(location.bucket) }
        path += "/" + percentEncoded(wanted.key ?? "", keeping: true)
        let request = HTTPRequest(
            wanted.method, scheme: place.endpoint.scheme, host: (place.isPathStyle ? "" : location.bucket + ".") + place.endpoint.host,
            path: place.isPathStyle && wanted.key == nil ? String(path.dropLast()) : path, query: wanted.query, headers: wanted.headers,
            body: wanted.body,
            responseLimit: max(wanted.limit, 1 << 16))
        let payload = wanted.payload ?? SHA256.of(wanted.body)
        let used = Mutex<S3Credentials?>(nil)
        let renewals = Mutex(0)
        return try await session.client.send(
            request,
            preparing: { request, time in
                if let stale = used.withLock({ $0 }), renewals.withLock({ $0 }) == 1 {
                    await session.credentials.refuse(stale)
                    renewals.withLock { $0 = 2 }
                }
                let credentials = try await session.credentials.value(at: time)
                used.withLock { $0 = credentials }
                return S3Signer(credentials: credentials, region: place.region).sign(request, at: time, payload: payload)
            },
            judging: { response in
                self.noteClock(response)
                if wanted.mayBeRefused, response.status == 400 { return .done }
                let isTemporary = used.withLock { $0?.sessionToken != nil }
                let verdict = S3Answer(response).verdict(isHead: wanted.method == .head, mayRenew: isTemporary && renewals.withLock { $0 } == 0)
                if verdict == .again(S3Answer.renewal) { renewals.withLock { $0 = 1 } }
                if verdict == .done, let fault = wanted.check(response) { return .again(fault) }
                return verdict
            })
    }

    private func noteClock(_ response: HTTPResponse) {
        guard let date = response["date"].flatMap(HTTPDates.parse) else { return }
        let seconds = date - context.now()
        // The date has no fractions, and the answer took its time.
        lastSkew.withLock { $0 = abs(seconds) < 2 ? 0 : seconds }
    }
}
