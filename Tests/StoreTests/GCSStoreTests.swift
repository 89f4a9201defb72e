import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Synchronization
import Testing

@testable import Store

@Suite("Google Cloud Storage")
struct GCSStoreTests {
    private let bucket = ScriptedBucket()
    private let key = ObjectKey(known: "a/b+c@d=1")
    private let url = "gs://tm-bucket/folder?credentials=none"

    /// Puts of the object itself, not of the probe.
    private func puts(_ transport: ScriptedTransport) throws -> [HTTPRequest] {
        try transport.requests.filter { $0.method == .post }.filter { try ScriptedBucket.parts($0).metadata["name"] != "folder/probe/conditional" }
    }

    @Test("a put goes up with its checksums and a condition, and is looked at")
    func put() async throws {
        let bucket = bucket
        let transport = ScriptedTransport { try bucket.answer($0) }
        let warnings = Warnings()
        let store = try openScripted(url + "&storage-class=NEARLINE&user-project=payer", transport, warnings: warnings)
        try await store.put(Array("123456789".utf8), at: key)
        let put = try #require(try puts(transport).first)
        #expect(put.url.hasPrefix("https://storage.googleapis.com/upload/storage/v1/b/tm-bucket/o?uploadType=multipart&ifGenerationMatch=0&userProject=payer"))
        let (metadata, bytes) = try ScriptedBucket.parts(put)
        #expect(metadata == ["name": "folder/a/b+c@d=1", "crc32c": "4waSgw==", "md5Hash": "JfnnlDI7RTiF9RgfG2JNCw==", "storageClass": "NEARLINE"])
        #expect(bytes == Array("123456789".utf8))
        let last = try #require(transport.requests.last)
        #expect(last.method == .get && last.path == "/storage/v1/b/tm-bucket/o/folder%2Fa%2Fb%2Bc%40d%3D1")
        #expect(transport.requests.allSatisfy { $0["Authorization"] == nil })
        // The probe comes once; the second put is one request and one look.
        let before = transport.requests.count
        try await store.put([1], at: ObjectKey(known: "second"))
        #expect(transport.requests.count == before + 2)
        #expect(warnings.all.isEmpty)
    }

    @Test("a put that was said to succeed, and is not there, is made again, and given up by name")
    func lies() async throws {
        let bucket = bucket
        // The first answers are lies: nothing is stored.
        let lies = Mutex(2)
        func transport() -> ScriptedTransport {
            ScriptedTransport { request in
                guard request.method == .post, case let parts = try ScriptedBucket.parts(request), parts.metadata["name"] == "folder/a/b+c@d=1" else { return try bucket.answer(request) }
                let isLie = lies.withLock { count in
                    count -= 1
                    return count >= 0
                }
                return isLie ? try bucket.describe("x", ScriptedBucket.Object(bytes: parts.bytes, generation: 99)) : try bucket.answer(request)
            }
        }
        let honest = transport()
        try await openScripted(url, honest).put([1, 2], at: key)
        #expect(try puts(honest).count == 3)
        #expect(bucket.objects.withLock { $0["folder/a/b+c@d=1"]?.bytes } == [1, 2])

        lies.withLock { $0 = .max }
        bucket.objects.withLock { $0 = [:] }
        let liar = transport()
        let error = await #expect(throws: ArchiveError.self) { try await openScripted(url, liar).put([1, 2], at: key) }
        #expect(error?.code == .storeUnavailable)
        #expect(error?.message.contains("'a/b+c@d=1'") == true && error?.message.contains("not there") == true)
        #expect(try puts(liar).count == 4)
    }

    @Test("a put that arrives with other bytes is taken back and made again")
    func mangled() async throws {
        let bucket = bucket
        let transport = ScriptedTransport { request in
            let answer = try bucket.answer(request)
            // A proxy changes the first object on its way, and no checksum of the request was looked at.
            if request.method == .post, try ScriptedBucket.parts(request).metadata["name"] == "folder/a/b+c@d=1" {
                let damaged = bucket.objects.withLock { objects -> ScriptedBucket.Object? in
                    guard let generation = objects["folder/a/b+c@d=1"]?.generation, generation == 3 else { return nil }
                    objects["folder/a/b+c@d=1"]?.bytes = [9, 9]
                    return objects["folder/a/b+c@d=1"]
                }
                if let damaged { return try bucket.describe("x", damaged) }
            }
            return answer
        }
        try await openScripted(url, transport).put([1, 2], at: key)
        #expect(bucket.objects.withLock { $0["folder/a/b+c@d=1"]?.bytes } == [1, 2])
        let removal = try #require(transport.requests.first { $0.method == .delete })
        #expect(removal.query.contains { $0.name == "ifGenerationMatch" && $0.value == "3" })
    }

