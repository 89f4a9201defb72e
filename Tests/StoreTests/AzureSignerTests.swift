import ArchiveCore
import Testing

@testable import Store

@Suite("Shared Key of Azure Storage")
struct AzureSignerTests {
    /// The key of Microsoft's own tests, MicrosoftDX/Dash, DashServer.Tests.
    private static let dash = AzureSigner(account: "dashstorage1", key: "8jqRVtXUWiEthgIhR+dFwrB8gh3lFuquvJQ1v4eabObIj7okI1cZIuzY8zZHmEdpcC0f+XlUkbFwAhjTfyrLIg==")!

    private func request(
        _ method: HTTPRequest.Method, _ path: String, _ query: [(name: String, value: String?)] = [], _ headers: [(name: String, value: String)], bytes: Int = 0
    ) -> HTTPRequest {
        HTTPRequest(method, host: "dashstorage1.blob.core.windows.net", path: path, query: query, headers: headers, body: [UInt8](repeating: 0, count: bytes))
    }

    /// SignatureValidationTests.cs and RequestAuthTests.cs: "Taken directly from the payload emitted by the .NET Storage FX".
    @Test("signs as Microsoft's .NET library did")
    func dotnet() {
        let md5 = (name: "Content-MD5", value: "LHmMkMS8mTXh0bRP4e4Ptw==")
        let version = (name: "x-ms-version", value: "2014-02-14")
        let type = (name: "x-ms-blob-type", value: "BlockBlob")
        let agent = (name: "User-Agent", value: "WA-Storage/4.3.0 (.NET CLR 4.0.30319.34014; Win32NT 6.2.9200.0)")
        let cases: [(HTTPRequest, String)] = [
            (
                request(
                    .put, "/test/test.txt", [],
                    [agent, md5, type, ("x-ms-client-request-id", "82370d95-e820-4817-bd3f-6c266544ee8b"), ("x-ms-date", "Thu, 30 Oct 2014 17:31:22 GMT"), version],
                    bytes: 423), "mDTyDIDy8yt7D81qAmYEYiXH1X/bmBHJF2+ZPn/r74k="
            ),
            (
                request(
                    .put, "/test/test.txt", [],
                    [
                        agent, md5, type, ("x-ms-client-request-id", "TestRequest1"), ("x-ms-date", "Thu, 30 Oct 2014 19:48:43 GMT"), version,
                        ("x-ms-test", "testvalue"), ("x-test", "differentvalue"),
                    ], bytes: 423), "ktMmzuta7Wsqtzyd3TBbd3zW4miedtJPkWWlW9DCRb0="
            ),
            (
                request(
                    .put, "/test/test.txt", [],
                    [
                        md5, version, type, ("x-ms-client-request-id", "d0863cd4-ae43-4dd4-aa27-eff01d30b5cf"), ("x-ms-date", "Thu, 30 Oct 2014 20:15:46 GMT"),
                        ("If-Modified-Since", "Thu, 30 Oct 2014 20:15:41 GMT"),
                    ], bytes: 423), "21rAYhnoRQQu6MmxXj6W5Rx3YWI8OCjO50CNNniohAA="
            ),
            (
                request(
                    .put, "/test/test.txt", [],
                    [
                        version, ("Content-Type", "application/octet-stream"), md5, ("Content-Language", "EN-US"), ("Content-Encoding", "gzip"), type,
                        ("If-Match", "DummyETag"), ("x-ms-client-request-id", "93399f8e-6ce2-4020-81a4-4f1f53f427fd"), ("x-ms-date", "Thu, 30 Oct 2014 20:46:48 GMT"),
                    ], bytes: 423), "ZBQYgC9dgzldVfH6t06qIYZujSz/3blWrinuYePTMv8="
            ),
        ]
        for (request, signature) in cases { #expect(Self.dash.authorization(request) == "SharedKey dashstorage1:\(signature)") }
    }

    /// The documentation's own examples (Authorize with Shared Key); it gives no key for them, so that only the string can be compared.
    @Test("builds the strings of the documentation")
    func documented() {
        let signer = AzureSigner(account: "myaccount", key: "a2V5")!
        let date = (name: "x-ms-date", value: "Fri, 26 Jun 2015 23:39:12 GMT")
        let version = (name: "x-ms-version", value: "2015-02-21")
        #expect(
            signer.stringToSign(request(.get, "/mycontainer", [("restype", "container"), ("comp", "metadata"), ("timeout", "20")], [date, version]))
                == "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20")
        // A length of zero is left out from version 2015-02-21 on.
        #expect(
            signer.stringToSign(request(.put, "/mycontainer", [("restype", "container"), ("timeout", "30")], [version, date]))
                == "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\nrestype:container\ntimeout:30")
        // Values of a name that comes several times are sorted and joined.
        #expect(
            signer.stringToSign(
                request(.get, "/mycontainer", [("restype", "container"), ("comp", "list"), ("include", "snapshots"), ("INCLUDE", "metadata")], [date, version])
            ).hasSuffix("\n/myaccount/mycontainer\ncomp:list\ninclude:metadata,snapshots\nrestype:container"))
        // White space in a header is folded.
        #expect(signer.stringToSign(request(.get, "/c", [], [("x-ms-meta-m", "  a \t b\n  c "), date])).contains("\nx-ms-meta-m:a b c\n"))
    }

    /// Computed by azure-storage-blob 12.31.1 (SharedKeyCredentialPolicy) with the emulator's public key.
    @Test("signs as Microsoft's Python library does, request by request")
    func python() {
        let signer = AzureSigner(account: "tidemarktest", key: CloudPlace.azureKey)!
        let common: [(name: String, value: String)] = [("x-ms-date", "Tue, 24 Nov 2026 02:53:30 GMT"), ("x-ms-version", "2021-12-02")]
        var put = request(
            .put, "/archive/a/b%2Bc%3D1", [],
            common + [
                ("x-ms-blob-type", "BlockBlob"), ("If-None-Match", "*"), ("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg=="), ("Content-Type", "application/octet-stream"),
                ("x-ms-access-tier", "Cool"),
            ])
        put.body = Array("hello".utf8)
        let list: [(name: String, value: String?)] = [
            ("restype", "container"), ("comp", "list"), ("maxresults", "10"), ("prefix", "a/b c+"), ("marker", "2!108!MDAwMDI/--"),
        ]
        let cases: [(HTTPRequest, String)] = [
            (put, "SJR+gnTbNPMzuYsm6045AUoD5Ew22NPSoJ0xqRvN2jE="),
            (request(.get, "/archive", list, common), "zaG0GkBkJ11cRrlqdWxVbf+dhBcR7eCagFs7paSFibg="),
            (request(.get, "/archive/a/b", [], common + [("x-ms-range", "bytes=0-9")]), "HOrmJ9SGON/AAJLsHuxJgETNpYMGn/7Zyqf7yHPknrw="),
            (request(.head, "/archive/a/b", [], common), "Y8ceiSkU3nH2JR71HLam+BkG4RjXVS3rkVsCMqy3JTU="),
            (request(.delete, "/archive/a/b", [], common + [("If-Match", "\"0x8D8\"")]), "YG34+bTnteX2BxptLZjwgPOuvitmDblSqnV+dh1teF4="),
        ]
        for (request, signature) in cases { #expect(signer.authorization(request) == "SharedKey tidemarktest:\(signature)", "\(request.summary)") }
        // With an emulator the account stands in the path, and is signed twice.
        let emulator = AzureSigner(account: "devstoreaccount1", key: CloudPlace.azureKey)!
        let emulated = request(.put, "/devstoreaccount1/archive/a/b", [], common + [("x-ms-blob-type", "BlockBlob"), ("If-None-Match", "*")])
        #expect(emulator.authorization(emulated) == "SharedKey devstoreaccount1:mVrHRNMHFewygW7noHkpS0qDcow1C9LUH3/hYZonnt0=")
    }

    @Test("a key that is no base64 is none, and no key is shown")
    func keys() {
        #expect(AzureSigner(account: "a", key: "*") == nil)
        #expect(AzureSigner(account: "a", key: "") == nil)
        #expect("\(Self.dash)" == "the shared key of account dashstorage1")
    }

    @Test("dates", arguments: [
        ("1994-11-06T08:49:37Z", "Sun, 06 Nov 1994 08:49:37 GMT"), ("1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("2024-02-29T23:59:59Z", "Thu, 29 Feb 2024 23:59:59 GMT"), ("1969-12-31T23:59:59Z", "Wed, 31 Dec 1969 23:59:59 GMT"),
    ])
    func dates(_ moment: String, _ text: String) {
        #expect(HTTPDates.text(Moment(moment)!) == text)
        #expect(HTTPDates.text(Moment(moment)!.adding(nanoseconds: 5)) == text)
        #expect(HTTPDates.parse(text) == Moment(moment))
        #expect(HTTPDates.parse(String(text.dropLast())) == nil)
    }
}
