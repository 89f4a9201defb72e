import ArchiveCore
import Foundation

/// Asks a token server; what it says is never shown, for it may echo what was sent.
struct TokenServer: Sendable {
    private let client: HTTPClient
    /// What people call it.
    private let name: String

    init(_ transport: any HTTPTransport, name: String, policy: RetryPolicy, now: @escaping @Sendable () -> Moment) {
        client = HTTPClient(transport, service: name, now: now, policy: policy)
        self.name = name
    }

    /// - Throws: `.storeRefused` for any answer but 200, with its code of an error; `.storeUnavailable`.
    func ask(_ request: HTTPRequest, remedy: String) async throws -> [UInt8] {
        var request = request
        request.responseLimit = 1 << 20
        let response = try await client.send(request, preparing: { request, _ in request }) { answer in
            switch answer.status {
            case 408, 500...599: .again("status \(answer.status)")
            case 429: .slower("status 429")
            default: .done
            }
        }
        guard response.status == 200 else {
            struct Refusal: Decodable { var error: String }
            let code = shownCode((try? JSONDecoder().decode(Refusal.self, from: Data(response.body)))?.error)
            throw ArchiveError(.storeRefused, "\(name) gave no token: status \(response.status)\(code.map { ", \($0)" } ?? "").", remedy: remedy)
        }
        return response.body
    }

    /// The same, for an answer with `access_token` and `expires_in` (RFC 6749, section 5.1).
    func token(_ request: HTTPRequest, at now: Moment, remedy: String) async throws -> AccessToken {
        struct Answer: Decodable {
            var token: String
            /// A number, or a number in quotes, as Azure's servers send it.
            var seconds: Double
            enum Keys: String, CodingKey { case access_token, expires_in }
            init(from decoder: any Decoder) throws {
                let values = try decoder.container(keyedBy: Keys.self)
                token = try values.decode(String.self, forKey: .access_token)
                if let text = try? values.decode(String.self, forKey: .expires_in) { seconds = Double(text) ?? 0 } else {
                    seconds = try values.decodeIfPresent(Double.self, forKey: .expires_in) ?? 3600
                }
            }
        }
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(try await ask(request, remedy: remedy))), isTokenText(answer.token),
            (1...1e9).contains(answer.seconds)
        else { throw unusable(remedy) }
        return AccessToken(value: answer.token, expires: now.adding(seconds: answer.seconds))
    }

    func unusable(_ remedy: String) -> ArchiveError { ArchiveError(.storeUnavailable, "\(name) answered with something that is no token.", remedy: remedy) }
}

/// Whether a text can stand in a header: printable, without spaces.
func isTokenText(_ text: String) -> Bool { !text.isEmpty && text.utf8.count <= 1 << 16 && text.utf8.allSatisfy { (0x21...0x7E).contains($0) } }

extension HTTPRequest {
    /// A form (`application/x-www-form-urlencoded`) to an address; `nil` when that is no address.
    init?(form fields: [(String, String)], to address: String) {
        guard let service = ServiceEndpoint(address) else { return nil }
        self.init(
            .post, scheme: service.scheme, host: service.host, path: service.path.isEmpty ? "/" : service.path,
            headers: [("Content-Type", "application/x-www-form-urlencoded")],
            body: Array(fields.map { "\(percentEncoded($0.0))=\(percentEncoded($0.1))" }.joined(separator: "&").utf8))
    }
}
