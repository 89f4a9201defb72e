import Digests

/// Why an age file could not be opened.
enum AgeFailure: Error, Equatable {
    /// The header is not as the specification has it.
    case header(String)
    /// None of the identities is one that it was encrypted for.
    case noMatch
    /// It was encrypted with a passphrase.
    case passphrase
    /// The header was changed.
    case authentication
    /// The payload was changed, cut short or added to.
    case payload(String)
}

/// The header of an age file (C2SP's specification `age.md`, version 1).
struct AgeHeader {
    struct Stanza: Equatable {
        var arguments: [String]
        var body: [UInt8]
    }

    static let versionLine = "age-encryption.org/v1\n"
    /// Bytes of the longest header that is read, and stanzas in it.
    static let maximumSize = 64 << 10
    static let maximumStanzas = 256
    static let nonceSize = 16

    private(set) var stanzas: [Stanza] = []
    private(set) var mac: [UInt8] = []
    /// What the MAC is computed over: everything up to and with `---`.
    private(set) var authenticated: [UInt8] = []
    /// Bytes of the header; the payload's nonce comes right behind it.
    private(set) var length = 0

    // MARK: Reading

    /// Reads the header that `bytes` begin with, strictly.
    init(parsing bytes: ArraySlice<UInt8>) throws(AgeFailure) {
        guard bytes.starts(with: Self.versionLine.utf8) else {
            throw .header(bytes.starts(with: "age-encryption.org/".utf8) ? "it is of a version of age that is not known" : "it does not begin as an age file does")
        }
        let limited = bytes.prefix(Self.maximumSize)
        var at = limited.startIndex + Self.versionLine.utf8.count
        func line() throws(AgeFailure) -> ArraySlice<UInt8> {
            guard let end = limited[at...].firstIndex(of: 0x0A) else {
                throw .header(bytes.count > Self.maximumSize ? "it is longer than \(Self.maximumSize) bytes" : "it ends within a line")
            }
            defer { at = end + 1 }
            return limited[at..<end]
        }
        while true {
            let begin = at
            let start = try line()
            if start.starts(with: "---".utf8) {
                guard !stanzas.isEmpty else { throw .header("it has no stanza") }
                guard start.starts(with: "--- ".utf8), let mac = Base64.decode(start.dropFirst(4)), mac.count == 32 else {
                    throw .header("its last line is not a MAC")
                }
                self.mac = mac
                authenticated = Array(bytes[bytes.startIndex..<begin + 3])
                length = at - bytes.startIndex
                return
            }
            guard stanzas.count < Self.maximumStanzas else { throw .header("it has more than \(Self.maximumStanzas) stanzas") }
            guard start.starts(with: "-> ".utf8) else { throw .header("a line begins neither a stanza nor the MAC") }
            let arguments = start.dropFirst(3).split(separator: 0x20, omittingEmptySubsequences: false)
            guard arguments.allSatisfy({ !$0.isEmpty && $0.allSatisfy { (0x21...0x7E).contains($0) } }) else {
                throw .header("an argument of a stanza is empty or has a character that is not allowed")
            }
            var body: [UInt8] = []
            while true {
                let next = try line()
                guard next.count <= Base64.columns, let part = Base64.decode(next) else { throw .header("the body of a stanza is not canonical base64 in lines of 64") }
                body += part
                if next.count < Base64.columns { break }
            }
            stanzas.append(Stanza(arguments: arguments.map { String(decoding: $0, as: UTF8.self) }, body: body))
        }
    }

    // MARK: Writing

    /// A header for `recipients`, each with a stanza of its own.
    static func encoded(fileKey: [UInt8], recipients: [AgeRecipient]) throws(AgeFailure) -> [UInt8] {
        var bytes = Array(versionLine.utf8)
        for recipient in recipients {
            let stanza = try AgeX25519.wrap(fileKey, for: recipient)
            bytes += Array("-> \(stanza.arguments.joined(separator: " "))\n".utf8)
            var rest = stanza.body[...]
            while true {
                let line = rest.prefix(48)
                bytes += Base64.encode(line) + [0x0A]
                rest = rest.dropFirst(48)
                if line.count < 48 { break }
            }
        }
        bytes += Array("---".utf8)
        return bytes + [0x20] + Base64.encode(mac(of: bytes, fileKey: fileKey)[...]) + [0x0A]
    }

    static func mac(of authenticated: [UInt8], fileKey: [UInt8]) -> [UInt8] { HMACSHA256.of(authenticated, key: hkdf(fileKey, salt: [], info: "header")) }

    // MARK: Keys

    /// The key that the payload's key is made from, proven by the header's MAC.
    func fileKey(with identities: [AgeIdentity]) throws(AgeFailure) -> [UInt8] {
        if stanzas.contains(where: { $0.arguments[0] == "scrypt" }) {
            guard stanzas.count == 1 else { throw .header("a passphrase stands beside other stanzas") }
            throw .passphrase
        }
        // All of them are looked at, whichever opens: a file with a malformed stanza is refused.
        var found: [UInt8]?
        for stanza in stanzas where stanza.arguments[0] == AgeX25519.name {
            let wrapped = try AgeX25519.Wrapped(stanza)
            for identity in identities {
                let key = try wrapped.open(with: identity)
                found = found ?? key
            }
        }
        guard let found else { throw .noMatch }
        guard areEqual(Self.mac(of: authenticated, fileKey: found), mac) else { throw .authentication }
        return found
    }

    /// Compares in a time that does not tell where the difference is.
    private func areEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.count == b.count && zip(a, b).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0 }
}
