import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Synchronization
import Testing

@testable import Store

/// Passes requests on and counts them.
private final class CountingTransport: HTTPTransport {
    private let inner = CurlTransport()
    private let seen = Mutex<[HTTPRequest]>([])
    var requests: [HTTPRequest] { seen.withLock { $0 } }
    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        seen.withLock { $0.append(request) }
        return try await inner.send(request)
    }
}

@Suite("Azure Blob Storage")
struct AzureStoreTests {
    private let url = "azblob://archive/folder?account=tmaccount"
    private let secret = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
    private var environment: [String: String] { ["AZURE_STORAGE_KEY": secret] }
    private let key = ObjectKey(known: "a/b+c")

    private func listing(_ inside: String, marker: String = "") -> HTTPResponse {
        HTTPResponse(
            status: 200,
            body: Array("\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>\(inside)</Blobs><NextMarker>\(marker)</NextMarker></EnumerationResults>".utf8))
    }

    private func blob(_ name: String, _ size: Int = 1) -> String { "<Blob><Name>\(name)</Name><Properties><Content-Length>\(size)</Content-Length></Properties></Blob>" }

    @Test("a put goes up with its checksum, a condition and a signature, and is looked at")
    func put() async throws {
        let stored = Mutex<[String: HTTPRequest]>([:])
        let transport = ScriptedTransport { request in
            if request.method == .put {
                let isNew = stored.withLock { stored in
                    if stored[request.path] != nil { return false }
                    stored[request.path] = request
                    return true
                }
                return isNew ? HTTPResponse(status: 201, headers: [("ETag", "1"), ("Content-MD5", request["Content-MD5"] ?? "")])
                    : HTTPResponse(status: 409, headers: [("x-ms-error-code", "BlobAlreadyExists")])
            }
            guard let found = stored.withLock({ $0[request.path] }) else { return HTTPResponse(status: 404, headers: [("x-ms-error-code", "BlobNotFound")]) }
            return HTTPResponse(
                status: 200, headers: [("Content-Length", "\(found.body.count)"), ("Content-MD5", found["Content-MD5"] ?? ""), ("ETag", "1")],
                body: request.method == .head ? [] : found.body)
        }
        let store = try openScripted(url + "&access-tier=Cool", transport, environment: environment)
        try await store.put(Array("123456789".utf8), at: key)
        try await store.put(Array("123456789".utf8), at: key)
        let put = try #require(transport.requests.first { $0.method == .put && $0.path.hasSuffix("/a/b%2Bc") })
        #expect(put.url == "https://tmaccount.blob.core.windows.net/archive/folder/a/b%2Bc")
        for (name, value) in [
            ("If-None-Match", "*"), ("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw=="), ("x-ms-blob-type", "BlockBlob"), ("x-ms-access-tier", "Cool"),
            ("x-ms-version", "2021-12-02"), ("x-ms-date", "Tue, 24 Nov 2026 02:53:30 GMT"),
        ] { #expect(put[name] == value, "\(name)") }
        #expect(put["Authorization"] == AzureSigner(account: "tmaccount", key: secret)!.authorization(put))
    }

    @Test("a put that is not there afterwards, or arrived damaged, is made again and given up by name")
    func lies() async throws {
        let liar = ScriptedTransport { request in
            request.method == .put && !request.path.hasSuffix("probe/conditional") ? HTTPResponse(status: 201)
                : request.method == .put ? HTTPResponse(status: 412) : HTTPResponse(status: request.path.hasSuffix("probe/conditional") ? 200 : 404, headers: [("Content-Length", "1")])
        }
        let error = await #expect(throws: ArchiveError.self) { try await openScripted(url, liar, environment: environment).put([1], at: key) }
        #expect(error?.code == .storeUnavailable && error?.message.contains("'a/b+c'") == true)
        #expect(liar.requests.filter { $0.method == .put && $0.path.hasSuffix("b%2Bc") }.count == 4)

        // What arrived is not what was sent: it is removed, if it is still that very blob.
        let mangler = ScriptedTransport { request in
            switch request.method {
            case .put where request.path.hasSuffix("probe/conditional"): HTTPResponse(status: 412)
            case .put: HTTPResponse(status: 201, headers: [("ETag", "\"7\""), ("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")])
            case .delete: HTTPResponse(status: 202)
            default: HTTPResponse(status: 200, headers: [("Content-Length", "1")])
            }
        }
        let damage = await #expect(throws: ArchiveError.self) { try await openScripted(url, mangler, environment: environment).put([1], at: key) }
        #expect(damage?.message.contains("other bytes arrived than were sent") == true)
        #expect(mangler.requests.filter { $0.method == .delete }.allSatisfy { $0["If-Match"] == "\"7\"" })
        #expect(mangler.requests.filter { $0.method == .delete }.count == 4)
    }

    @Test("pages are gone on from where the last ended; any other place is found by a known one before it")
    func places() async throws {
        let place = try await CloudPlace(.azure)
        let counting = CountingTransport()
        func open() throws -> any ObjectStore {
            try StoreLocation(place.url).open(
                StoreContext(transport: { _ in counting }, environment: { ["AZURE_STORAGE_KEY": CloudPlace.azureKey][$0] }, now: { Moment(rawValue: Int64(Date().timeIntervalSince1970 * 1e9)) }, warn: { _ in }))
        }
        let keys = (0..<100).map { ObjectKey(known: "log/\(1000 + $0)") } + [ObjectKey(known: "z/1")]
        let writer = try open()
        for key in keys { try await writer.put([1], at: key) }
        func cost(_ body: () async throws -> Void) async throws -> Int {
            let before = counting.requests.count
            try await body()
            return counting.requests.count - before
        }
        let store = try open()
        // The stand-in gives 7 names in a page: what is gone through page by page costs no more than its pages.
        var found: [ObjectKey] = []
        let through = try await cost {
            while case let page = try await store.keys(prefix: "", after: found.last?.path, limit: 7), !page.isEmpty { found += page }
        }
        #expect(found == keys)
        #expect(through <= 17)
        // Places in the middle that were passed before, and one that is unknown to a new store: first the folder, then all.
        let other = try open()
        let cases: [(any ObjectStore, String, Int, ArraySlice<ObjectKey>)] = [
            (store, "log/1050", 3, keys[51..<54]), (store, "y", 3, keys[100...]), (other, "log/1000", 7, keys[1..<8]),
        ]
        for (store, after, limit, expected) in cases {
            let requests = try await cost {
                let page = try await store.keys(prefix: "", after: after, limit: limit)
                #expect(page == Array(expected))
            }
            #expect(requests <= 2, "\(after)")
        }
    }

    @Test("a marker that is not taken any more is forgotten")
    func oldMarkers() async throws {
        let inside = (0..<4).map { blob("folder/\($0)") }
        let refuses = Mutex(false)
        let answers = [listing(inside[0] + inside[1], marker: "m"), listing(inside[2] + inside[3])]
        let transport = ScriptedTransport { request in
            guard request.query.contains(where: { $0.name == "marker" }) else { return answers[0] }
            return refuses.withLock { $0 } ? HTTPResponse(status: 400, headers: [("x-ms-error-code", "InvalidQueryParameterValue")]) : answers[1]
        }
        let store = try openScripted(url, transport, environment: environment)
        #expect(try await store.keys(prefix: "", after: nil, limit: 2).map(\.path) == ["0", "1"])
        #expect(try await store.keys(prefix: "", after: "1", limit: 1).map(\.path) == ["2"])
        refuses.withLock { $0 = true }
        let error = await #expect(throws: ArchiveError.self) { try await store.keys(prefix: "", after: "1", limit: 1) }
        #expect(error?.code == .storeUnavailable && error?.message.contains("marker") == true)
        #expect(try await store.keys(prefix: "", after: "0", limit: 1).map(\.path) == ["1"])
    }

    @Test("listings that lie are refused")
    func lyingLists() async throws {
        let bodies = [
            HTTPResponse(status: 200, body: Array("<html><body>Log in</body></html>".utf8)), HTTPResponse(status: 200, body: Array("{}".utf8)),
            HTTPResponse(status: 200, body: Array(listing(blob("folder/a")).body.dropLast(10))), listing(blob("folder/b") + blob("folder/a")),
            listing(blob("elsewhere/a")), listing("<Blob><Name>folder/a</Name></Blob>"), listing(blob("folder/a", -1)), listing("", marker: "again"), listing("<Other><Name>x</Name></Other>"),
        ]
        for body in bodies {
            let transport = ScriptedTransport { _ in body }
            let error = await #expect(throws: ArchiveError.self) { try await openScripted(url, transport, environment: environment).list(prefix: "", after: nil, limit: 10) }
            #expect(error?.code == .storeUnavailable, "\(String(decoding: body.body, as: UTF8.self))")
            #expect((2...4).contains(transport.requests.count))
        }
    }

    @Test("a listing that was damaged on its way is asked for once more")
    func damagedList() async throws {
        let whole = listing(blob("folder/a") + "<BlobPrefix><Name>folder/b/</Name></BlobPrefix>")
        for damaged in [listing(blob("foller/a")), HTTPResponse(status: 200, body: Array(whole.body.dropLast(10)))] {
            let asked = Mutex(0)
            let transport = ScriptedTransport { _ in
                asked.withLock { count in
                    defer { count += 1 }
                    return count == 0 ? damaged : whole
                }
            }
            let warnings = Warnings()
            let store = try openScripted(url, transport, environment: environment, warnings: warnings)
            #expect(try await store.list(prefix: "", after: nil, limit: 10).map(\.key.path) == ["a"])
            #expect(transport.requests.count == 2)
            #expect(warnings.all.contains { $0.contains("asked for once more") })
        }
    }

    @Test("refusals say what to do, and repeat no signature", arguments: [
        (403, "AuthenticationFailed", "credentials are not accepted"), (403, "AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
        (403, "AuthorizationFailure", "network"), (403, "KeyBasedAuthenticationNotPermitted", "shared keys"), (404, "ContainerNotFound", "there is no container archive"),
        (409, "BlobImmutableDueToPolicy", "immutability policy"), (409, "BlobArchived", "Archive tier"), (418, "Teapot", "status 418, Teapot"),
    ])
    func refusals(_ status: Int, _ code: String, _ expected: String) async throws {
        let text = "<Error><Code>\(code)</Code><Message>signature abc/def= is wrong</Message></Error>"
        let transport = ScriptedTransport { _ in HTTPResponse(status: status, body: Array("\u{FEFF}\(text)".utf8)) }
        let store = try openScripted(url, transport, environment: environment)
        for attempt in [{ _ = try await store.get(key) }, { try await store.remove(key) }] as [() async throws -> Void] {
            let error = await #expect(throws: ArchiveError.self) { try await attempt() }
            #expect(error?.code == .storeRefused)
            #expect(error?.description.contains(expected) == true, "\(String(describing: error))")
            #expect(error?.description.contains("abc/def") == false)
        }
    }

    @Test("a SAS token is added to each request, is not signed, and is never shown")
    func sas() async throws {
        let transport = ScriptedTransport { _ in HTTPResponse(status: 403, headers: [("x-ms-error-code", "AuthenticationFailed")]) }
        let store = try openScripted(url, transport, environment: ["AZURE_STORAGE_SAS_TOKEN": "?sv=2021-12-02&sp=racwdl&sig=abc%2Bdef%3D"])
        let error = await #expect(throws: ArchiveError.self) { try await store.get(key) }
        let request = try #require(transport.requests.first)
        #expect(request["Authorization"] == nil)
        #expect(request.encodedQuery == "sv=2021-12-02&sp=racwdl&sig=abc%2Bdef%3D")
        #expect(error?.description.contains("abc") == false && !store.description.contains("abc"))
        #expect(!request.summary.contains("sig"))
    }

    @Test("the stand-in takes a SAS token of Microsoft's library, and refuses a wrong key and a clock that is off")
    func standIn() async throws {
        let place = try await CloudPlace(.azure)
        // generate_container_sas of azure-storage-blob 12.31.1; permissions rcl, until 2125.
        let token = SASFixture.readCreateList
        let store = try place.store(["AZURE_STORAGE_SAS_TOKEN": token])
        try await store.put([1], at: key)
        #expect(try await store.get(key) == [1])
        let refusal = await #expect(throws: ArchiveError.self) { try await store.remove(key) }
        #expect(refusal?.description.contains("Storage Blob Data Contributor") == true && refusal?.description.contains("'d'") == true)
        let findings = await store.examine()
        #expect(findings.contains { $0.level == .warning && $0.message.contains("AuthorizationPermissionMismatch") && $0.message.contains("remove") })
        let wrong = try place.store(["AZURE_STORAGE_KEY": secret])
        let error = await #expect(throws: ArchiveError.self) { try await wrong.get(key) }
        #expect(error?.message.contains("credentials are not accepted") == true)
        #expect(await wrong.examine().contains { $0.level == .failure })
        let late = try StoreLocation(place.url).open(
            StoreContext(transport: { CurlTransport($0) }, environment: { ["AZURE_STORAGE_KEY": CloudPlace.azureKey][$0] }, now: { scriptedTime }, warn: { _ in }))
        await #expect(throws: ArchiveError.self) { try await late.get(key) }
    }

    @Test("URLs", arguments: [
        "azblob://", "azblob://ab", "azblob://Container", "azblob://a--b", "azblob://-ab", "azblob://abc?account=A", "azblob://abc?access-tier=Archive",
        "azblob://abc?endpoint=x", "azblob://abc?key=secret", "azblob://abc/../x",
    ])
    func urls(_ url: String) { #expect(throws: ArchiveError.self) { try StoreLocation(url) } }
}
