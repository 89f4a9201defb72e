import ArchiveCore
import DurableIO
import Foundation
import Runtime

/// Who asks Azure Blob Storage, and where.
struct AzureAccess: Sendable {
    enum Credentials: Sendable {
        case sharedKey(AzureSigner)
        /// Parameters of a query, decoded.
        case sas([(name: String, value: String)])
        case identity(AzureIdentity)
    }
    var endpoint: ServiceEndpoint
    var credentials: Credentials

    /// Takes the connection string first, then a key, then a SAS token, then the identity of the machine.
    ///
    /// - Throws: `.configuration` when no account is named, or a secret is malformed; never with the secret in it.
    init(_ location: AzureLocation, _ environment: (String) -> String?) throws(ArchiveError) {
        func variable(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
        var parts: [String: String] = [:]
        if let text = variable("AZURE_STORAGE_CONNECTION_STRING") { parts = try Self.connection(text) }
        let named = location.account ?? parts["accountname"] ?? variable("AZURE_STORAGE_ACCOUNT")
        guard let account = named ?? Self.account(of: parts["blobendpoint"] ?? location.endpoint) else {
            throw ArchiveError(.configuration, "\(location) names no account of Azure Storage.", remedy: "Name it: ?account=NAME, or AZURE_STORAGE_ACCOUNT.")
        }
        // A connection string of another account is not meant.
        if let own = parts["accountname"], own != account { parts = [:] }
        let address = location.endpoint ?? parts["blobendpoint"]
            ?? "\(parts["defaultendpointsprotocol"] ?? "https")://\(account).blob.\(parts["endpointsuffix"] ?? "core.windows.net")"
        guard let endpoint = ServiceEndpoint(address) else { throw AzureLocation.badEndpoint }
        self.endpoint = endpoint
        if let key = parts["accountkey"] ?? (parts["sharedaccesssignature"] == nil ? variable("AZURE_STORAGE_KEY") : nil) {
            guard let signer = AzureSigner(account: account, key: key) else {
                throw ArchiveError(.configuration, "The key of account \(account) is no base64.", remedy: "Copy it anew from the portal: Access keys.")
            }
            credentials = .sharedKey(signer)
        } else if let text = parts["sharedaccesssignature"] ?? variable("AZURE_STORAGE_SAS_TOKEN") {
            guard let token = Self.sas(text) else {
                throw ArchiveError(.configuration, "The SAS token for account \(account) is none.", remedy: "Copy it anew; it looks like sv=…&sp=…&sig=….")
            }
            credentials = .sas(token)
        } else {
            guard endpoint.scheme == "https" || endpoint.isLoopback else {
                throw ArchiveError(
                    .configuration, "\(location) is reached by http://, where a token can be read by everybody.",
                    remedy: "Use https://, or a shared key, which does not travel.")
            }
            credentials = .identity(AzureIdentity(clientID: location.clientID, environment))
        }
    }

    /// `Name=value;…`, names in lower case; the emulator's short form included.
    private static func connection(_ text: String) throws(ArchiveError) -> [String: String] {
        var parts: [String: String] = [:]
        for item in text.split(separator: ";") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2 else {
                throw ArchiveError(
                    .configuration, "AZURE_STORAGE_CONNECTION_STRING is malformed.",
                    remedy: "It looks like DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=core.windows.net.")
            }
            parts[pair[0].lowercased().trimmingCharacters(in: .whitespaces)] = String(pair[1])
        }
        if parts["usedevelopmentstorage"]?.lowercased() == "true" {
            // The emulator's account and key are public: learn.microsoft.com/azure/storage/common/storage-use-azurite.
            parts = [
                "accountname": "devstoreaccount1", "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
                "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
            ]
        }
        return parts
    }

    /// `ACCOUNT.blob.…`
    private static func account(of endpoint: String?) -> String? {
        guard let host = endpoint.flatMap(ServiceEndpoint.init)?.host, let dot = host.firstRange(of: ".blob.") else { return nil }
        return String(host[..<dot.lowerBound])
    }

    static func sas(_ text: String) -> [(name: String, value: String)]? {
        var result: [(name: String, value: String)] = []
        for item in text.drop(while: { $0 == "?" }).split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2, let value = String(pair[1]).removingPercentEncoding else { return nil }
            result.append((String(pair[0]), value))
        }
        return result.contains { $0.name == "sig" && !$0.value.isEmpty } ? result : nil
    }
}

