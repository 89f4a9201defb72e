import ArchiveCore
import ArchiveTesting
import Digests
import Testing

@testable import Pack

@Suite("Age files")
struct AgeTests {
    static let sizes = [0, 1, 65_535, 65_536, 65_537, 131_072, 5_000_001]

    static func content(_ size: Int, seed: UInt64 = 1) -> [UInt8] {
        var random = SeededRandom(seed: seed)
        return (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    private let identity = AgeIdentity.generate()
    private let other = AgeIdentity.generate()

    @Test("what is sealed opens again, at every size about the chunks'", arguments: sizes)
    func roundTrip(_ size: Int) throws {
        let content = Self.content(size)
        let (file, headerLength) = try Age.seal(content, to: [other.recipient, identity.recipient])
        #expect(try Age.open(file, with: [identity], of: "x") == content)
        #expect(try Age.open(file, with: [other], of: "x") == content)
        #expect(file.count == headerLength + AgeStream.sealedLength(size))
        let again = try Age.seal(content, to: [identity.recipient]).file
        #expect(again != file, "a key or nonce was used twice")
    }

    @Test("any part of the content can be read from its chunks alone", arguments: [(1, 0..<1), (65_536, 0..<65_536), (65_537, 65_536..<65_537), (131_072, 65_535..<65_537), (400_000, 70_000..<200_000), (400_000, 399_999..<400_000)])
    func parts(_ size: Int, _ range: Range<Int>) throws {
        let content = Self.content(size)
        let (file, headerLength) = try Age.seal(content, to: [identity.recipient])
        let layout = AgeLayout(headerLength: UInt64(headerLength), length: UInt64(file.count))
        let opener = try AgeOpener(file[..<headerLength], with: [identity], of: "x")
        #expect(opener.headerLength == headerLength)
        let (part, first, isEnd) = layout.chunks(holding: UInt64(range.lowerBound)..<UInt64(range.upperBound))
        #expect(part.count <= range.count + 2 * AgeStream.sealedChunkSize + AgeStream.sealedChunkSize)
        let chunks = Array(file[Int(part.lowerBound)..<Int(part.upperBound)])
        let plain = try opener.open(chunks[...], first: first, isEnd: isEnd)
        let start = Int(AgeLayout.offset(ofChunk: first))
        #expect(Array(plain[(range.lowerBound - start)..<(range.upperBound - start)]) == Array(content[range]))
        // The same bytes elsewhere, or with the wrong idea of the end, are not the same chunks.
        #expect(throws: ArchiveError.self) { try AgeOpener(file[..<headerLength], with: [identity], of: "x").open(chunks[...], first: first + 1, isEnd: isEnd) }
        #expect(throws: ArchiveError.self) { try AgeOpener(file[..<headerLength], with: [identity], of: "x").open(chunks[...], first: first, isEnd: !isEnd) }
    }

    @Test("no identity, a wrong one, and a passphrase are refused in plain words")
    func refusals() throws {
        let file = try Age.seal([1, 2, 3], to: [identity.recipient]).file
        func refusal(_ identities: [AgeIdentity]) -> ArchiveError? { #expect(throws: ArchiveError.self) { try Age.open(file, with: identities, of: "log/x") } }
        #expect(refusal([])?.code == .keyMissing)
        #expect(refusal([])?.remedy?.contains("--identity") == true)
        #expect(refusal([other])?.code == .keyWrong)
        #expect(refusal([other])?.message == "The one identity that was given does not open 'log/x'.")
        #expect(refusal([other, .generate()])?.message.contains("None of the 2 identities") == true)
        #expect(refusal([other])?.code.exitStatus == 3 && refusal([])?.code.exitStatus == 3)
    }

    @Test("every changed bit and every cut of a file is noticed")
    func damage() throws {
        let content = Array("a small content".utf8)
        let file = try Age.seal(content, to: [identity.recipient, other.recipient]).file
        for bit in 0..<file.count * 8 {
            var changed = file
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: ArchiveError.self, "bit \(bit)") { try Age.open(changed, with: [identity], of: "x") }
        }
        for count in 0..<file.count { #expect(throws: ArchiveError.self, "cut to \(count)") { try Age.open(Array(file[..<count]), with: [identity], of: "x") } }
        #expect(throws: ArchiveError.self) { try Age.open(file + [0], with: [identity], of: "x") }
    }

    @Test("cuts at the chunks' boundaries, chunks in another order, twice or of another file, are noticed")
    func chunks() throws {
        let (file, header) = try Age.seal(Self.content(3 * 65_536), to: [identity.recipient])
        let size = AgeStream.sealedChunkSize
        let chunk = { (n: Int) in Array(file[(header + n * size)..<(header + (n + 1) * size)]) }
        let head = Array(file[..<header])
        #expect(try Age.open(head + chunk(0) + chunk(1) + chunk(2), with: [identity], of: "x").count == 3 * 65_536)
        for bad in [[], chunk(0), chunk(0) + chunk(1), chunk(1) + chunk(2), chunk(2), chunk(1) + chunk(0) + chunk(2), chunk(0) + chunk(1) + chunk(1) + chunk(2), chunk(0) + chunk(1) + chunk(2) + chunk(2)] {
            #expect(throws: ArchiveError.self) { try Age.open(head + bad, with: [identity], of: "x") }
        }
        let (foreign, foreignHeader) = try Age.seal(Self.content(3 * 65_536), to: [identity.recipient])
        #expect(throws: ArchiveError.self) { try Age.open(head + foreign[foreignHeader...], with: [identity], of: "x") }
    }

    @Test("a header made of anything is refused or read, and never takes more than its limits")
    func fuzz() throws {
        let file = try Age.seal([7], to: [identity.recipient, other.recipient]).file
        let pieces = ["-> ", "---", "--- ", "\n", "\r\n", "X25519", "scrypt", " ", "age-encryption.org/v1\n", String(repeating: "A", count: 64), "=", "é", "grease"].map { Array($0.utf8) }
        var random = SeededRandom(seed: 7)
        var read = 0
        for _ in 0..<8_000 {
            var bytes = file
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.insert(contentsOf: pieces.randomElement(using: &random)!, at: at)
                case 2: bytes.removeSubrange(at..<min(bytes.count, at + Int.random(in: 1...70, using: &random)))
                default: bytes.swapAt(at, Int.random(in: 0..<bytes.count, using: &random))
                }
                if bytes.isEmpty { bytes = file }
            }
            if bytes == file { continue }
            // Whatever was changed in the header or behind it, the content is not to be had.
            if (try? Age.open(bytes, with: [identity], of: "x")) != nil { read += 1 }
        }
        #expect(read == 0)
        let line = Array("age-encryption.org/v1\n".utf8)
        let endless = line + Array("-> a\n".utf8) + Array(repeating: UInt8(ascii: "A"), count: 1 << 20)
        #expect(throws: AgeFailure.self) { try AgeHeader(parsing: endless[...]) }
        let many = line + Array(String(repeating: "-> a\n\n", count: AgeHeader.maximumStanzas + 1).utf8)
        #expect(throws: AgeFailure.header("it has more than 256 stanzas")) { try AgeHeader(parsing: many[...]) }
        let none = line + Array("--- \(String(repeating: "A", count: 43))\n".utf8)
        #expect(throws: AgeFailure.header("it has no stanza")) { try AgeHeader(parsing: none[...]) }
    }
}

@Suite("Age keys")
struct AgeKeyTests {
    // The example of the specification: 32 bytes of 0x42.
    private let secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    private let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

