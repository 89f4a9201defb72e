import ArchiveCore
import ArchiveTesting
import Digests
import DurableIO
import Foundation
import Glibc
import Runtime
import Testing

@testable import Pack

/// The age test kit, see `Fixtures/README.md`.
@Suite("The vectors of age's test kit")
struct AgeVectors {
    /// What a vector's own header says, and the age file in it.
    struct Vector {
        var expect = ""
        var payload: String?
        var identities: [AgeIdentity] = []
        var hasPassphrase = false
        var file: [UInt8]

        init(_ bytes: [UInt8]) throws {
            let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
            let end = try #require(lines.firstIndex { $0.isEmpty })
            for line in lines[..<end] {
                let text = String(decoding: line, as: UTF8.self)
                let parts = text.split(separator: ":", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) }
                switch parts[0] {
                case "expect": expect = parts[1]
                case "payload": payload = parts[1]
                case "identity": identities.append(try #require(AgeIdentity(parts[1])))
                case "passphrase": hasPassphrase = true
                case "file key": continue
                default: Issue.record("the key '\(parts[0])' is not known")
                }
            }
            file = Array(bytes[(lines[end].startIndex + 1)...])
        }
    }

    private func outcome(_ vector: Vector) -> String {
        do throws(AgeFailure) {
            let header = try AgeHeader(parsing: vector.file[...])
            let key = try header.fileKey(with: vector.identities)
            let rest = vector.file.dropFirst(header.length)
            guard rest.count >= AgeHeader.nonceSize else { return "header failure" }
            let stream = AgeStream(fileKey: key, nonce: Array(rest.prefix(AgeHeader.nonceSize)))
            let plain = try stream.open(rest.dropFirst(AgeHeader.nonceSize), first: 0, isEnd: true)
            return hexText(SHA256.of(plain)) == vector.payload ? "success" : "another payload"
        } catch {
            switch error {
            case .header: return "header failure"
            case .noMatch: return "no match"
            case .passphrase: return "passphrase"
            case .authentication: return "HMAC failure"
            case .payload: return "payload failure"
            }
        }
    }

    @Test("every one has the outcome that it says")
    func all() async throws {
        let directory = try TemporaryDirectory()
        let archive = try #require(Bundle.module.resourceURL).appendingPathComponent("Fixtures/age-testkit.tar.xz").path
        let result = try await Subprocess(["tar", "-xf", archive, "-C", directory.path]).run()
        #expect(result.status == 0, "\(result.errors)")
        let names = try Files.names(in: "\(directory.path)/age-testkit")
        #expect(names.count == 67)
        for name in names {
            let vector = try Vector(try Files.read("\(directory.path)/age-testkit/\(name)"))
            // Tidemark reads no passphrases: one alone is refused as such, whatever it would open.
            let expected = vector.hasPassphrase && name == "scrypt" ? "passphrase" : vector.expect
            #expect(outcome(vector) == expected, "\(name)")
            let opened = try? Age.open(vector.file, with: vector.identities, of: name)
            #expect((opened != nil) == (expected == "success"), "\(name)")
        }
    }
}

/// Other implementations read what ours writes, and the other way round.
@Suite("Age files of others")
struct AgeInteroperation {
    private static let python = "\(getenv("TIDEMARK_CACHE").map { String(cString: $0) } ?? "/var/cache/tidemark-test")/tools/bin/python"

    private func run(_ command: [String]) async throws -> Subprocess.Result {
        let result = try await Subprocess(command).run()
        #expect(result.status == 0, "\(command.joined(separator: " ")): \(result.errors)")
        return result
    }

    private func require(_ program: String) throws {
        try #require(access(program, X_OK) == 0, "\(program) is missing: integration/test installs it, and `apt-get install age` brings Debian's age")
    }

    /// Two identities as age-keygen makes them, the paths of their files and their public keys.
    private func keys(in directory: String) async throws -> [(path: String, identity: AgeIdentity, recipient: String)] {
        var keys: [(String, AgeIdentity, String)] = []
        for name in ["one", "two"] {
            _ = try await run(["/usr/bin/age-keygen", "-o", "\(directory)/\(name)"])
            let identity = try #require(try AgeIdentity.parse(try Files.read("\(directory)/\(name)"), of: name).first)
            let text = try await run(["/usr/bin/age-keygen", "-y", "\(directory)/\(name)"]).output.trimmingCharacters(in: .newlines)
            #expect(identity.recipient.description == text)
            keys.append(("\(directory)/\(name)", identity, text))
        }
        return keys
    }

    @Test("Debian's age", arguments: AgeTests.sizes)
    func debian(_ size: Int) async throws {
        try require("/usr/bin/age")
        let directory = try TemporaryDirectory()
        let path = directory.path
        let keys = try await keys(in: path)
        let content = AgeTests.content(size)
        try Files.writeDurably(try Age.seal(content, to: keys.map(\.identity.recipient)).file, to: "\(path)/ours.age")
        for key in keys {
            // Not with -o: for an empty content that makes no file.
            _ = try await run(["sh", "-c", #"/usr/bin/age -d -i "$1" "$2/ours.age" > "$2/opened""#, "sh", key.path, path])
            #expect(try Files.read("\(path)/opened") == content)
        }
        try Files.writeDurably(content, to: "\(path)/plain")
        _ = try await run(["/usr/bin/age", "-e", "-r", keys[0].recipient, "-r", keys[1].recipient, "-o", "\(path)/theirs.age", "\(path)/plain"])
        for key in keys { #expect(try Age.open(try Files.read("\(path)/theirs.age"), with: [key.identity], of: "theirs") == content) }
        #expect(throws: ArchiveError.self) { try Age.open(try Files.read("\(path)/theirs.age"), with: [.generate()], of: "theirs") }
    }

    @Test("rage, by pyrage, which adds stanzas that mean nothing", arguments: AgeTests.sizes)
    func rage(_ size: Int) async throws {
        try require("/usr/bin/age-keygen")
        try require(Self.python)
        let directory = try TemporaryDirectory()
        let path = directory.path
        let keys = try await keys(in: path)
        let content = AgeTests.content(size)
        try Files.writeDurably(content, to: "\(path)/plain")
        try Files.writeDurably(try Age.seal(content, to: keys.map(\.identity.recipient)).file, to: "\(path)/ours.age")
        let script = """
            import sys, pyrage
            folder, recipients = sys.argv[1], [pyrage.x25519.Recipient.from_str(r) for r in sys.argv[2:]]
            plain = open(folder + "/plain", "rb").read()
            open(folder + "/theirs.age", "wb").write(pyrage.encrypt(plain, recipients))
            for name in ("one", "two"):
                key = [l.strip() for l in open(folder + "/" + name) if not l.startswith("#")][0]
                assert pyrage.decrypt(open(folder + "/ours.age", "rb").read(), [pyrage.x25519.Identity.from_str(key)]) == plain, name
            """
        _ = try await run([Self.python, "-c", script, path] + keys.map(\.recipient))
        for key in keys { #expect(try Age.open(try Files.read("\(path)/theirs.age"), with: [key.identity], of: "theirs") == content) }
    }
}