extension ServiceEndpoint {
    var isLoopback: Bool {
        let name = host.hasPrefix("[") ? String(host.prefix { $0 != "]" }.dropFirst()) : String(host.prefix { $0 != ":" })
        return name == "localhost" || name == "::1" || name.hasPrefix("127.")
    }
}

/// An identity that Microsoft Entra knows this machine or pod by.
enum AzureIdentity: Sendable {
    /// A token of a Kubernetes service account, exchanged (workload identity federation).
    case federated(file: String, clientID: String, tenant: String, authority: String)
    /// App Service, Functions and Container Apps.
    case endpoint(address: String, secret: String, clientID: String?)
    /// The instance metadata service of a virtual machine.
    case machine(host: String, clientID: String?)

    private static let resource = "https://storage.azure.com"

    init(clientID: String?, _ environment: (String) -> String?) {
        func variable(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
        if let file = variable("AZURE_FEDERATED_TOKEN_FILE"), let client = clientID ?? variable("AZURE_CLIENT_ID"), let tenant = variable("AZURE_TENANT_ID") {
            self = .federated(file: file, clientID: client, tenant: tenant, authority: variable("AZURE_AUTHORITY_HOST") ?? "https://login.microsoftonline.com")
        } else if let address = variable("IDENTITY_ENDPOINT"), let secret = variable("IDENTITY_HEADER") {
            self = .endpoint(address: address, secret: secret, clientID: clientID ?? variable("AZURE_CLIENT_ID"))
        } else {
            self = .machine(host: variable("AZURE_POD_IDENTITY_AUTHORITY_HOST") ?? "http://169.254.169.254", clientID: clientID ?? variable("AZURE_CLIENT_ID"))
        }
    }

    /// Gets a new token.
    ///
    /// - Parameters:
    ///   - remote: carries requests to Microsoft Entra.
    ///   - local: carries requests to the machine's own services, past any proxy.
    func token(at now: Moment, remote: TokenServer, local: TokenServer) async throws -> AccessToken {
        let none = "Give the machine a managed identity, or set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING."
        switch self {
        case .federated(let file, let clientID, let tenant, let authority):
            let bytes = try await blocking { try Files.read(file, limit: 1 << 20) }
            let assertion = String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            let fields = [
                ("grant_type", "client_credentials"), ("client_id", clientID), ("scope", Self.resource + "/.default"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"), ("client_assertion", assertion),
            ]
            guard let host = ServiceEndpoint(authority),
                let request = HTTPRequest(form: fields, to: "\(host.scheme)://\(host.host)/\(percentEncoded(tenant))/oauth2/v2.0/token")
            else { throw ArchiveError(.configuration, "AZURE_AUTHORITY_HOST is no address.", remedy: "Write it as https://login.microsoftonline.com.") }
            return try await remote.token(request, at: now, remedy: "See whether the application has a federated credential for this pod's service account.")
        case .endpoint(let address, let secret, let clientID):
            guard let service = ServiceEndpoint(address) else {
                throw ArchiveError(.configuration, "IDENTITY_ENDPOINT is no address.", remedy: "The platform sets it; leave it as it is.")
            }
            return try await local.token(
                request(service, service.path, version: "2019-08-01", [("X-IDENTITY-HEADER", secret)], clientID), at: now, remedy: none)
        case .machine(let host, let clientID):
            guard let service = ServiceEndpoint(host) else {
                throw ArchiveError(.configuration, "AZURE_POD_IDENTITY_AUTHORITY_HOST is no address.", remedy: "Leave it unset.")
            }
            return try await local.token(
                request(service, "/metadata/identity/oauth2/token", version: "2018-02-01", [("Metadata", "true")], clientID), at: now, remedy: none)
        }
    }

    private func request(
        _ service: ServiceEndpoint, _ path: String, version: String, _ headers: [(name: String, value: String)], _ clientID: String?
    ) -> HTTPRequest {
        var query: [(name: String, value: String?)] = [("api-version", version), ("resource", Self.resource)]
        if let clientID { query.append(("client_id", clientID)) }
        return HTTPRequest(.get, scheme: service.scheme, host: service.host, path: path.isEmpty ? "/" : path, query: query, headers: headers)
    }
}
