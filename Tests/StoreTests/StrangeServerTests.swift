import ArchiveCore
import Testing

@testable import Store

@Suite("Servers that are not the service")
struct StrangeServerTests {
    private static let page = Array("<html><body><hr>nginx</body></html>".utf8)

    @Test("a web server's page is no missing object of S3; S3's own answer, and an empty one, is")
    func page() async throws {
        func get(_ response: HTTPResponse) async throws -> ArchiveError {
            let server = ScriptedS3 { _, _ in response }
            let store = try server.store()
            return await refusal { try await store.get(ObjectKey(known: "a")) }
        }
        let foreign = try await get(HTTPResponse(status: 404, body: Self.page))
        #expect(foreign.code == .storeRefused && foreign.message.contains("what answers at s3.test may not be S3"))
        #expect(try await get(ScriptedS3.error(404, "NoSuchKey")).code == .objectMissing)
        #expect(try await get(HTTPResponse(status: 404)).code == .objectMissing)
    }

    @Test("redirections name the host, and nothing that is signed", arguments: [301, 302, 307, 308])
    func redirections(_ status: Int) async throws {
        let response = HTTPResponse(status: status, headers: [("Location", "https://login.test:8443/x?Signature=s3cr3t")], body: Self.page)
        #expect(response.redirection == "https://login.test:8443")
        let s3 = await refusal { try await ScriptedS3 { _, _ in response }.store().get(ObjectKey(known: "a")) }
        #expect(s3.code == .storeRefused && s3.message.contains("redirects to https://login.test:8443") && s3.remedy?.contains("endpoint=") == true)
        for error in [GCSRefusal(response).error("read", bucket: "b", needing: "x"), AzureRefusal(response).error("read", container: "b", needing: "r")] {
            #expect(error.remedy?.contains("https://login.test:8443") == true && !"\(error)".contains("s3cr3t"))
        }
        #expect(GCSRefusal(HTTPResponse(status: 400)).error("read", bucket: "b", needing: "x").remedy?.contains("endpoint") == true)
    }
}
