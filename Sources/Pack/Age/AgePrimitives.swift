import CCrypto
import Digests

/// HKDF over SHA-256 (RFC 5869) for one block of output, which is all that age asks for.
func hkdf(_ key: [UInt8], salt: [UInt8], info: String) -> [UInt8] {
    HMACSHA256.of(Array(info.utf8) + [1], key: HMACSHA256.of(key, key: salt))
}

/// Bytes that nobody can foretell.
func randomBytes(_ count: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    return (0..<count).map { _ in .random(in: .min ... .max, using: &generator) }
}

/// X25519 (RFC 7748).
enum X25519 {
    /// The public key of a private one. Calls `EVP_PKEY_get_raw_public_key`.
    static func publicKey(of secret: [UInt8]) -> [UInt8] {
        let key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nil, secret, secret.count)
        defer { EVP_PKEY_free(key) }
        var result = [UInt8](repeating: 0, count: 32)
        var length = 32
        precondition(key != nil && EVP_PKEY_get_raw_public_key(key, &result, &length) == 1 && length == 32, "libcrypto has no X25519")
        return result
    }

    /// The secret that both sides share; `nil` for a point of low order, which would give everybody the same one. Calls `EVP_PKEY_derive`.
    static func shared(_ secret: [UInt8], _ point: [UInt8]) -> [UInt8]? {
        let own = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nil, secret, secret.count)
        let other = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nil, point, point.count)
        let context = EVP_PKEY_CTX_new(own, nil)
        defer {
            EVP_PKEY_CTX_free(context)
            EVP_PKEY_free(other)
            EVP_PKEY_free(own)
        }
        var result = [UInt8](repeating: 0, count: 32)
        var length = 32
        guard EVP_PKEY_derive_init(context) == 1, EVP_PKEY_derive_set_peer(context, other) == 1,
            EVP_PKEY_derive(context, &result, &length) == 1, length == 32, result.contains(where: { $0 != 0 })
        else { return nil }
        return result
    }
}

/// ChaCha20-Poly1305 (RFC 8439) under one key, with one context for many messages. Calls libcrypto's `EVP_Encrypt…` and `EVP_Decrypt…`.
struct ChaChaPoly: ~Copyable {
    static let tagSize = 16
    private let context: OpaquePointer
    private let key: [UInt8]

    init(key: [UInt8]) {
        precondition(key.count == 32)
        guard let context = EVP_CIPHER_CTX_new() else { preconditionFailure("libcrypto could not allocate a cipher") }
        self.context = context
        self.key = key
    }

    deinit { EVP_CIPHER_CTX_free(context) }

    /// Encrypts `plain` into `output`, the tag behind it: `plain.count + tagSize` bytes.
    func seal(_ plain: UnsafeRawBufferPointer, nonce: [UInt8], into output: UnsafeMutablePointer<UInt8>) {
        var length: Int32 = 0
        // An empty message still has a tag, and libcrypto takes no null pointer for its bytes.
        let done =
            EVP_EncryptInit_ex(context, EVP_chacha20_poly1305(), nil, key, nonce) == 1
            && (plain.isEmpty || EVP_EncryptUpdate(context, output, &length, plain.bindMemory(to: UInt8.self).baseAddress, Int32(plain.count)) == 1)
            && EVP_EncryptFinal_ex(context, output + plain.count, &length) == 1
            && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, Int32(Self.tagSize), output + plain.count) == 1
        precondition(done, "libcrypto has no ChaCha20-Poly1305")
    }

    /// Decrypts `sealed`, at least a tag, into `output`: `sealed.count - tagSize` bytes, which count only when the tag is right.
    ///
    /// - Returns: whether it is.
    func open(_ sealed: UnsafeRawBufferPointer, nonce: [UInt8], into output: UnsafeMutablePointer<UInt8>) -> Bool {
        let bytes = sealed.bindMemory(to: UInt8.self)
        let count = sealed.count - Self.tagSize
        guard count >= 0, let start = bytes.baseAddress else { return false }
        var length: Int32 = 0
        let ready = EVP_DecryptInit_ex(context, EVP_chacha20_poly1305(), nil, key, nonce) == 1
        precondition(ready, "libcrypto has no ChaCha20-Poly1305")
        return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(Self.tagSize), UnsafeMutablePointer(mutating: start + count)) == 1
            && (count == 0 || EVP_DecryptUpdate(context, output, &length, start, Int32(count)) == 1)
            && EVP_DecryptFinal_ex(context, output + count, &length) == 1
    }
}
