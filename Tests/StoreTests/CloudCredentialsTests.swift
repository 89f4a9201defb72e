import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Synchronization
import Testing

@testable import Store

@Suite("Credentials of Google's cloud")
struct GCSCredentialsTests {
    let directory: TemporaryDirectory
    init() throws { directory = try TemporaryDirectory() }

    private func file(_ content: [String: Any]) throws -> String {
        let path = directory.path + "/credentials.json"
        try Files.writeDurably(Array(try JSONSerialization.data(withJSONObject: content)), to: path)
        return path
    }

    private func form(_ request: HTTPRequest) -> [String: String] {
        var result: [String: String] = [:]
        for item in String(decoding: request.body, as: UTF8.self).split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1)
            result[String(pair[0])] = String(pair[1]).removingPercentEncoding
        }
        return result
    }

    private func decoded(_ part: Substring) throws -> [String: Any] {
        let text = part.replacing("-", with: "+").replacing("_", with: "/")
        let data = try #require(Data(base64Encoded: text + String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)))
        return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
    }

    @Test("RS256 signs as RFC 7515 does")
    func vector() throws {
        let signature = try #require(RS256.sign(Array(RFC7515Key.input.utf8), pem: RFC7515Key.pem))
        #expect(base64URL(Data(signature)) == RFC7515Key.signature)
        #expect(RS256.sign([1], pem: "nonsense") == nil)
        #expect(RS256.sign([1], pem: RFC7515Key.pem.replacing("A", with: "B")) == nil)
    }

    @Test("a service account's key becomes a token, which is kept, renewed before its end, and at once when it is refused")
    func serviceAccount() async throws {
        let path = try file([
            "type": "service_account", "client_email": "tm@p.iam.gserviceaccount.com", "private_key": RFC7515Key.pem, "private_key_id": "k1", "token_uri": "https://tokens.test/token",
        ])
        let issued = Mutex(0)
        let refused = Mutex<Set<String>>([])
        let transport = ScriptedTransport { request in
            if request.host == "tokens.test" {
                let number = issued.withLock { count in
                    count += 1
                    return count
                }
                return try json(["access_token": "token\(number)", "expires_in": 3600])
            }
            let token = request["Authorization"] ?? ""
            return refused.withLock { $0.contains(token) } ? HTTPResponse(status: 401) : try json([:])
        }
        let time = Mutex(scriptedTime)
        let store = try StoreLocation("gs://bucket").open(
            StoreContext(
                transport: { _ in transport }, environment: { $0 == "GOOGLE_APPLICATION_CREDENTIALS" ? path : nil }, now: { time.withLock { $0 } }, warn: { _ in }))
        func use() async throws { _ = try await store.list(prefix: "", after: nil, limit: 1) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 { group.addTask { _ = try await store.list(prefix: "", after: nil, limit: 1) } }
            try await group.waitForAll()
        }
        #expect(issued.withLock { $0 } == 1)
        let ask = try #require(transport.requests.first { $0.host == "tokens.test" })
        let fields = form(ask)
        #expect(ask.method == .post && ask.path == "/token" && fields["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer")
        let parts = try #require(fields["assertion"]).split(separator: ".")
        #expect(try decoded(parts[0]) as? [String: String] == ["alg": "RS256", "typ": "JWT", "kid": "k1"])
        let claims = try decoded(parts[1])
        let now = Int(scriptedTime.rawValue / 1_000_000_000)
        #expect(claims["iss"] as? String == "tm@p.iam.gserviceaccount.com" && claims["aud"] as? String == "https://tokens.test/token")
        #expect(claims["iat"] as? Int == now && claims["exp"] as? Int == now + 3600)
        #expect(claims["scope"] as? String == "https://www.googleapis.com/auth/devstorage.read_write")
        let signature = try #require(RS256.sign(Array("\(parts[0]).\(parts[1])".utf8), pem: RFC7515Key.pem))
        #expect(base64URL(Data(signature)) == parts[2])
        #expect(transport.requests.last?["Authorization"] == "Bearer token1")
        // Four minutes before the end it is still good; three minutes before, it is renewed.
        time.withLock { $0 = scriptedTime.adding(seconds: 3600 - 240) }
        try await use()
        #expect(issued.withLock { $0 } == 1)
        time.withLock { $0 = scriptedTime.adding(seconds: 3600 - 180) }
        try await use()
        #expect(transport.requests.last?["Authorization"] == "Bearer token2")
        // A token that is refused is replaced within the same call; a second refusal is final.
        refused.withLock { $0 = ["Bearer token2"] }
        try await use()
        #expect(transport.requests.last?["Authorization"] == "Bearer token3")
        refused.withLock { $0 = ["Bearer token3", "Bearer token4"] }
        let error = await #expect(throws: ArchiveError.self) { try await use() }
        #expect(error?.code == .storeRefused && error?.description.contains("token") == false)
    }

    @Test("a refresh token, the machine's account, and another provider's identity")
    func others() async throws {
        let subject = directory.path + "/subject"
        try Files.writeDurably(Array("jwt-of-the-pod\n".utf8), to: subject)
        let transport = ScriptedTransport { request in
            if request.host == "storage.googleapis.com" { return try json([:]) }
            if request.path == "/impersonate" { return try json(["accessToken": "impersonated", "expireTime": "2026-11-24T03:53:30Z"]) }
            return try json(["access_token": "of-" + request.host, "expires_in": "3599"])
        }
        func token(_ environment: [String: String]) async throws -> String? {
            _ = try await openScripted("gs://bucket", transport, environment: environment).list(prefix: "", after: nil, limit: 1)
            return transport.requests.last?["Authorization"]
        }
        let user = try file(["type": "authorized_user", "client_id": "c", "client_secret": "s&s", "refresh_token": "r", "token_uri": "https://user.test/"])
        #expect(try await token(["GOOGLE_APPLICATION_CREDENTIALS": user]) == "Bearer of-user.test")
        #expect(form(transport.requests[transport.requests.count - 2]) == ["grant_type": "refresh_token", "client_id": "c", "client_secret": "s&s", "refresh_token": "r"])

        #expect(try await token(["GCE_METADATA_HOST": "127.0.0.1:99"]) == "Bearer of-127.0.0.1:99")
        let metadata = transport.requests[transport.requests.count - 2]
        #expect(metadata.path == "/computeMetadata/v1/instance/service-accounts/default/token" && metadata["Metadata-Flavor"] == "Google")
        #expect(try await token([:]) == "Bearer of-metadata.google.internal")

        let external = try file([
            "type": "external_account", "audience": "//iam/pool", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": "https://sts.test/v1/token",
            "credential_source": ["file": subject], "service_account_impersonation_url": "https://iam.test/impersonate",
        ])
        #expect(try await token(["GOOGLE_APPLICATION_CREDENTIALS": external]) == "Bearer impersonated")
        let exchange = form(transport.requests[transport.requests.count - 3])
        #expect(exchange["subject_token"] == "jwt-of-the-pod" && exchange["audience"] == "//iam/pool")
        #expect(transport.requests[transport.requests.count - 2]["Authorization"] == "Bearer of-sts.test")
    }

    @Test("what is refused by a token server is told without what was sent or said")
    func secrets() async throws {
        let user = try file(["type": "authorized_user", "client_id": "c", "client_secret": "hush", "refresh_token": "hushhush", "token_uri": "https://user.test/"])
        for answer in [
            try json(["error": "invalid_grant", "error_description": "refresh_token=hushhush"], status: 400), HTTPResponse(status: 200, body: Array("hush".utf8)),
            try json(["access_token": "a\nb", "expires_in": 1]), try json(["access_token": "x", "expires_in": "soon"]),
        ] {
            let transport = ScriptedTransport { _ in answer }
            let error = await #expect(throws: ArchiveError.self) {
                try await openScripted("gs://bucket", transport, environment: ["GOOGLE_APPLICATION_CREDENTIALS": user]).list(prefix: "", after: nil, limit: 1)
            }
            #expect(error?.description.contains("hush") == false)
            #expect(error?.message.contains("Google's token server") == true)
        }
        for content in [["type": "service_account", "client_email": "x", "private_key": "hush"], ["type": "strange"], ["type": "authorized_user"], ["kind": "x"]] {
            let path = try file(content)
            let error = await #expect(throws: ArchiveError.self) {
                try await openScripted("gs://bucket?credentials=\(path)", ScriptedTransport { _ in HTTPResponse(status: 500) }).list(prefix: "", after: nil, limit: 1)
            }
            #expect(error?.code == .configuration && error?.message.contains(path) == true && error?.description.contains("hush") == false)
        }
    }

    @Test("over http, only credentials that the URL names are sent")
    func plain() async throws {
        let transport = ScriptedTransport { _ in try json([:]) }
        let environment = ["STORAGE_EMULATOR_HOST": "localhost:1", "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"]
        _ = try await openScripted("gs://bucket", transport, environment: environment).list(prefix: "", after: nil, limit: 1)
        #expect(transport.requests.map(\.url).first?.hasPrefix("http://localhost:1/storage/v1/b/bucket/o?") == true)
        #expect(transport.requests[0]["Authorization"] == nil)
    }
}

