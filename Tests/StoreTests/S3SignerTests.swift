import ArchiveCore
import Testing
@testable import Store

/// Vectors of AWS: the Signature Version 4 test suite, and the examples of the S3 API reference ("Signature Calculations for the
/// Authorization Header"), whose keys are published with them.
@Suite("Signature Version 4")
struct S3SignerTests {
    private let suite = S3Signer(
        credentials: S3Credentials(accessKeyID: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), region: "us-east-1",
        service: "service")
    private let suiteTime = Moment("2015-08-30T12:36:00Z")!
    private let documented = S3Signer(
        credentials: S3Credentials(accessKeyID: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region: "us-east-1")
    private let documentedTime = Moment("2013-05-24T00:00:00Z")!

    struct Vector: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var method = HTTPRequest.Method.get
        var query: [(name: String, value: String?)] = []
        var headers: [(name: String, value: String)] = []
        var body = ""
        var token: String?
        var signed: String
        var signature: String
    }

    @Test(
        "of AWS's test suite",
        arguments: [
            Vector(
                testDescription: "get-vanilla", signed: "host;x-amz-date",
                signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            Vector(
                testDescription: "get-vanilla-query-order-key-case", query: [("Param2", "value2"), ("Param1", "value1")], signed: "host;x-amz-date",
                signature: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
            Vector(
                testDescription: "get-vanilla-query-unreserved",
                query: [
                    (
                        "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                        "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                    )
                ], signed: "host;x-amz-date", signature: "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
            Vector(
                testDescription: "get-vanilla-utf8-query", query: [("\u{1234}", "bar")], signed: "host;x-amz-date",
                signature: "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
            Vector(
                testDescription: "get-header-key-duplicate", headers: [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
                signed: "host;my-header1;x-amz-date", signature: "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
            Vector(
                testDescription: "get-header-value-order",
                headers: [("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")],
                signed: "host;my-header1;x-amz-date", signature: "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
            Vector(
                testDescription: "get-header-value-trim", headers: [("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
                signed: "host;my-header1;my-header2;x-amz-date", signature: "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
            Vector(
                testDescription: "get-vanilla-with-session-token", token: "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
                signed: "host;x-amz-date;x-amz-security-token", signature: "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
            Vector(
                testDescription: "post-x-www-form-urlencoded", method: .post,
                headers: [
                    ("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "13"),
                    ("x-amz-content-sha256", "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"),
                ], body: "Param1=value1", signed: "content-length;content-type;host;x-amz-content-sha256;x-amz-date",
                signature: "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
        ])
    func vectors(_ vector: Vector) {
        var signer = suite
        signer.credentials.sessionToken = vector.token
        let request = HTTPRequest(
            vector.method, host: "example.amazonaws.com", path: "/", query: vector.query, headers: vector.headers, body: Array(vector.body.utf8))
        let result = signer.sign(request, at: suiteTime)
        #expect(
            result["authorization"]
                == "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=\(vector.signed), Signature=\(vector.signature)"
        )
    }

    private func signature(_ request: HTTPRequest) -> String? {
        documented.sign(request, at: documentedTime)["authorization"]?.split(separator: "=").last.map(String.init)
    }

    @Test("of the S3 reference: get a range, put, lifecycle, list")
    func examples() {
        let host = "examplebucket.s3.amazonaws.com"
        #expect(
            signature(HTTPRequest(.get, host: host, path: "/test.txt", headers: [("Range", "bytes=0-9")]))
                == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
        #expect(
            signature(
                HTTPRequest(
                    .put, host: host, path: "/" + percentEncoded("test$file.text", keeping: true),
                    headers: [("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                    body: Array("Welcome to Amazon S3.".utf8)))
                == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")
        #expect(
            signature(HTTPRequest(.get, host: host, path: "/", query: [("lifecycle", nil)]))
                == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
        #expect(
            signature(HTTPRequest(.get, host: host, path: "/", query: [("prefix", "J"), ("max-keys", "2")]))
                == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
    }

    @Test("signs a key once encoded, and not what proxies change")
    func encoding() {
        let request = HTTPRequest(
            .get, host: "h", path: "/" + percentEncoded("a+b@c=d/e", keeping: true),
            headers: [("User-Agent", "x"), ("Expect", "100-continue"), ("If-None-Match", "*")])
        let (text, signed) = S3Signer.canonical(request, payload: "p")
        #expect(text.hasPrefix("GET\n/a%2Bb%40c%3Dd/e\n\n"))
        #expect(signed == "host;if-none-match")
        #expect(S3Signer.stamp(Moment("2026-01-02T03:04:05.678Z")!) == "20260102T030405Z")
    }

    @Test("shows no secret where credentials are shown")
    func secrets() {
        let credentials = S3Credentials(accessKeyID: "AKIDEXAMPLE", secretAccessKey: "SECRETKEY", sessionToken: "SECRETTOKEN")
        var dumped = ""
        dump(credentials, to: &dumped)
        for text in ["\(credentials)", String(reflecting: credentials), dumped] { #expect(!text.contains("SECRET")) }
    }
}
