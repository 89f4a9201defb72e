/// The stanza for X25519 recipients.
enum AgeX25519 {
    static let name = "X25519"
    private static let info = "age-encryption.org/v1/X25519"
    private static let nonce = [UInt8](repeating: 0, count: 12)
    static let fileKeySize = 16

    static func wrap(_ fileKey: [UInt8], for recipient: AgeRecipient) throws(AgeFailure) -> AgeHeader.Stanza {
        let ephemeral = randomBytes(32)
        let share = X25519.publicKey(of: ephemeral)
        guard let shared = X25519.shared(ephemeral, recipient.publicKey) else { throw .header("a recipient's key is a point of low order") }
        let cipher = ChaChaPoly(key: hkdf(shared, salt: share + recipient.publicKey, info: info))
        var body = [UInt8](repeating: 0, count: fileKey.count + ChaChaPoly.tagSize)
        body.withUnsafeMutableBufferPointer { output in fileKey.withUnsafeBytes { cipher.seal($0, nonce: nonce, into: output.baseAddress!) } }
        return AgeHeader.Stanza(arguments: [name, String(decoding: Base64.encode(share[...]), as: UTF8.self)], body: body)
    }

    /// A stanza of the right form.
    struct Wrapped {
        private let share: [UInt8]
        private let body: [UInt8]

        init(_ stanza: AgeHeader.Stanza) throws(AgeFailure) {
            guard stanza.arguments.count == 2, let share = Base64.decode(Array(stanza.arguments[1].utf8)[...]), share.count == 32 else {
                throw .header("a stanza for X25519 does not have one share of 32 bytes")
            }
            guard stanza.body.count == fileKeySize + ChaChaPoly.tagSize else { throw .header("the body of a stanza for X25519 is not of 32 bytes") }
            self.share = share
            body = stanza.body
        }

        /// - Returns: `nil` when it is for somebody else.
        func open(with identity: AgeIdentity) throws(AgeFailure) -> [UInt8]? {
            guard let shared = X25519.shared(identity.secret, share) else { throw .header("a share is a point of low order") }
            let cipher = ChaChaPoly(key: hkdf(shared, salt: share + identity.recipient.publicKey, info: info))
            var key = [UInt8](repeating: 0, count: fileKeySize)
            let isOurs = key.withUnsafeMutableBufferPointer { output in body.withUnsafeBytes { cipher.open($0, nonce: nonce, into: output.baseAddress!) } }
            return isOurs ? key : nil
        }
    }
}