@Suite("Credentials of Azure")
struct AzureCredentialsTests {
    let directory: TemporaryDirectory
    init() throws { directory = try TemporaryDirectory() }

    private func access(_ url: String, _ environment: [String: String]) throws -> AzureAccess {
        guard case .azure(let location) = try StoreLocation(url) else { throw ArchiveError(.usage, "not of Azure") }
        return try AzureAccess(location) { environment[$0] }
    }

    @Test("keys, SAS tokens and connection strings, and where they lead")
    func places() throws {
        let key = CloudPlace.azureKey
        let connection = "DefaultEndpointsProtocol=https;AccountName=tmone;AccountKey=\(key);EndpointSuffix=core.chinacloudapi.cn"
        let one = try access("azblob://abc", ["AZURE_STORAGE_CONNECTION_STRING": connection])
        #expect(one.endpoint == ServiceEndpoint("https://tmone.blob.core.chinacloudapi.cn"))
        guard case .sharedKey(let signer) = one.credentials else { throw ArchiveError(.usage, "no key") }
        #expect(signer.account == "tmone")
        // Of another account: not meant.
        let two = try access("azblob://abc?account=tmtwo", ["AZURE_STORAGE_CONNECTION_STRING": connection, "AZURE_STORAGE_SAS_TOKEN": "sig=x"])
        #expect(two.endpoint == ServiceEndpoint("https://tmtwo.blob.core.windows.net"))
        guard case .sas = two.credentials else { throw ArchiveError(.usage, "no SAS") }
        let emulator = try access("azblob://abc", ["AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"])
        #expect(emulator.endpoint == ServiceEndpoint("http://127.0.0.1:10000/devstoreaccount1"))
        let signed = try access("azblob://abc", ["AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://tmone.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=a%2B", "AZURE_STORAGE_KEY": key])
        guard case .sas(let token) = signed.credentials else { throw ArchiveError(.usage, "no SAS") }
        #expect(token.map { "\($0.name)=\($0.value)" } == ["sv=1", "sig=a+"])
        guard case .identity(.machine(let host, let client)) = try access("azblob://abc?account=tmone&client-id=u", [:]).credentials else { throw ArchiveError(.usage, "no identity") }
        #expect(host == "http://169.254.169.254" && client == "u")
    }

