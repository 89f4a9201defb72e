import ArchiveCore
import DurableIO
import Foundation
import Runtime

/// Asks services for temporary credentials: STS, the agent of a container, the metadata of an instance.
struct AWSCredentialRequests: Sendable {
    var environment: @Sendable (String) -> String?
    /// To STS, as to S3.
    var transport: any HTTPTransport
    /// To what stands beside this machine: no proxy, short patience.
    var nearby: any HTTPTransport
    var region: String
    var now: @Sendable () -> Moment
    var pacing: Pacing

    private func set(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }

    // MARK: STS

    /// Calls AssumeRole, signed with `base`.
    func assume(role: String, session: String?, externalID: String?, with base: S3Credentials, at now: Moment) async throws -> S3Credentials {
        var form = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", session ?? "tidemark")]
        if let externalID { form.append(("ExternalId", externalID)) }
        let signer = S3Signer(credentials: base, region: region, service: "sts")
        return try await askSTS(form, role) { request, time in signer.sign(request, at: time) }
    }

    /// Calls AssumeRoleWithWebIdentity, which the token itself vouches for. The file is read each time: it is replaced while we run.
    func assume(role: String, session: String?, webIdentityFile path: String, at now: Moment) async throws -> S3Credentials {
        let bytes = try await blocking { try Files.read(path, limit: 1 << 16) }
        let token = String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"), ("RoleArn", role), ("RoleSessionName", session ?? "tidemark"), ("WebIdentityToken", token),
        ]
        return try await askSTS(form, role) { request, _ in request }
    }

    private func askSTS(
        _ form: [(String, String)], _ role: String, preparing prepare: @escaping @Sendable (HTTPRequest, Moment) -> HTTPRequest
    ) async throws -> S3Credentials {
        let text = set("AWS_ENDPOINT_URL_STS") ?? "https://sts.\(region).\(S3Place.domain(region))"
        guard let endpoint = ServiceEndpoint(text) else {
            throw ArchiveError(
                .usage, "The endpoint for STS in the environment is no address.", remedy: "Write AWS_ENDPOINT_URL_STS as https://host:port.")
        }
        let body = (form + [("Version", "2011-06-15")]).map { "\($0.0)=\(percentEncoded($0.1))" }.joined(separator: "&")
        let request = HTTPRequest(
            .post, scheme: endpoint.scheme, host: endpoint.host, path: endpoint.path + "/",
            headers: [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")], body: Array(body.utf8), responseLimit: 1 << 20)
        let response = try await HTTPClient(transport, service: "AWS STS", now: now, policy: .token, pacing: pacing).send(
            request, preparing: { request, time in prepare(request, time) }
        ) { response in
            response.status >= 500 ? .again("HTTP \(response.status)") : response.status == 429 ? .slower("HTTP 429") : .done
        }
        let root = try? XMLElement.parse(response.body)
        guard response.status == 200 else {
            let code = shownCode(root?.first("Error")?["Code"]).map { " \($0)" } ?? ""
            throw ArchiveError(
                .storeRefused, "STS would not let us have the role '\(role)': HTTP \(response.status)\(code).",
                remedy: "See that the role's trust policy names who asks, and that a web identity's token is still good.")
        }
        guard let found = root?.children.first(where: { $0.name.hasSuffix("Result") })?.first("Credentials"), let id = found["AccessKeyId"],
            let secret = found["SecretAccessKey"], let session = found["SessionToken"], let expires = found["Expiration"].flatMap(Moment.init)
        else { throw malformed("STS") }
        return S3Credentials(accessKeyID: id, secretAccessKey: secret, sessionToken: session, expires: expires)
    }

    private func malformed(_ who: String) -> ArchiveError {
        ArchiveError(.storeUnavailable, "\(who) answered with something else than credentials.", remedy: "See what answers at its address.")
    }

    // MARK: Beside this machine

    /// The answers of the container's agent and of the instance's metadata are alike.
    private struct Answer: Decodable {
        var Code: String?
        var AccessKeyId: String
        var SecretAccessKey: String
        var Token: String?
        var Expiration: String?
    }

    private func read(_ response: HTTPResponse, from who: String) throws -> S3Credentials {
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(response.body)), answer.Code ?? "Success" == "Success" else {
            throw malformed(who)
        }
        let expires = answer.Expiration.flatMap(Moment.init)
        guard (answer.Expiration == nil) == (expires == nil) else { throw malformed(who) }
        return S3Credentials(accessKeyID: answer.AccessKeyId, secretAccessKey: answer.SecretAccessKey, sessionToken: answer.Token, expires: expires)
    }

    private func refused(_ who: String, _ status: Int) -> ArchiveError {
        ArchiveError(.storeRefused, "\(who) gave no credentials: HTTP \(status).", remedy: "See that a role belongs to this container or instance.")
    }

    /// What runs a container tells it where to ask ("Container credential provider").
    func container(at now: Moment) async throws -> S3CredentialAnswer {
        let address: String
        if let path = set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            address = "http://169.254.170.2\(path)"
        } else if let full = set("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            address = full
        } else {
            return .nothing("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and _FULL_URI are not set")
        }
        let mark = address.firstIndex(of: "?") ?? address.endIndex
        guard let endpoint = ServiceEndpoint(String(address[..<mark])) else {
            throw ArchiveError(
                .storeRefused, "The address of the container's credentials is none.", remedy: "Correct AWS_CONTAINER_CREDENTIALS_FULL_URI.")
        }
        guard endpoint.scheme == "https" || Self.isNear(endpoint.host) else {
            throw ArchiveError(
                .storeRefused, "The container's credentials are not fetched from '\(endpoint.host)' over plain HTTP.",
                remedy: "Use https, or an address of this machine or of the container's agent.")
        }
        var headers: [(name: String, value: String)] = []
        if let path = set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            let bytes = try await blocking { try Files.read(path, limit: 1 << 16) }
            headers.append(("Authorization", String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)))
        } else if let token = set("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
            headers.append(("Authorization", token))
        }
        guard headers.allSatisfy({ $0.value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F } }) else {
            throw ArchiveError(.storeRefused, "The container's authorization token has a line break in it.", remedy: "Correct the token.")
        }
        let query = address[mark...].dropFirst().split(separator: "&").map { item -> (name: String, value: String?) in
            let parts = item.split(separator: "=", maxSplits: 1).map(String.init)
            return (parts.first ?? "", parts.count > 1 ? parts[1] : nil)
        }
        let request = HTTPRequest(
            .get, scheme: endpoint.scheme, host: endpoint.host, path: endpoint.path.isEmpty ? "/" : endpoint.path, query: query, headers: headers,
            responseLimit: 1 << 16)
        let response = try await HTTPClient(nearby, service: "The container's agent", now: self.now, policy: .nearby, pacing: pacing).send(
            request, preparing: { request, _ in request }
        ) {
            $0.status >= 500 ? .again("HTTP \($0.status)") : .done
        }
        guard response.status == 200 else { throw refused("The container's agent", response.status) }
        return .found(try read(response, from: "The container's agent"))
    }

    /// Loopback, and the addresses of the agents of ECS and EKS.
    private static func isNear(_ host: String) -> Bool {
        var name = host
        if host.hasPrefix("["), let end = host.firstIndex(of: "]") {
            name = String(host[host.index(after: host.startIndex)..<end])
        } else if let colon = host.firstIndex(of: ":") {
            name = String(host[..<colon])
        }
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        let isLoopback = parts.count == 4 && parts[0] == "127" && parts.allSatisfy { UInt8($0) != nil }
        return isLoopback || ["localhost", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"].contains(name)
    }

    /// The metadata service of EC2, version 2: a token for a session first. Whoever is not on EC2 reaches nobody there.
    func instance(at now: Moment) async throws -> S3CredentialAnswer {
        guard set("AWS_EC2_METADATA_DISABLED")?.lowercased() != "true" else { return .nothing("AWS_EC2_METADATA_DISABLED is set") }
        guard let endpoint = ServiceEndpoint(set("AWS_EC2_METADATA_SERVICE_ENDPOINT") ?? "http://169.254.169.254") else {
            throw ArchiveError(.storeRefused, "The address of the instance's metadata is none.", remedy: "Correct AWS_EC2_METADATA_SERVICE_ENDPOINT.")
        }
        func ask(_ method: HTTPRequest.Method, _ path: String, _ header: (name: String, value: String)) async throws -> HTTPResponse {
            try await nearby.send(
                HTTPRequest(
                    method, scheme: endpoint.scheme, host: endpoint.host, path: endpoint.path + path, headers: [header], responseLimit: 1 << 16))
        }
        do {
            let session = try await ask(.put, "/latest/api/token", ("X-aws-ec2-metadata-token-ttl-seconds", "21600"))
            guard session.status == 200 else { return .nothing("\(endpoint.host) gave no token: HTTP \(session.status)") }
            let token = (
                name: "X-aws-ec2-metadata-token", value: String(decoding: session.body, as: UTF8.self).filter { $0.isASCII && !$0.isNewline }
            )
            let folder = "/latest/meta-data/iam/security-credentials/"
            let roles = try await ask(.get, folder, token)
            let role = String(decoding: roles.body, as: UTF8.self).split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
            guard roles.status == 200, !role.isEmpty else { return .nothing("no role belongs to this instance") }
            let response = try await ask(.get, folder + percentEncoded(role), token)
            guard response.status == 200 else { throw refused("The instance's metadata service", response.status) }
            return .found(try read(response, from: "The instance's metadata service"))
        } catch let failure as HTTPFailure where failure.kind != .cancelled {
            return .nothing("\(endpoint.host) did not answer")
        }
    }
}
