import ArchiveCore

extension ArchiveError.Code {
    /// The service will not do what is asked before an administrator changes something: a permission, a key, a rule.
    static let storeRefused = ArchiveError.Code("store-refused")
}

/// A word of a service's answer that may be shown: a code of letters, digits and `._-`, never free text, which may echo a signature.
func shownCode(_ text: String?) -> String? {
    guard let text, (1...64).contains(text.utf8.count) else { return nil }
    let isWord = text.utf8.allSatisfy { byte in
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): true
        default: false
        }
    }
    return isWord ? text : nil
}

extension HTTPResponse {
    /// The address that a redirection names, `scheme://host`, without a path or a query, which may be signed.
    var redirection: String? {
        guard [301, 302, 303, 307, 308].contains(status), let text = self["location"], let colon = text.firstRange(of: "://"),
            let endpoint = ServiceEndpoint(text[..<colon.upperBound] + String(text[colon.upperBound...].prefix { !"/?#".contains($0) }))
        else { return nil }
        return "\(endpoint.scheme)://\(endpoint.host)"
    }
}

/// What to do about an answer whose code says nothing known.
func strangeAnswerRemedy(_ redirection: String?) -> String {
    (redirection.map { "It redirects to \($0): correct the endpoint. " } ?? "") + "See the endpoint: what answers there may not be the service."
}

/// A service's address: `http(s)://host[:port][/path]`.
struct ServiceEndpoint: Sendable, Hashable {
    var scheme: String
    /// With `:port` where one is given.
    var host: String
    /// Empty, or begins with `/` and does not end in one.
    var path: String

    /// - Returns: `nil` for anything else, above all for an address with a user, a query or a fragment.
    init?(_ text: String) {
        guard let colon = text.firstRange(of: "://") else { return nil }
        scheme = text[..<colon.lowerBound].lowercased()
        var rest = text[colon.upperBound...]
        while rest.hasSuffix("/") { rest.removeLast() }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        host = String(rest[..<slash])
        path = String(rest[slash...])
        guard scheme == "http" || scheme == "https", !host.isEmpty, path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
            host.utf8.allSatisfy({ byte in
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ":"), UInt8(ascii: "["),
                    UInt8(ascii: "]"):
                    true
                default: false
                }
            }), !path.contains("?"), !path.contains("#"), !path.contains("@")
        else { return nil }
    }
}
