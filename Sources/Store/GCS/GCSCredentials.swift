import ArchiveCore
import DurableIO
import Foundation
import Runtime

/// Who asks Google Cloud Storage: a file of credentials, the machine's own account, or nobody.
enum GCSCredentials: Sendable {
    /// For emulators and public buckets.
    case anonymous
    case file(path: String)
    /// The account of the machine or pod, from its metadata server.
    case metadata(host: String)

    private static let scope = "https://www.googleapis.com/auth/devstorage.read_write"

    /// Over `http://`, only a file that the URL itself names is used: a token in clear text is for whoever listens.
    init(_ location: GCSLocation, _ service: ServiceEndpoint, _ environment: (String) -> String?) {
        switch location.credentials {
        case "none": self = .anonymous
        case let path?: self = .file(path: path)
        case nil where service.scheme == "http": self = .anonymous
        case nil:
            if let path = environment("GOOGLE_APPLICATION_CREDENTIALS"), !path.isEmpty { self = .file(path: path) } else {
                self = .metadata(host: environment("GCE_METADATA_HOST").flatMap { $0.isEmpty ? nil : $0 } ?? "metadata.google.internal")
            }
        }
    }

    /// Gets a new token.
    ///
    /// - Parameters:
    ///   - remote: carries requests to Google's token servers.
    ///   - local: carries requests to the machine's metadata server, past any proxy.
    func token(at now: Moment, remote: TokenServer, local: TokenServer) async throws -> AccessToken {
        switch self {
        case .anonymous: return AccessToken(value: "", expires: Moment(rawValue: .max))
        case .metadata(let host):
            guard let service = ServiceEndpoint("http://\(host)") else {
                throw ArchiveError(.configuration, "GCE_METADATA_HOST is no host.", remedy: "Write a name or an address, with :port if need be.")
            }
            let request = HTTPRequest(
                .get, scheme: "http", host: service.host, path: "/computeMetadata/v1/instance/service-accounts/default/token",
                query: [("scopes", Self.scope)], headers: [("Metadata-Flavor", "Google")])
            return try await local.token(
                request, at: now,
                remedy: "Give the machine a service account, or name a key file in GOOGLE_APPLICATION_CREDENTIALS or by ?credentials=FILE.")
        case .file(let path):
            let bytes = try await blocking { try Files.read(path, limit: 1 << 20) }
            guard let file = try? JSONDecoder().decode(GCSCredentialsFile.self, from: Data(bytes)) else {
                throw Self.unusable(path, "it is no file of Google credentials")
            }
            return try await file.token(at: now, path: path, scope: Self.scope, remote: remote, local: local)
        }
    }

    static func unusable(_ path: String, _ why: String) -> ArchiveError {
        ArchiveError(
            .configuration, "The credentials in '\(path)' cannot be used: \(why).",
            remedy: "Use the key file of a service account, a file of `gcloud auth application-default login`, or one of workload identity federation.")
    }
}

/// A file of credentials (google.aip.dev/auth/4110 and the documents that it names).
struct GCSCredentialsFile: Decodable {
    struct Source: Decodable {
        struct Format: Decodable {
            var type: String
            var subject_token_field_name: String?
        }
        var file: String?
        var url: String?
        var headers: [String: String]?
        var format: Format?
    }
    var type: String
    // A service account's key.
    var client_email: String?
    var private_key: String?
    var private_key_id: String?
    var token_uri: String?
    // A person's.
    var client_id: String?
    var client_secret: String?
    var refresh_token: String?
    // Another identity provider's.
    var audience: String?
    var subject_token_type: String?
    var token_url: String?
    var credential_source: Source?
    var service_account_impersonation_url: String?

    private static let googleTokens = "https://oauth2.googleapis.com/token"

