import ArchiveCore
import Digests
import Runtime
import Testing

@testable import Store

@Suite("Locks of objects")
struct ObjectLockTests {
    private let key = ObjectKey(known: "bases/main/a/b/base.json")

    @Test("of S3, by a real server: a retention, a legal hold, none, and no object")
    func s3() async throws {
        let server = try await S3Server.shared()
        let name = "locked-\(UInt32.random(in: .min ... .max))"
        #expect(try await server.ask(.put, "/\(name)", headers: [("x-amz-bucket-object-lock-enabled", "true")]).status == 200)
        let folder = "archive"
        let locking = try server.store(folder: folder, bucket: name, options: "&lock=governance&retain=2d")
        let plain = try server.store(folder: folder, bucket: name)
        try await locking.put([1], at: key)
        let until = try #require(try await plain.lockedUntil(key))
        #expect(until - Runtime.now() > 1.9 * 86_400)
        let free = ObjectKey(known: "log/main/a/free")
        try await plain.put([1], at: free)
        #expect(try await plain.lockedUntil(free) == nil)
        #expect(try await plain.lockedUntil(ObjectKey(known: "never/there")) == nil)
        let put = try await server.ask(.put, "/\(name)/\(folder)/held/x", headers: [("x-amz-object-lock-legal-hold", "ON"), ("Content-MD5", base64(MD5.of([UInt8(ascii: "x")])))], body: "x")
        #expect(put.status == 200)
        #expect(try await plain.lockedUntil(ObjectKey(known: "held/x")) == Moment(rawValue: .max))
        // What wraps a store passes the question on.
        #expect(try await RecentStore(plain).lockedUntil(key) == until)
    }

    @Test(
        "of Google Cloud Storage",
        arguments: [
            (["retentionExpirationTime": "2027-01-01T00:00:00.000Z"] as [String: any Sendable], Moment("2027-01-01T00:00:00Z")),
            (["temporaryHold": true], Moment(rawValue: .max)), (["eventBasedHold": true, "temporaryHold": false], Moment(rawValue: .max)),
            (["retentionExpirationTime": "soon"], Moment(rawValue: .max)), ([:], nil),
        ])
    func gcs(_ answer: [String: any Sendable], _ until: Moment?) async throws {
        let transport = ScriptedTransport { request in
            #expect(request.query.contains { $0.name == "fields" && $0.value?.contains("retentionExpirationTime") == true })
            return try json(answer)
        }
        let store = try openScripted("gs://bucket/archive?credentials=none", transport)
        #expect(try await store.lockedUntil(key) == until)
    }

    @Test(
        "of Azure",
        arguments: [
            ([("x-ms-immutability-policy-until-date", "Fri, 01 Jan 2027 00:00:00 GMT")], Moment("2027-01-01T00:00:00Z")),
            ([("x-ms-legal-hold", "true")], Moment(rawValue: .max)), ([("x-ms-legal-hold", "false")], nil),
            ([("x-ms-immutability-policy-until-date", "never")], Moment(rawValue: .max)), ([], nil),
        ])
    func azure(_ headers: [(String, String)], _ until: Moment?) async throws {
        let transport = ScriptedTransport { _ in HTTPResponse(status: 200, headers: headers.map { (name: $0.0, value: $0.1) } + [(name: "Content-Length", value: "1")]) }
        let store = try openScripted("azblob://archive/a?account=one", transport, environment: ["AZURE_STORAGE_KEY": "a2V5"])
        #expect(try await store.lockedUntil(key) == until)
        #expect(transport.requests.first?.method == .head)
    }
}
