import ArchiveCore
import Digests
import Synchronization
import Testing

@testable import Store

@Suite("S3, answered oddly")
struct S3StoreTests {
    private let key = ObjectKey(known: "a/b")
    private let path = "/bucket/folder/a/b"

    // MARK: Putting

    @Test("puts once with condition, checksum and options, and looks whether it is there")
    func headers() async throws {
        let server = ScriptedS3()
        let store = try server.store(
            "s3://bucket/folder?endpoint=http://s3.test&storage-class=STANDARD_IA&sse=aws:kms&sse-kms-key=k1&lock=governance&retain=30d")
        try await store.put([1, 2, 3], at: key)
        let put = try #require(server.asked.first { $0.method == .put && $0.path == path })
        #expect(put["if-none-match"] == "*")
        #expect(put["x-amz-checksum-sha256"] == base64(SHA256.of([1, 2, 3])))
        #expect(put["content-md5"] == nil, "the probe showed that SHA-256 is told back")
        #expect(put["x-amz-storage-class"] == "STANDARD_IA")
        #expect(put["x-amz-server-side-encryption"] == "aws:kms")
        #expect(put["x-amz-server-side-encryption-aws-kms-key-id"] == "k1")
        #expect(put["x-amz-object-lock-mode"] == "GOVERNANCE")
        #expect(put["x-amz-object-lock-retain-until-date"] == "2026-12-24T12:00:00Z")
        #expect(put["x-amz-content-sha256"] == hexText(SHA256.of([1, 2, 3])))
        #expect(server.asked.last?.method == .head)
        let probe = try #require(server.asked.first { $0.method == .put && $0.path.hasSuffix("/probe/conditional") })
        #expect(probe["x-amz-object-lock-mode"] == nil, "a probe can be removed")
        #expect(try await store.listAll(prefix: "").map(\.key) == [key], "probes are not listed")
        #expect(try await store.folders(below: "") == [])
    }

    @Test("believes no success that it has not seen: what is not there is put again, at last refused by name")
    func lies() async throws {
        for times in [1, 3, 100] {
            let lies = Mutex(0)
            let server = ScriptedS3 { request, _ in
                guard request.method == .put, request.path.hasSuffix("/a/b"),
                    lies.withLock({
                        $0 += 1; return $0 <= times
                    })
                else { return nil }
                return HTTPResponse(status: 200, headers: [("ETag", ScriptedS3.tag(request.body))])
            }
            let store = try server.store()
            if times < 4 {
                try await store.put([1], at: key)
                #expect(server.object("folder/a/b") == [1])
            } else {
                let error = await refusal { try await store.put([1], at: key) }
                #expect(error.code == .storeUnavailable)
                #expect(error.message.contains("'a/b'"))
            }
        }
    }

    @Test("with confirm=answer the right checksum in the answer is enough, and nothing less")
    func believing() async throws {
        let server = ScriptedS3()
        let store = try server.store("s3://bucket/folder?endpoint=http://s3.test&checksum=md5&confirm=answer")
        try await store.put([1, 2], at: key)
        #expect(server.asked(.head, "/a/b") == 0)
        let lies = Mutex(0)
        let liar = ScriptedS3 { request, _ in
            guard request.method == .put, request.path.hasSuffix("/a/b"),
                lies.withLock({
                    $0 += 1; return $0 == 1
                })
            else { return nil }
            return HTTPResponse(status: 200)
        }
        try await liar.store("s3://bucket/folder?endpoint=http://s3.test&checksum=md5&confirm=answer").put([1, 2], at: key)
        #expect(liar.object("folder/a/b") == [1, 2], "an answer without a checksum is not believed")
    }