    @Test("a service that finds the checksum wrong is asked again")
    func mismatch() async throws {
        let bucket = bucket
        let refusals = Mutex(1)
        let transport = ScriptedTransport { request in
            if request.method == .post, try ScriptedBucket.parts(request).metadata["name"] == "folder/a/b+c@d=1", refusals.withLock({ count in
                count -= 1
                return count >= 0
            }) {
                return try bucket.refusal(400, "invalid", "Provided MD5 hash \"x\" doesn't match calculated MD5 hash \"y\".")
            }
            return try bucket.answer(request)
        }
        try await openScripted(url, transport).put([1, 2], at: key)
        #expect(try puts(transport).count == 2)
    }

    @Test("a service that writes a name twice is noticed once, and looked at before each put")
    func withoutConditions() async throws {
        let bucket = bucket
        let transport = ScriptedTransport { try bucket.answer($0, ignoringConditions: true) }
        let warnings = Warnings()
        let store = try openScripted(url, transport, warnings: warnings)
        try await store.put([1], at: key)
        try await store.put([1], at: key)
        let refusal = await #expect(throws: ArchiveError.self) { try await store.put([2], at: key) }
        #expect(refusal?.code == .objectExists)
        #expect(try puts(transport).count == 1)
        #expect(warnings.all.count == 1 && warnings.all[0].contains("gs://tm-bucket/folder writes a name twice"))
    }

    @Test("emulators: one honours conditions, the other is found out", arguments: [(TestServer.fakeGCS, 0), (.gcpEmulator, 1), (.azure, 0), (.azureWithoutConditions, 1)])
    func probed(_ server: TestServer, _ warnings: Int) async throws {
        let place = try await CloudPlace(server)
        let store = try place.store()
        try await store.put([1], at: key)
        try await store.put([2], at: ObjectKey(known: "other"))
        #expect(place.warnings.withLock { $0.count } == warnings)
        #expect(try await store.listAll(prefix: "").map(\.key.path) == ["a/b+c@d=1", "other"])
        let findings = await store.examine()
        #expect(!findings.contains { $0.level == .failure }, "\(findings)")
        #expect(findings.contains { $0.message == "objects can be put, read, listed, removed" })
        #expect(findings.contains { $0.message.contains("writes a name twice") } == (warnings > 0))
        #expect(try await store.listAll(prefix: "").count == 2)
    }

    @Test("bytes that do not have their checksum are read again, three times at most")
    func damagedOnRead() async throws {
        let bucket = bucket
        let damaged = Mutex(0)
        let transport = ScriptedTransport { request in
            var answer = try bucket.answer(request)
            if request.query.contains(where: { $0.name == "alt" }), damaged.withLock({ count in
                count -= 1
                return count >= 0
            }) {
                answer.body[0] ^= 1
            }
            return answer
        }
        let store = try openScripted(url, transport)
        try await store.put([1, 2], at: key)
        damaged.withLock { $0 = 2 }
        #expect(try await store.get(key) == [1, 2])
        damaged.withLock { $0 = 3 }
        let error = await #expect(throws: ArchiveError.self) { try await store.get(key) }
        #expect(error?.code == .objectDamaged && error?.message.contains("'a/b+c@d=1'") == true)
    }

