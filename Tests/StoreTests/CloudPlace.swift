import ArchiveCore
import Runtime
import Synchronization
import Testing

@testable import Store

/// A folder of its own in a bucket or container of a test server, and what its stores said.
final class CloudPlace: Sendable {
    let url: String
    let warnings = Mutex<[String]>([])

    /// - Parameter options: more of the URL, such as `&access-tier=Cool`.
    init(_ server: TestServer, options: String = "") async throws {
        let address = try server.address()
        let folder = "t" + String(UInt64.random(in: .min ... .max), radix: 16)
        switch server {
        case .fakeGCS, .gcpEmulator:
            url = "gs://tidemark/\(folder)?endpoint=http://\(address)\(options)"
            guard server == .fakeGCS else { return }
            // 409: another test was first.
            let made = try await CurlTransport().send(
                HTTPRequest(
                    .post, scheme: "http", host: address, path: "/storage/v1/b", query: [("project", "p")], headers: [("Content-Type", "application/json")],
                    body: Array(#"{"name":"tidemark"}"#.utf8)))
            #expect([200, 409].contains(made.status))
        case .azure, .azureWithoutConditions: url = "azblob://tidemark/\(folder)?account=devstoreaccount1&endpoint=http://\(address)/devstoreaccount1\(options)"
        }
    }

    static let azureKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    func store(_ environment: [String: String] = ["AZURE_STORAGE_KEY": CloudPlace.azureKey]) throws -> any ObjectStore {
        try StoreLocation(url).open(
            StoreContext(
                transport: { CurlTransport($0) }, environment: { environment[$0] }, now: { now() },
                warn: { text in self.warnings.withLock { $0.append(text) } }))
    }
}