    @Test("what arrives changed is removed and put again; another's object is not touched")
    func mangled() async throws {
        let count = Mutex(0)
        let checksums = Mutex<[String: [(name: String, value: String)]]>([:])
        let inner = ScriptedS3()
        let server = ScriptedS3 { request, _ in
            var request = request
            if request.method == .put, request.path.hasSuffix("/a/b"),
                count.withLock({
                    $0 += 1; return $0 == 1
                })
            {
                request.body = [9, 9, 9]
            }
            // A server that repeats checksums and does not compare them.
            let told = request.headers.filter { $0.name == "x-amz-checksum-sha256" }
            if request.method == .put { request.headers.removeAll { $0.name == "x-amz-checksum-sha256" } }
            var answer = try await inner.send(request)
            if request.method == .head { answer.headers += checksums.withLock { $0[request.path] ?? [] } }
            if request.method == .put { checksums.withLock { $0[request.path] = told } }
            return answer
        }
        try await server.store().put([1, 2, 3], at: key)
        #expect(inner.object("folder/a/b") == [1, 2, 3])

        // The put is said to have succeeded, and somebody else's object is there.
        let other = ScriptedS3 { request, _ in
            request.method == .put && request.path.hasSuffix("/a/b")
                ? HTTPResponse(status: 200, headers: [("ETag", ScriptedS3.tag(request.body))]) : nil
        }
        other.set("folder/a/b", [7, 7, 7])
        let error = await refusal { try await other.store().put([1, 2, 3], at: self.key) }
        #expect(error.code == .objectExists)
        #expect(other.object("folder/a/b") == [7, 7, 7])
    }

    @Test("a server that writes twice is found out once and warned of; then it is looked before each put")
    func unconditional() async throws {
        let warnings = Mutex<[String]>([])
        let inner = ScriptedS3()
        let server = ScriptedS3 { request, _ in
            var request = request
            request.headers.removeAll { $0.name == "If-None-Match" }
            return try await inner.send(request)
        }
        let store = try server.store(warn: { text in warnings.withLock { $0.append(text) } })
        try await store.put([1], at: key)
        try await store.put([1], at: key)
        let error = await refusal { try await store.put([2], at: self.key) }
        #expect(error.code == .objectExists)
        #expect(inner.object("folder/a/b") == [1])
        #expect(inner.asked(.put, "/a/b") == 1)
        #expect(warnings.withLock { $0.count } == 1)
    }

