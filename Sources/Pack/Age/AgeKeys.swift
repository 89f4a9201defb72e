import ArchiveCore

/// Whom an age file is encrypted for: an X25519 public key, written `age1…`.
public struct AgeRecipient: Hashable, Sendable, CustomStringConvertible {
    /// 32 bytes.
    let publicKey: [UInt8]

    init(publicKey: [UInt8]) { self.publicKey = publicKey }

    /// - Throws: `.configuration` for anything but one X25519 public key in lower case.
    public init(_ text: String) throws(ArchiveError) {
        guard let (prefix, key) = Bech32.decode(text), prefix == "age", key.count == 32 else {
            let secret = text.uppercased().hasPrefix("AGE-SECRET-KEY-")
            throw ArchiveError(
                .configuration, secret ? "A secret key was given in place of a recipient." : "'\(text)' is not an age public key.",
                remedy: "Give the public key, 'age1' and 58 more characters, that `age-keygen -y FILE` prints; keys of plugins and of SSH are not taken.")
        }
        guard X25519.shared(randomBytes(32), key) != nil else {
            throw ArchiveError(.configuration, "'\(text)' is a public key that everybody could decrypt for.", remedy: "Make one with `age-keygen`.")
        }
        publicKey = key
    }

    public var description: String { Bech32.encode(publicKey, prefix: "age") }
}

/// What opens an age file: an X25519 secret key, written `AGE-SECRET-KEY-1…`. It describes itself by its public key only.
public struct AgeIdentity: Sendable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// 32 bytes.
    let secret: [UInt8]
    public let recipient: AgeRecipient

    init(secret: [UInt8]) {
        self.secret = secret
        recipient = AgeRecipient(publicKey: X25519.publicKey(of: secret))
    }

    /// - Returns: `nil` for anything but one X25519 secret key in upper case.
    public init?(_ text: String) {
        guard let (prefix, key) = Bech32.decode(text), prefix == "AGE-SECRET-KEY-", key.count == 32 else { return nil }
        self.init(secret: key)
    }

    /// A new one.
    public static func generate() -> AgeIdentity { AgeIdentity(secret: randomBytes(32)) }

    /// As `age-keygen` writes it. Never for an error or a log.
    var secretText: String { Bech32.encode(secret, prefix: "age-secret-key-").uppercased() }

    public var description: String { "the identity of \(recipient)" }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: []) }

    /// The most bytes that a file of identities may have.
    public static let maximumFileSize = 1 << 20

    /// Reads a file as `age-keygen` writes it: one identity a line, with comments and blank lines.
    ///
    /// - Parameter name: what the file is called in errors.
    /// - Throws: `.configuration` with the number of the line, never with its content.
    public static func parse(_ bytes: [UInt8], of name: String) throws(ArchiveError) -> [AgeIdentity] {
        let makeOne = "Give a file that `age-keygen` made."
        guard bytes.count <= maximumFileSize else { throw ArchiveError(.configuration, "'\(name)' is too large for a file of age identities.", remedy: makeOne) }
        if bytes.starts(with: "age-encryption.org/".utf8) || bytes.starts(with: "-----BEGIN AGE ENCRYPTED FILE".utf8) {
            throw ArchiveError(.configuration, "The file of identities '\(name)' is itself encrypted.", remedy: "Decrypt it first, with `age -d`.")
        }
        var identities: [AgeIdentity] = []
        for (number, line) in bytes.split(separator: 0x0A, omittingEmptySubsequences: false).enumerated() {
            let spaces: Set<UInt8> = [0x20, 0x09, 0x0D]
            let text = line.drop { spaces.contains($0) }.reversed().drop { spaces.contains($0) }.reversed()
            guard let first = text.first, first != UInt8(ascii: "#") else { continue }
            guard let identity = AgeIdentity(String(decoding: text, as: UTF8.self)) else {
                throw ArchiveError(.configuration, "Line \(number + 1) of '\(name)' is not an age identity for X25519.", remedy: makeOne)
            }
            identities.append(identity)
        }
        guard !identities.isEmpty else { throw ArchiveError(.configuration, "There is no age identity in '\(name)'.", remedy: makeOne) }
        return identities
    }
}
