import CCrypto

/// SHA-256, piece by piece. Calls libcrypto's `EVP_Digest…`.
public struct SHA256: ~Copyable {
    private let context: OpaquePointer

    public init() {
        guard let context = EVP_MD_CTX_new(), EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
            preconditionFailure("libcrypto has no SHA-256")
        }
        self.context = context
    }

    deinit { EVP_MD_CTX_free(context) }

    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        precondition(EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1)
    }

    public mutating func finish() -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        precondition(EVP_DigestFinal_ex(context, &digest, nil) == 1)
        return digest
    }

    /// Calls `EVP_Digest`.
    public static func of(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { digest(bytes, EVP_sha256(), size: 32) }
    public static func of(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { of($0) } }
    public static func of(_ bytes: ArraySlice<UInt8>) -> [UInt8] { bytes.withUnsafeBytes { of($0) } }
}

/// MD5, which object stores ask for as a checksum; never for secrecy.
public enum MD5 {
    /// Calls `EVP_Digest`.
    public static func of(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { digest($0, EVP_md5(), size: 16) } }
}

/// HMAC over SHA-256 (RFC 2104).
public enum HMACSHA256 {
    /// Calls `EVP_MAC`'s one-shot form, `EVP_Q_mac`.
    public static func of(_ bytes: [UInt8], key: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 32)
        var length = 0
        // libcrypto refuses a null key, even an empty one.
        let key = key.isEmpty ? [0] : key
        let done = EVP_Q_mac(nil, "HMAC", nil, "SHA256", nil, key, key.count, bytes, bytes.count, &result, 32, &length)
        precondition(done != nil && length == 32, "libcrypto has no HMAC")
        return result
    }
}

private func digest(_ bytes: UnsafeRawBufferPointer, _ kind: OpaquePointer?, size: Int) -> [UInt8] {
    var result = [UInt8](repeating: 0, count: size)
    let done = EVP_Digest(bytes.baseAddress, bytes.count, &result, nil, kind, nil)
    precondition(done == 1, "libcrypto lacks a digest")
    return result
}

/// Two lower-case hexadecimal digits for each byte.
public func hexText(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}