    @Test("the specification's keys are read and written")
    func specification() throws {
        let identity = try #require(AgeIdentity(secret))
        #expect(identity.secret == [UInt8](repeating: 0x42, count: 32))
        #expect(identity.secretText == secret)
        #expect(identity.recipient.description == recipient)
        #expect(try AgeRecipient(recipient) == identity.recipient)
    }

    @Test("a secret key describes itself by its public key only")
    func silence() throws {
        let identity = try #require(AgeIdentity(secret))
        var dumped = ""
        dump(identity, to: &dumped)
        for text in ["\(identity)", String(reflecting: identity), dumped, "\([identity])"] { #expect(!text.contains("66") && !text.lowercased().contains("secret")) }
        let mistaken = #expect(throws: ArchiveError.self) { try AgeRecipient(secret) }
        #expect(mistaken?.description.contains("GFPYY") == false)
        let file = #expect(throws: ArchiveError.self) { try AgeIdentity.parse(Array((secret + "Q\n").utf8), of: "key") }
        #expect(file?.description.contains("GFPYY") == false && file?.message.contains("Line 1") == true)
    }

    @Test("other keys, mixed case, wrong checksums and points of low order are refused")
    func refusals() throws {
        let wrong = [
            "", "age1", recipient.uppercased(), recipient.prefix(20) + recipient.dropFirst(20).uppercased(), String(recipient.dropLast()), recipient + "q",
            recipient.replacing("zvk", with: "zvq"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN", secret, Bech32.encode([1, 2, 3], prefix: "age"),
            Bech32.encode([UInt8](repeating: 0, count: 32), prefix: "age"), Bech32.encode([1] + [UInt8](repeating: 0, count: 31), prefix: "age"),
            Bech32.encode([UInt8](repeating: 9, count: 32), prefix: "age1yubikey"), " \(recipient)", "äge1",
        ]
        for text in wrong { #expect(throws: ArchiveError.self, "\(text)") { try AgeRecipient(String(text)) } }
        for text in [secret.lowercased(), recipient, String(secret.dropLast()), secret + " ", "AGE-SECRET-KEY-1"] { #expect(AgeIdentity(text) == nil) }
        for position in 0..<recipient.utf8.count {
            var bytes = Array(recipient.utf8)
            bytes[position] = bytes[position] == UInt8(ascii: "q") ? UInt8(ascii: "p") : UInt8(ascii: "q")
            #expect(throws: ArchiveError.self) { try AgeRecipient(String(decoding: bytes, as: UTF8.self)) }
        }
    }

    @Test("a file of identities is read as age-keygen writes it")
    func files() throws {
        let text = "# created: 2026-11-24T02:53:30Z\n# public key: \(recipient)\n\(secret)\r\n\n   \n#\n\(AgeIdentity.generate().secretText)"
        #expect(try AgeIdentity.parse(Array(text.utf8), of: "key").count == 2)
        for bad in ["", "# nothing\n", "\(secret)\n\(recipient)\n", "age-encryption.org/v1\n", "-----BEGIN AGE ENCRYPTED FILE-----\n", "AGE-PLUGIN-YUBIKEY-1QQQ\n"] {
            let refusal = #expect(throws: ArchiveError.self) { try AgeIdentity.parse(Array(bad.utf8), of: "key") }
            #expect(refusal?.code == .configuration && refusal?.message.contains("key") == true)
        }
    }

    @Test("base64 is canonical or refused")
    func base64() {
        for count in 0..<100 {
            let bytes = AgeTests.content(count, seed: UInt64(count))
            let text = Base64.encode(bytes[...])
            #expect(text.count == (count * 4 + 2) / 3)
            #expect(Base64.decode(text[...]) == bytes)
        }
        for bad in ["A", "AB", "AAB", "AA==", "AA A", "A-_A", "AAAAA", "é"] { #expect(Base64.decode(Array(bad.utf8)[...]) == nil, "\(bad)") }
        #expect(Base64.decode(Array("AA".utf8)[...]) == [0] && Base64.decode(Array("AAA".utf8)[...]) == [0, 0])
    }
}
