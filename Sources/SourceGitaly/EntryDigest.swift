import CCrypto

/// SHA-256 of an entry's frame, as the archive records it.
enum EntryDigest {
    static func of(_ frame: [UInt8]) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        var size: UInt32 = 0
        let done = EVP_Digest(frame, frame.count, &digest, &size, EVP_sha256(), nil)
        precondition(done == 1 && size == 32, "libcrypto has no SHA-256")
        return digest
    }
}