    func token(at now: Moment, path: String, scope: String, remote: TokenServer, local: TokenServer) async throws -> AccessToken {
        func unusable(_ why: String) -> ArchiveError { GCSCredentials.unusable(path, why) }
        switch type {
        case "service_account":
            guard let email = client_email, let key = private_key else { throw unusable("it has no key") }
            let server = token_uri ?? Self.googleTokens
            let seconds = now.rawValue / 1_000_000_000
            let claims: [String: Any] = ["iss": email, "scope": scope, "aud": server, "iat": seconds, "exp": seconds + 3600]
            guard let assertion = RS256.token(claims: claims, keyID: private_key_id, pem: key) else {
                throw unusable("its private key is none of RSA")
            }
            guard let request = HTTPRequest(form: [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)], to: server) else {
                throw unusable("its token_uri is no address")
            }
            return try await remote.token(
                request, at: now, remedy: "See whether the key in '\(path)' is still valid, the account is enabled, and this machine's clock is right.")
        case "authorized_user":
            guard let client_id, let client_secret, let refresh_token else { throw unusable("it lacks a client or a refresh token") }
            let fields = [("grant_type", "refresh_token"), ("client_id", client_id), ("client_secret", client_secret), ("refresh_token", refresh_token)]
            guard let request = HTTPRequest(form: fields, to: token_uri ?? Self.googleTokens) else { throw unusable("its token_uri is no address") }
            return try await remote.token(request, at: now, remedy: "Log in anew: `gcloud auth application-default login`.")
        case "external_account": return try await exchanged(at: now, path: path, scope: scope, remote: remote, local: local)
        default: throw unusable("its type '\(shownCode(type) ?? "")' is not known")
        }
    }

    /// Exchanges another provider's token for Google's (RFC 8693), and that for a service account's where the file says so.
    private func exchanged(at now: Moment, path: String, scope: String, remote: TokenServer, local: TokenServer) async throws -> AccessToken {
        let remedy = "See whether the pool of workload identities in '\(path)' takes this machine's token."
        guard let audience, let subject_token_type, let token_url, let source = credential_source else {
            throw GCSCredentials.unusable(path, "it lacks an audience or a source")
        }
        let subject = try await source.token(path: path, local: local, remedy: remedy)
        let wide = "https://www.googleapis.com/auth/cloud-platform"
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), ("audience", audience),
            ("scope", service_account_impersonation_url == nil ? scope : wide),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"), ("subject_token_type", subject_token_type), ("subject_token", subject),
        ]
        guard let request = HTTPRequest(form: fields, to: token_url) else { throw GCSCredentials.unusable(path, "its token_url is no address") }
        let token = try await remote.token(request, at: now, remedy: remedy)
        guard let address = service_account_impersonation_url else { return token }
        guard let service = ServiceEndpoint(address) else { throw GCSCredentials.unusable(path, "its impersonation URL is no address") }
        let body = try JSONSerialization.data(withJSONObject: ["scope": [scope], "lifetime": "3600s"])
        let impersonation = HTTPRequest(
            .post, scheme: service.scheme, host: service.host, path: service.path,
            headers: [("Authorization", "Bearer \(token.value)"), ("Content-Type", "application/json")], body: Array(body))
        struct Answer: Decodable {
            var accessToken: String
            var expireTime: String
        }
        let bytes = try await remote.ask(impersonation, remedy: "Give this identity the role roles/iam.workloadIdentityUser on the service account.")
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(bytes)), isTokenText(answer.accessToken),
            let end = Moment(answer.expireTime)
        else { throw remote.unusable(remedy) }
        return AccessToken(value: answer.accessToken, expires: end)
    }
}

extension GCSCredentialsFile.Source {
    /// The other provider's token: a file's or a local server's text, or a field of its JSON.
    func token(path: String, local: TokenServer, remedy: String) async throws -> String {
        var bytes: [UInt8]
        if let file {
            bytes = try await blocking { try Files.read(file, limit: 1 << 20) }
        } else if let url {
            let parts = url.split(separator: "?", maxSplits: 1)
            guard let address = parts.first, let service = ServiceEndpoint(String(address)) else {
                throw GCSCredentials.unusable(path, "its source is no address")
            }
            var query: [(name: String, value: String?)] = []
            for item in parts.count == 2 ? parts[1].split(separator: "&") : [] {
                let pair = item.split(separator: "=", maxSplits: 1).map { String($0).removingPercentEncoding ?? String($0) }
                query.append((pair[0], pair.count == 2 ? pair[1] : nil))
            }
            bytes = try await local.ask(
                HTTPRequest(
                    .get, scheme: service.scheme, host: service.host, path: service.path.isEmpty ? "/" : service.path, query: query,
                    headers: (headers ?? [:]).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }), remedy: remedy)
        } else {
            throw GCSCredentials.unusable(path, "its source is neither a file nor a URL")
        }
        if format?.type == "json" {
            guard let field = format?.subject_token_field_name, let object = try? JSONDecoder().decode([String: Field].self, from: Data(bytes)),
                let text = object[field]?.text
            else { throw GCSCredentials.unusable(path, "its source has no field for the token") }
            bytes = Array(text.utf8)
        }
        let text = String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        guard isTokenText(text) else { throw GCSCredentials.unusable(path, "its source holds no token") }
        return text
    }

    /// A field of JSON, if it is a text.
    private struct Field: Decodable {
        var text: String?
        init(from decoder: any Decoder) throws { text = try? decoder.singleValueContainer().decode(String.self) }
    }
}
