import ArchiveCore
import Digests
import Foundation

/// Shared Key authorization of Azure Storage's Blob service, version 2015-02-21 and later
/// (learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key).
struct AzureSigner: Sendable, CustomStringConvertible {
    let account: String
    private let key: [UInt8]

    /// - Parameter key: in base64, as the portal shows it.
    /// - Returns: `nil` when it is no base64.
    init?(account: String, key: String) {
        guard let data = Data(base64Encoded: key), !data.isEmpty else { return nil }
        self.account = account
        self.key = Array(data)
    }

    /// Never the key.
    var description: String { "the shared key of account \(account)" }

    /// The standard headers whose values are signed, in this order; `Date` stays empty, for `x-ms-date` stands for it.
    private static let signed = [
        "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match",
        "if-unmodified-since", "range",
    ]

    /// What is signed of a request that has its `x-ms-date` and `x-ms-version`.
    ///
    /// - Parameter path: as it goes over the wire.
    func stringToSign(_ request: HTTPRequest) -> String {
        var lines = [request.method.rawValue]
        for name in Self.signed {
            switch name {
            case "content-length": lines.append(request.body.isEmpty ? "" : "\(request.body.count)")
            case "date": lines.append(request["x-ms-date"] == nil ? request["date"] ?? "" : "")
            default: lines.append(request[name] ?? "")
            }
        }
        let own = request.headers.map { (name: $0.name.lowercased(), value: $0.value) }.filter { $0.name.hasPrefix("x-ms-") }
            .sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        lines += own.map { "\($0.name):\(folded($0.value))" }
        lines.append("/\(account)\(request.path)")
        // One line for each name in lower case, sorted; the values of a name that comes several times are sorted and joined by commas.
        var parameters: [String: [String]] = [:]
        for item in request.query { parameters[item.name.lowercased(), default: []].append(item.value ?? "") }
        lines += parameters.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            .map { name, values in "\(name):\(values.sorted().joined(separator: ","))" }
        return lines.joined(separator: "\n")
    }

    /// The value of the header `Authorization`.
    func authorization(_ request: HTTPRequest) -> String {
        "SharedKey \(account):\(Data(HMACSHA256.of(Array(stringToSign(request).utf8), key: key)).base64EncodedString())"
    }

    /// White space around a value goes; runs of it within become one space.
    private func folded(_ value: String) -> String { value.split { $0 == " " || $0 == "\t" || $0.isNewline }.joined(separator: " ") }
}
