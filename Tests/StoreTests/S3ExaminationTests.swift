import ArchiveCore
import Digests
import Testing

@testable import Store

@Suite("The examination of a bucket")
struct S3ExaminationTests {
    private func levels(_ findings: [StoreFinding], _ word: String) -> [StoreFinding.Level] {
        findings.filter { $0.message.contains(word) }.map(\.level)
    }

    @Test("of a good bucket finds nothing wrong, and leaves nothing but its probes")
    func good() async throws {
        let server = ScriptedS3()
        let store = try server.store()
        let findings = await store.examine()
        #expect(findings.allSatisfy { $0.level == .ok }, "\(findings)")
        #expect(findings.count == 6)
        #expect(try await store.namesOfTrials() == ["probe/conditional"])
    }

    @Test("of moto: permissions, conditions, clock, lifecycle")
    func moto() async throws {
        let server = try await S3Server.shared()
        let findings = try await server.store().examine()
        #expect(findings.allSatisfy { $0.level == .ok }, "\(findings)")
        #expect(levels(findings, "If-None-Match") == [.ok])
        #expect(levels(findings, "clock") == [.ok])
        #expect(levels(findings, "lifecycle") == [.ok])
        let deaf = try await server.store(transport: { DeafTransport(inner: $0, header: "if-none-match", server: server) }).examine()
        #expect(levels(deaf, "conditional writes") == [.warning])
    }

    @Test("of moto's buckets: versions, locks, lifecycle rules")
    func settings() async throws {
        let server = try await S3Server.shared()
        let name = "b" + String(UInt64.random(in: .min ... .max), radix: 16)
        #expect(try await server.ask(.put, "/\(name)", headers: [("x-amz-bucket-object-lock-enabled", "true")]).status == 200)
        let options = "&versioning=required&lock=governance&retain=1d"
        let locked = try await server.store(bucket: name, options: options).examine()
        #expect(levels(locked, "keeps versions") == [.ok])
        #expect(levels(locked, "locks objects") == [.ok])
        let store = try server.store(bucket: name, options: options)
        try await store.put([1, 2, 3], at: ObjectKey(known: "x"))
        #expect(try await store.get(ObjectKey(known: "x")) == [1, 2, 3])

        let plain = try await server.store(options: options).examine()
        #expect(levels(plain, "keeps no versions") == [.failure])
        #expect(levels(plain, "no object lock") == [.failure])

        let rules =
            "<LifecycleConfiguration><Rule><ID>eat</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>"
        #expect(
            try await server.ask(
                .put, "/\(name)", query: [("lifecycle", nil)], headers: [("Content-MD5", base64(MD5.of(Array(rules.utf8))))], body: rules
            ).status == 200)
        #expect(levels(try await server.store(bucket: name).examine(), "'eat'") == [.failure])
    }

    @Test(
        "names each missing permission",
        arguments: [
            ("PUT", "s3:PutObject"), ("GET", "s3:GetObject"), ("LIST", "s3:ListBucket"), ("DELETE", "s3:DeleteObject"),
        ])
    func permissions(_ what: String, _ permission: String) async throws {
        let server = ScriptedS3 { request, _ in
            let isList = request.query.contains { $0.name == "list-type" }
            let kind = isList ? "LIST" : request.query.isEmpty ? (request.method == .head ? "GET" : request.method.rawValue) : ""
            guard kind == what else { return nil }
            return request.method == .head ? HTTPResponse(status: 403) : ScriptedS3.error(403, "AccessDenied")
        }
        let failures = try await server.store().examine().filter { $0.level == .failure }
        #expect(failures.contains { $0.remedy?.contains("Allow \(permission) on arn:aws:s3:::bucket") == true }, "\(failures)")
    }

    @Test("is a warning where the bucket's settings may not be looked at")
    func unseen() async throws {
        let server = ScriptedS3 { request, _ in request.path == "/bucket" && request.query.count == 1 ? ScriptedS3.error(403, "AccessDenied") : nil }
        let findings = try await server.store("s3://bucket/folder?endpoint=http://s3.test&versioning=required&lock=governance&retain=1d").examine()
        let warnings = findings.filter { $0.level == .warning }
        #expect(warnings.count == 3 && findings.allSatisfy { $0.level != .failure })
        for permission in ["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration"] {
            #expect(warnings.contains { $0.remedy?.contains(permission) == true })
        }
    }

    @Test("measures the clocks")
    func clocks() async throws {
        for (date, level) in [
            ("12:00:00", StoreFinding.Level.ok), ("12:00:30", .ok), ("12:02:00", .warning), ("11:58:00", .warning), ("12:11:00", .failure),
        ] {
            let inner = ScriptedS3()
            let server = ScriptedS3 { request, _ in
                var answer = try await inner.send(request)
                answer.headers.append(("Date", "Tue, 24 Nov 2026 \(date) GMT"))
                return answer
            }
            #expect(levels(try await server.store().examine(), "clock") == [level])
        }
    }

    @Test("names the rules that would eat or freeze the archive, and no others")
    func rules() throws {
        func dangers(_ rule: String, status: String = "Enabled") throws -> [StoreFinding] {
            let text = "<LifecycleConfiguration><Rule><ID>r1</ID><Status>\(status)</Status>\(rule)</Rule></LifecycleConfiguration>"
            return S3LifecycleRule.dangers(in: try XMLElement.parse(Array(text.utf8)), prefix: "folder/")
        }
        let expire = "<Expiration><Days>30</Days></Expiration>"
        for filter in [
            "", "<Prefix/>", "<Filter><Prefix>fold</Prefix></Filter>", "<Filter><Prefix>folder/base/</Prefix></Filter>",
            "<Filter><And><Prefix/></And></Filter>",
        ] {
            let found = try dangers(filter + expire)
            #expect(found.map(\.level) == [.failure])
            #expect(found.first?.message.contains("'r1'") == true)
        }
        #expect(try dangers("<Transition><Days>1</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition>").count == 1)
        #expect(try dangers("<Transition><Days>1</Days><StorageClass>GLACIER_IR</StorageClass></Transition>").isEmpty)
        #expect(try dangers(expire, status: "Disabled").isEmpty)
        #expect(try dangers("<Filter><Prefix>other/</Prefix></Filter>" + expire).isEmpty)
        #expect(try dangers("<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>" + expire).isEmpty)
        #expect(try dangers("<Filter><And><Prefix/><Tag><Key>k</Key></Tag></And></Filter>" + expire).isEmpty)
        #expect(try dangers("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>").isEmpty)
        #expect(try dangers("<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>").isEmpty)
    }

    @Test("of a place where nobody answers says so once")
    func nobody() async throws {
        let server = ScriptedS3 { _, _ in throw HTTPFailure(.tls, "the certificate is not trusted") }
        let findings = try await server.store().examine()
        #expect(findings.allSatisfy { $0.level == .failure && $0.message.contains("certificate") })
    }
}