    @Test("headers that are not implemented are left out and not sent again", arguments: ["if-none-match", "x-amz-checksum-sha256", ""])
    func notImplemented(_ header: String) async throws {
        let inner = ScriptedS3()
        let server = ScriptedS3 { request, _ in
            let bad = header.isEmpty ? request["if-none-match"] != nil || request["x-amz-checksum-sha256"] != nil : request[header] != nil
            if request.method == .put, bad { return ScriptedS3.error(501, "NotImplemented", header.isEmpty ? "" : "<Header>\(header)</Header>") }
            return try await inner.send(request)
        }
        let store = try server.store()
        try await store.put([1], at: key)
        let before = server.asked.count { $0.method == .put }
        try await store.put([2], at: ObjectKey(known: "c"))
        #expect(server.asked.count { $0.method == .put } == before + 1)
        #expect(inner.object("folder/c") == [2])
        let last = try #require(inner.asked.last { $0.method == .put })
        if header != "if-none-match" { #expect(last["content-md5"] == base64(MD5.of([2]))) }
    }

    @Test("where entity tags are no MD5 and no checksum is told, what is there is read and compared")
    func opaqueTags() async throws {
        let inner = ScriptedS3()
        let server = ScriptedS3 { request, _ in
            var answer = try await inner.send(request)
            answer.headers.removeAll { $0.name.hasPrefix("x-amz-checksum") }
            answer.headers = answer.headers.map { $0.name == "ETag" ? ("ETag", "\"0123456789abcdef0123456789abcdef\"") : $0 }
            return answer
        }
        let store = try server.store()
        try await store.put([1, 2], at: key)
        #expect(server.asked.contains { $0.method == .get && $0.path == path })
        #expect(inner.object("folder/a/b") == [1, 2])
    }

    @Test("conflicts, damage on the way and overload are tried again")
    func again() async throws {
        let faults = Mutex([
            ScriptedS3.error(409, "ConditionalRequestConflict"), ScriptedS3.error(400, "BadDigest"),
            ScriptedS3.error(400, "XAmzContentSHA256Mismatch"),
            ScriptedS3.error(503, "SlowDown"), HTTPResponse(status: 429), HTTPResponse(status: 500), ScriptedS3.error(400, "RequestTimeout"),
        ])
        let server = ScriptedS3 { request, _ in request.method == .put && request.path.hasSuffix("/a/b") ? faults.withLock { $0.popLast() } : nil }
        try await server.store().put([1], at: key)
        #expect(server.object("folder/a/b") == [1])
        #expect(server.asked(.put, "/a/b") == 8)
    }

    // MARK: Getting

    @Test(
        "an odd answer to a range is asked for again or refused, never taken",
        arguments: [
            "short", "no range", "other range", "longer than the range", "changed",
        ])
    func ranges(_ fault: String) async throws {
        let bytes = (0..<100).map { UInt8($0) }
        let server = ScriptedS3 { request, _ in
            guard request.method == .get else { return nil }
            switch fault {
            case "short": return HTTPResponse(status: 206, headers: [("Content-Range", "bytes 10-19/100")], body: Array(bytes[10..<15]))
            case "no range": return HTTPResponse(status: 206, body: Array(bytes[10..<20]))
            case "other range": return HTTPResponse(status: 206, headers: [("Content-Range", "bytes 0-9/100")], body: Array(bytes[0..<10]))
            case "longer than the range":
                return HTTPResponse(status: 206, headers: [("Content-Range", "bytes 10-29/100")], body: Array(bytes[10..<30]))
            default: return ScriptedS3.error(412, "PreconditionFailed")
            }
        }
        server.set("folder/a/b", bytes)
        let error = await refusal { try await server.store().get(self.key, range: 10..<20) }
        #expect(error.code == .storeUnavailable)
        #expect(fault == "changed" || server.asked(.get, "/a/b") > 1)
    }

    @Test("the whole object as the answer to a range is cut to it; one that ends before the range is damaged")
    func wholeForRange() async throws {
        let bytes = (0..<100).map { UInt8($0) }
        let server = ScriptedS3 { request, _ in
            request.method == .get ? HTTPResponse(status: 200, headers: [("Content-Length", "100")], body: bytes) : nil
        }
        server.set("folder/a/b", bytes)
        let store = try server.store()
        #expect(try await store.get(key, range: 10..<20) == Array(bytes[10..<20]))
        #expect(try await store.get(key) == bytes)
        let error = await refusal { try await store.get(self.key, range: 90..<101) }
        #expect(error.code == .objectDamaged)
    }

    @Test("a short body is no object", arguments: [200, 206])
    func shortBody(_ status: Int) async throws {
        let server = ScriptedS3 { request, _ in
            guard request.method == .get else { return nil }
            return HTTPResponse(
                status: status, headers: [(status == 200 ? "Content-Length" : "Content-Range", status == 200 ? "10" : "bytes 0-9/10")],
                body: [1, 2, 3])
        }
        let error = await refusal { try await server.store().get(self.key) }
        #expect(error.code == .storeUnavailable)
        #expect(error.message.contains("3 bytes of 10"))
    }

    @Test("large objects are read in pieces of one and the same object")
    func pieces() async throws {
        let size = Int(S3Objects.pieceSize) * 2 + 12_345
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 8) }
        let server = ScriptedS3()
        server.set("folder/a/b", bytes)
        #expect(try await server.store().get(key) == bytes)
        #expect(server.asked(.get, "/a/b") == 3)
        #expect(server.asked.filter { $0.method == .get }.dropFirst().allSatisfy { $0["if-match"] == ScriptedS3.tag(bytes) })
        // Another object in its place is noticed.
        let other = ScriptedS3 { request, _ in
            guard request.method == .get, request["if-match"] != nil else { return nil }
            return ScriptedS3.error(412, "PreconditionFailed")
        }
        other.set("folder/a/b", bytes)
        #expect(await refusal { try await other.store().get(self.key) }.message.contains("changed"))
    }

    // MARK: Listing

    private func page(_ items: String, truncated: String = "<IsTruncated>false</IsTruncated>") -> String {
        "<ListBucketResult><EncodingType>url</EncodingType>\(truncated)\(items)</ListBucketResult>"
    }
    private func item(_ name: String, _ size: String = "<Size>1</Size>") -> String { "<Contents><Key>\(name)</Key>\(size)</Contents>" }

    @Test(
        "lists that cannot be are refused",
        arguments: [
            ("out of order", "<IsTruncated>false</IsTruncated>", ["folder/b", "folder/a"]),
            ("twice", "<IsTruncated>false</IsTruncated>", ["folder/a", "folder/a"]),
            ("of elsewhere", "<IsTruncated>false</IsTruncated>", ["other/a"]), ("no end", "", ["folder/a"]),
            ("goes on nowhere", "<IsTruncated>true</IsTruncated>", ["folder/a"]),
            ("for ever", "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>", []),
            ("unreadable", "<IsTruncated>false</IsTruncated>", ["folder/%"]),
            ("before the start", "<IsTruncated>false</IsTruncated>", ["folder/0"]),
        ])
    func lists(_ what: String, _ truncated: String, _ names: [String]) async throws {
        let text = page(names.map { item($0) }.joined(), truncated: truncated)
        let server = ScriptedS3 { _, _ in ScriptedS3.xml(200, text) }
        let error = await refusal { try await server.store().list(prefix: "", after: what == "before the start" ? "5" : nil, limit: 10) }
        #expect(error.code == .storeUnavailable)
        #expect(error.message.contains("cannot be: "))
    }

    @Test("a list that was damaged on its way is asked for once more")
    func damagedList() async throws {
        let pages = [page(item("foller/a")), page(item("folder/a"))]
        let server = ScriptedS3 { _, number in ScriptedS3.xml(200, pages[min(number, 1)]) }
        #expect(try await server.store().list(prefix: "", after: nil, limit: 10).map(\.key.path) == ["a"])
        #expect(server.asked.count == 2)
    }

    @Test(
        "lists in garbage, cut off, hostile, without sizes or in an unknown encoding are refused",
        arguments: [
            "garbage", "<html><body>sign in</body></html>", "<ListBucketResult><IsTruncated>fal",
            "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]><ListBucketResult>&b;</ListBucketResult>",
            "<ListBucketResult><EncodingType>base64</EncodingType><IsTruncated>false</IsTruncated></ListBucketResult>",
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>folder/a</Key></Contents></ListBucketResult>",
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>folder/a</Key><Size>-1</Size></Contents></ListBucketResult>",
        ])
    func garbage(_ text: String) async throws {
        let server = ScriptedS3 { _, _ in ScriptedS3.xml(200, text) }
        #expect(await refusal { try await server.store().list(prefix: "", after: nil, limit: 10) }.code == .storeUnavailable)
    }

    @Test("foreign names are passed over without ending a page early; more than was asked for is cut")
    func foreign() async throws {
        let pages = [
            page(
                item("folder/a+b") + item("folder/a%2Bb"),
                truncated: "<IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken>"),
            page(
                item("folder/c%20d") + item("folder/d/"), truncated: "<IsTruncated>true</IsTruncated><NextContinuationToken>2</NextContinuationToken>"
            ),
            page("", truncated: "<IsTruncated>true</IsTruncated><NextContinuationToken>3</NextContinuationToken>"),
            page(item("folder/e") + item("folder/f") + item("folder/g")),
        ]
        let server = ScriptedS3 { request, _ in
            ScriptedS3.xml(200, pages[request.query.first { $0.name == "continuation-token" }.flatMap { $0.value.flatMap(Int.init) } ?? 0])
        }
        let store = try server.store()
        #expect(try await store.list(prefix: "", after: nil, limit: 2).map(\.key.path) == ["a+b", "e"])
        #expect(try await store.list(prefix: "", after: nil, limit: 100).map(\.key.path) == ["a+b", "e", "f", "g"])
    }

    // MARK: Removing

    @Test("removes a thousand a request, with a checksum, and tells what was not removed")
    func removes() async throws {
        let keys = (0..<1500).map { ObjectKey(known: "k/\($0)") }
        let server = ScriptedS3()
        try await server.store().remove(keys)
        #expect(server.asked.count == 2)
        #expect(server.asked.allSatisfy { $0["content-md5"] == base64(MD5.of($0.body)) && $0.query.map(\.name) == ["delete"] })
        #expect(String(decoding: server.asked[1].body, as: UTF8.self).split(separator: "<Object>").count == 501)

        let denied = ScriptedS3 { _, _ in
            ScriptedS3.xml(
                200,
                "<DeleteResult><Error><Key>folder/k/7</Key><Code>AccessDenied</Code></Error><Error><Key>folder/k/8</Key><Code>NoSuchKey</Code></Error></DeleteResult>"
            )
        }
        let error = await refusal { try await denied.store().remove(keys) }
        #expect(error.message.contains("'k/7': AccessDenied") && error.message.contains("1 of 1000"))
        #expect(error.remedy?.contains("s3:DeleteObject") == true)

        let old = ScriptedS3 { request, _ in request.method == .post ? ScriptedS3.error(501, "NotImplemented") : nil }
        let store = try old.store()
        try await store.remove(Array(keys.prefix(3)))
        try await store.remove(Array(keys.prefix(3)))
        #expect(old.asked.count { $0.method == .post } == 1)
        #expect(old.asked.count { $0.method == .delete } == 6)
        #expect(
            await refusal { try await ScriptedS3 { _, _ in ScriptedS3.error(404, "NoSuchBucket") }.store().remove(self.key) }.message.contains(
                "no bucket"))
    }

    // MARK: Errors

    @Test(
        "every refusal says what to do",
        arguments: [
            (403, "AccessDenied", "", "s3:GetObject"), (403, "SignatureDoesNotMatch", "", "secret access key"),
            (403, "InvalidAccessKeyId", "", "access key"),
            (400, "ExpiredToken", "", "temporary credentials"), (403, "RequestTimeTooSkewed", "", "NTP"), (404, "NoSuchBucket", "", "Create it"),
            (301, "PermanentRedirect", "<Endpoint>bucket.s3-eu-west-3.amazonaws.com</Endpoint>", "endpoint"),
            (400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>", "region=eu-north-1"),
            (403, "InvalidObjectState", "", "restore-object"),
            (501, "NotImplemented", "<Header>x-amz-y</Header>", "option"), (405, "MethodNotAllowed", "", "speaks S3"), (418, "Teapot", "", "log"),
        ])
    func errors(_ status: Int, _ code: String, _ more: String, _ remedy: String) async throws {
        let server = ScriptedS3 { _, _ in
            var answer = ScriptedS3.error(status, code, more)
            answer.headers = [("Date", "Tue, 24 Nov 2026 12:20:00 GMT")]
            return answer
        }
        let error = await refusal { try await server.store().get(self.key) }
        #expect(error.message.contains(code) && error.message.contains("s3://bucket/folder"), "\(error)")
        #expect(error.remedy?.contains(remedy) == true, "\(error)")
        if code == "RequestTimeTooSkewed" { #expect(error.message.contains("1200 s behind")) }
    }

    @Test("a redirect without a body names the region by its header")
    func redirect() async throws {
        let server = ScriptedS3 { _, _ in HTTPResponse(status: 301, headers: [("x-amz-bucket-region", "eu-west-1")]) }
        let error = await refusal { try await server.store().get(self.key) }
        #expect(error.remedy?.contains("region=eu-west-1") == true)
    }

    @Test("a text of the server's that is no code is not repeated")
    func echo() async throws {
        let server = ScriptedS3 { _, _ in ScriptedS3.error(403, "AWS4-HMAC Signature=s3cr3t") }
        #expect(await refusal { try await server.store().get(self.key) }.message.contains("HTTP 403"))
    }
}
