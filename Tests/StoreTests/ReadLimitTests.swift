import ArchiveCore
import Testing

@testable import Store

@Suite("Bytes that a read may bring")
struct ReadLimitTests {
    @Test(
        "depend on the object's name",
        arguments: [
            ("tidemark.json", 1 << 20), ("sources/main/1.json", 1 << 20), ("watermarks/main/1/00", 1 << 20), ("probe/conditional", 1 << 20),
            ("pg/main/base.json", 64 << 20), ("pg/main/wal/0001", ObjectKey.maximumSize), ("sources.idx", ObjectKey.maximumSize),
        ])
    func sizes(_ path: String, _ size: Int) { #expect(ObjectKey(known: path).largestSize == size) }

    @Test("limit the answer in each cloud", arguments: ["s3", "gs", "azblob"], [("tidemark.json", 1 << 20), ("a/b", ObjectKey.maximumSize)])
    func clouds(_ scheme: String, _ object: (path: String, size: Int)) async throws {
        let transport = ScriptedTransport { _ in HTTPResponse(status: 200, body: [1]) }
        let options = ["s3": "?endpoint=http://h", "gs": "?endpoint=http://h&credentials=none", "azblob": "?account=account"][scheme] ?? ""
        let store = try openScripted(
            "\(scheme)://bucket\(options)", transport,
            environment: ["AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AZURE_STORAGE_KEY": "a2V5"])
        #expect(try await store.get(ObjectKey(known: object.path)) == [1])
        #expect(transport.requests.map(\.responseLimit) == [object.size])
    }
}