    @Test("what is malformed is refused without being shown", arguments: [
        ["AZURE_STORAGE_CONNECTION_STRING": "hush"], ["AZURE_STORAGE_ACCOUNT": "tmone", "AZURE_STORAGE_KEY": "*hush*"],
        ["AZURE_STORAGE_ACCOUNT": "tmone", "AZURE_STORAGE_SAS_TOKEN": "hush"], [:],
    ])
    func malformed(_ environment: [String: String]) {
        let error = #expect(throws: ArchiveError.self) { try access("azblob://abc", environment) }
        #expect(error?.code == .configuration && error?.description.contains("hush") == false)
    }

    @Test("no token goes over http to another machine")
    func plain() { #expect(throws: ArchiveError.self) { try access("azblob://abc?account=tmone&endpoint=http://10.0.0.1/tmone", [:]) } }

    @Test("managed and federated identities")
    func identities() async throws {
        let assertion = directory.path + "/token"
        try Files.writeDurably(Array("pod-token".utf8), to: assertion)
        let refused = Mutex(false)
        let transport = ScriptedTransport { request in
            if request.host == "tmone.blob.core.windows.net" {
                let isRefused = refused.withLock { state in
                    defer { state = false }
                    return state
                }
                return isRefused ? HTTPResponse(status: 401, headers: [("x-ms-error-code", "InvalidAuthenticationInfo")]) : HTTPResponse(status: 404, headers: [("x-ms-error-code", "BlobNotFound")])
            }
            return try json(["access_token": "of-" + request.host, "expires_in": "3599"])
        }
        func ask(_ environment: [String: String]) async throws -> [HTTPRequest] {
            let before = transport.requests.count
            let store = try openScripted("azblob://abc?account=tmone", transport, environment: environment)
            let error = await #expect(throws: ArchiveError.self) { try await store.get(ObjectKey(known: "x")) }
            #expect(error?.code == .objectMissing)
            return Array(transport.requests[before...])
        }
        let machine = try await ask(["AZURE_CLIENT_ID": "c"])
        #expect(machine[0].url == "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com&client_id=c")
        #expect(machine[0]["Metadata"] == "true" && machine[1]["Authorization"] == "Bearer of-169.254.169.254")
        let service = try await ask(["IDENTITY_ENDPOINT": "http://127.0.0.1:42/msi/token", "IDENTITY_HEADER": "h"])
        #expect(service[0].url == "http://127.0.0.1:42/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com")
        #expect(service[0]["X-IDENTITY-HEADER"] == "h")
        let federated = try await ask(["AZURE_FEDERATED_TOKEN_FILE": assertion, "AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t"])
        #expect(federated[0].url == "https://login.microsoftonline.com/t/oauth2/v2.0/token")
        #expect(String(decoding: federated[0].body, as: UTF8.self).hasSuffix("&client_assertion=pod-token"))
        refused.withLock { $0 = true }
        #expect(try await ask([:]).map(\.host) == ["169.254.169.254", "tmone.blob.core.windows.net", "169.254.169.254", "tmone.blob.core.windows.net"])
    }
}