    @Test("a range that comes short, shifted or whole")
    func oddRanges() async throws {
        let key = key
        func read(_ response: HTTPResponse) async throws -> [UInt8] {
            let transport = ScriptedTransport { request in
                if request["Range"] == nil { return try json(["size": "100"]) }
                #expect(request["Range"] == "bytes=10-12")
                return response
            }
            return try await openScripted(url, transport).get(key, range: 10..<13)
        }
        func headers(_ range: String) -> [(name: String, value: String)] { [("Content-Range", range)] }
        #expect(try await read(HTTPResponse(status: 206, headers: headers("bytes 10-12/100"), body: [10, 11, 12])) == [10, 11, 12])
        #expect(try await read(HTTPResponse(status: 200, body: Array(0..<100))) == [10, 11, 12])
        for (response, code) in [
            (HTTPResponse(status: 206, headers: headers("bytes 10-11/100"), body: [10, 11]), ArchiveError.Code.storeUnavailable),
            (HTTPResponse(status: 206, headers: headers("bytes 0-2/100"), body: [0, 1, 2]), .storeUnavailable),
            (HTTPResponse(status: 206, headers: headers("bytes 10-11/12"), body: [10, 11]), .objectDamaged),
            (HTTPResponse(status: 206, body: [10, 11]), .storeUnavailable),
            (HTTPResponse(status: 416, headers: headers("bytes */9")), .objectDamaged),
            (HTTPResponse(status: 200, body: [1]), .objectDamaged),
            (HTTPResponse(status: 404), .objectMissing),
        ] {
            let error = await #expect(throws: ArchiveError.self) { try await read(response) }
            #expect(error?.code == code, "\(response)")
        }
    }

    @Test("listings that lie are refused", arguments: [
        "<html>Log in</html>", #"{"items": 1}"#, #"{"items":[{"name":"folder/b","size":"1"},{"name":"folder/a","size":"1"}]}"#,
        #"{"items":[{"name":"folder/a","size":"1"},{"name":"folder/a","size":"1"}]}"#, #"{"items":[{"name":"elsewhere/a","size":"1"}]}"#,
        #"{"items":[{"name":"folder/a","size":"-1"}]}"#, #"{"items":[{"name":"folder/a"}]}"#, #"{"nextPageToken":"again"}"#,
    ])
    func lyingLists(_ body: String) async throws {
        let transport = ScriptedTransport { _ in HTTPResponse(status: 200, body: Array(body.utf8)) }
        let error = await #expect(throws: ArchiveError.self) { try await openScripted(url, transport).list(prefix: "", after: nil, limit: 10) }
        #expect(error?.code == .storeUnavailable)
        #expect((2...4).contains(transport.requests.count))
    }

