import ArchiveCore
import CCrypto
import Foundation

/// RSA signatures of JSON Web Tokens (RFC 7518, RS256), and the tokens themselves (RFC 7519).
enum RS256 {
    /// Signs claims with a private key in PEM. Calls libcrypto's `d2i_AutoPrivateKey` and `EVP_DigestSign`.
    ///
    /// - Returns: the token: header, claims and signature; `nil` when `pem` is no RSA key.
    static func token(claims: [String: Any], keyID: String?, pem: String) -> String? {
        var header: [String: Any] = ["alg": "RS256", "typ": "JWT"]
        header["kid"] = keyID
        guard let head = json(header), let body = json(claims) else { return nil }
        let signed = base64URL(head) + "." + base64URL(body)
        guard let signature = sign(Array(signed.utf8), pem: pem) else { return nil }
        return signed + "." + base64URL(Data(signature))
    }

    static func sign(_ bytes: [UInt8], pem: String) -> [UInt8]? {
        let lines = pem.split(whereSeparator: \.isNewline)
        guard let begin = lines.firstIndex(where: { $0.hasPrefix("-----BEGIN ") && $0.contains("PRIVATE KEY") }),
            let end = lines[begin...].firstIndex(where: { $0.hasPrefix("-----END ") }),
            let data = Data(base64Encoded: lines[(begin + 1)..<end].joined())
        else { return nil }
        let key = data.withUnsafeBytes { buffer in
            var position: UnsafePointer<UInt8>? = buffer.bindMemory(to: UInt8.self).baseAddress
            return d2i_AutoPrivateKey(nil, &position, buffer.count)
        }
        guard let key else { return nil }
        defer { EVP_PKEY_free(key) }
        guard EVP_PKEY_is_a(key, "RSA") == 1, let context = EVP_MD_CTX_new() else { return nil }
        defer { EVP_MD_CTX_free(context) }
        var length = Int(EVP_PKEY_get_size(key))
        guard length > 0, EVP_DigestSignInit(context, nil, EVP_sha256(), nil, key) == 1 else { return nil }
        var signature = [UInt8](repeating: 0, count: length)
        guard EVP_DigestSign(context, &signature, &length, bytes, bytes.count) == 1 else { return nil }
        return Array(signature.prefix(length))
    }

    private static func json(_ object: [String: Any]) -> Data? {
        try? JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
    }
}

/// Base64 for URLs, without padding (RFC 4648, section 5).
func base64URL(_ data: Data) -> String {
    data.base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
}