    @Test("a listing that was damaged on its way is asked for once more", arguments: ["<html>", #"{"items":[{"name":"foller/a","size":"1"}]}"#])
    func damagedList(_ damaged: String) async throws {
        let bodies = [damaged, #"{"items":[{"name":"folder/a","size":"1"}],"prefixes":["folder/b/"]}"#]
        let asked = Mutex(0)
        let transport = ScriptedTransport { _ in
            let number = asked.withLock { count in
                defer { count += 1 }
                return count
            }
            return HTTPResponse(status: 200, body: Array(bodies[min(number, 1)].utf8))
        }
        let warnings = Warnings()
        #expect(try await openScripted(url, transport, warnings: warnings).list(prefix: "", after: nil, limit: 10).map(\.key.path) == ["a"])
        #expect(transport.requests.count == 2)
        #expect(warnings.all.contains { $0.contains("asked for once more") })
    }

    @Test("empty pages are gone through; strangers' names and the probe are passed over")
    func pages() async throws {
        let pages = [
            #"{"nextPageToken":"1"}"#, #"{"items":[{"name":"folder/a/1","size":"1"},{"name":"folder/a/2 x","size":"1"}],"nextPageToken":"2"}"#,
            #"{"items":[{"name":"folder/b","size":"3"},{"name":"folder/probe/conditional","size":"1"},{"name":"folder/z","size":"4"}]}"#,
        ]
        let transport = ScriptedTransport { request in
            let token = request.query.first { $0.name == "pageToken" }?.value
            return HTTPResponse(status: 200, body: Array(pages[token.flatMap { Int($0) } ?? 0].utf8))
        }
        let store = try openScripted(url, transport)
        #expect(try await store.list(prefix: "", after: nil, limit: 10).map { "\($0.key) \($0.size)" } == ["a/1 1", "b 3", "z 4"])
        #expect(try await store.list(prefix: "", after: "a/1", limit: 1).map(\.key.path) == ["b"])
        #expect(transport.requests.last?.query.contains { $0.name == "startOffset" && $0.value == "folder/a/1" } == true)
    }

    @Test("refusals say what to do", arguments: [
        (401, "authError", "Invalid Credentials", "credentials are not accepted"),
        (403, "forbidden", "x@y.iam.gserviceaccount.com does not have storage.objects.list access to the bucket.", "permission storage.objects.list is missing"),
        (403, "forbidden", "", "permission storage.objects.list is missing"),
        (403, "retentionPolicyNotMet", "", "retention policy"),
        (404, "notFound", "The specified bucket does not exist.", "there is no bucket tm-bucket"),
        (400, "userProjectMissing", "", "no project is named"),
        (418, "teapot", "secret=abc", "status 418, teapot"),
    ])
    func refusals(_ status: Int, _ reason: String, _ message: String, _ expected: String) async throws {
        let bucket = bucket
        let transport = ScriptedTransport { _ in try bucket.refusal(status, reason, message) }
        let error = await #expect(throws: ArchiveError.self) { try await openScripted(url, transport).list(prefix: "", after: nil, limit: 10) }
        #expect(error?.code == .storeRefused)
        #expect(error?.message.contains(expected) == true, "\(String(describing: error))")
        #expect(error?.description.contains("abc") == false && error?.description.contains("@y") == false)
    }

    @Test("a busy service is asked again", arguments: [(429, "rateLimitExceeded"), (503, "backendError"), (500, "internalError"), (403, "userRateLimitExceeded")])
    func busy(_ status: Int, _ reason: String) async throws {
        let bucket = bucket
        let left = Mutex(2)
        let transport = ScriptedTransport { _ in
            left.withLock({ count in
                count -= 1
                return count >= 0
            }) ? try bucket.refusal(status, reason) : try json([:])
        }
        #expect(try await openScripted(url, transport).list(prefix: "", after: nil, limit: 10).isEmpty)
        #expect(transport.requests.count == 3)
    }

    @Test("removing what is kept by a retention policy is refused by name; many are removed, missing ones too")
    func removal() async throws {
        let bucket = bucket
        let transport = ScriptedTransport { request in
            request.path.hasSuffix("kept") ? try bucket.refusal(403, "retentionPolicyNotMet") : HTTPResponse(status: request.path.hasSuffix("gone") ? 404 : 204)
        }
        let store = try openScripted(url, transport)
        try await store.remove((0..<30).map { ObjectKey(known: "x/\($0)") } + [ObjectKey(known: "gone")])
        #expect(transport.requests.count == 31)
        let error = await #expect(throws: ArchiveError.self) { try await store.remove(ObjectKey(known: "kept")) }
        #expect(error?.message.contains("'kept'") == true && error?.message.contains("retention policy") == true)
    }

    @Test("URLs", arguments: [
        "gs://", "gs://a", "gs://Bucket", "gs://bucket/..", "gs://bucket?versioning=on", "gs://bucket?endpoint=nothing", "gs://bucket?class=X",
        "gs://user@bucket", "gs://bucket?storage-class=a b", "gs://bucket?endpoint=http://u@h",
    ])
    func urls(_ url: String) { #expect(throws: ArchiveError.self) { try StoreLocation(url) } }

    @Test("the emulator's host and the endpoint are where requests go")
    func endpoints() throws {
        guard case .gcs(let plain) = try StoreLocation("gs://bucket/f/g/") , case .gcs(let own) = try StoreLocation("gs://bucket?endpoint=https://h:1/x/") else {
            Issue.record("not a bucket")
            return
        }
        #expect(plain.description == "gs://bucket/f/g" && plain.prefix == "f/g/")
        #expect(try plain.service { _ in nil } == ServiceEndpoint("https://storage.googleapis.com"))
        #expect(try plain.service { $0 == "STORAGE_EMULATOR_HOST" ? "localhost:4443" : nil } == ServiceEndpoint("http://localhost:4443"))
        #expect(try own.service { _ in "http://other" } == ServiceEndpoint("https://h:1/x"))
        #expect(throws: ArchiveError.self) { try plain.service { _ in "a b" } }
    }
}
