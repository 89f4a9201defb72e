import ArchiveCore
import Testing

@testable import Store

@Suite("URLs of S3")
struct S3LocationTests {
    private func location(_ text: String) throws -> S3Location { try S3Location(try StoreURL(text)) }
    private func place(_ text: String, _ environment: [String: String] = [:], _ profile: [String: String] = [:]) throws -> S3Place {
        try S3Place(try location(text), environment: { environment[$0] }, configured: { profile[$0] })
    }

    @Test("say where, as whom and how")
    func all() throws {
        let found = try location(
            "s3://bucket/a/b/?region=eu-central-1&endpoint=https://h:9000&addressing=path&profile=p&storage-class=STANDARD_IA&sse=aws:kms&sse-kms-key=arn:k&lock=compliance&retain=30d"
                + "&versioning=required&checksum=crc32c&ca-file=/ca.pem&connect-timeout=3s")
        #expect(found.bucket == "bucket" && found.prefix == "a/b/" && found.region == "eu-central-1" && found.profile == "p")
        #expect(found.endpoint?.host == "h:9000" && found.addressing == .path && found.storageClass == "STANDARD_IA")
        #expect(found.encryption == "aws:kms" && found.encryptionKey == "arn:k" && found.lock == .compliance && found.retainDays == 30)
        #expect(found.versioning && found.checksum == .crc32c && found.transport.caFile == "/ca.pem" && found.transport.connectTimeout == 3)
        #expect("\(found)" == "s3://bucket/a/b")
        #expect("\(try StoreLocation("s3://bucket"))" == "s3://bucket")
    }

    @Test(
        "that cannot be meant are refused with what would be right",
        arguments: [
            "s3://", "s3:///folder", "s3://ab/x", "s3://a..b/x", "s3://bucket/a b", "s3://user@bucket/x", "s3://bucket/x?retain=30d",
            "s3://bucket/x?lock=governance",
            "s3://bucket/x?lock=never&retain=1d", "s3://bucket/x?lock=governance&retain=0d", "s3://bucket/x?lock=governance&retain=30",
            "s3://bucket/x?region=a.b",
            "s3://bucket/x?endpoint=h:9000", "s3://bucket/x?endpoint=https://u@h", "s3://bucket/x?addressing=dns", "s3://bucket/x?sse=none",
            "s3://bucket/x?sse-kms-key=k",
            "s3://bucket/x?checksum=sha1", "s3://bucket/x?versioning=yes", "s3://bucket/x?storage-class=GLACIER", "s3://bucket/x?unknown=1",
            "s3://BIG_bucket/x?addressing=virtual", "s3://bucket/x?lock=governance&retain=1d&checksum=none", "s3://bucket/x?region=a&region=b",
        ])
    func refused(_ text: String) {
        let error = #expect(throws: ArchiveError.self) { try StoreLocation(text) }
        #expect(error?.code == .usage && error?.remedy != nil)
    }

    @Test(
        "never repeat what they carry when they are refused",
        arguments: [
            "s3://bucket/x?secret_access_key=SEKRIT", "s3://bucket/x?endpoint=http://u:SEKRIT@host", "s3://bucket/x?proxy=http://pu:SEKRIT@p:3128",
            "s3://bucket/x?region=SEKRIT.1&lock=SEKRIT", "s3://bucket/x?SEKRIT", "s3://bucket/x?checksum=SEKRIT", "s3://bucket/x?stall-timeout=SEKRIT",
            "s3://bucket/x?confirm=SEKRIT", "s3://u:SEKRIT@bucket/x", "u:SEKRIT@bucket", "gs://bucket/x?key=SEKRIT", "gs://bucket?endpoint=http://u:SEKRIT@h",
            "gs://bucket?versioning=SEKRIT", "azblob://box/x?sig=SEKRIT", "azblob://box?endpoint=http://u:SEKRIT@h", "azblob://box?account=SEKRIT",
            "file:///srv/x?key=SEKRIT", "http://host/x?key=SEKRIT",
        ])
    func silent(_ text: String) {
        let error = #expect(throws: ArchiveError.self) { try StoreLocation(text) }
        #expect(error?.code == .usage && error.map { !"\($0) \($0.message) \($0.remedy ?? "")".contains("SEKRIT") } == true)
    }

    @Test("of other kinds are answered with the four forms; the scheme's case does not matter", arguments: ["s4://x/y", "http://h/x", "/srv/x"])
    func forms(_ text: String) throws {
        let remedy = #expect(throws: ArchiveError.self) { try StoreLocation(text) }?.remedy ?? ""
        for form in ["file://", "s3://", "gs://", "azblob://"] { #expect(remedy.contains(form)) }
        #expect("\(try StoreLocation("S3://bucket/f"))" == "s3://bucket/f")
    }

    @Test("of buckets that AWS cannot have need an endpoint")
    func names() throws {
        #expect(throws: ArchiveError.self) { try place("s3://Tidemark_Test") }
        #expect(try place("s3://Tidemark_Test?endpoint=https://h").isPathStyle)
        #expect(try place("s3://Tidemark_Test", ["AWS_ENDPOINT_URL": "https://h"]).isPathStyle)
    }

    @Test("take region and endpoint from the URL, the environment, the profile, then AWS")
    func defaults() throws {
        #expect(try place("s3://bucket").region == "us-east-1")
        #expect(try place("s3://bucket").endpoint.host == "s3.us-east-1.amazonaws.com")
        #expect(try place("s3://bucket", [:], ["region": "eu-west-1"]).region == "eu-west-1")
        #expect(try place("s3://bucket", ["AWS_DEFAULT_REGION": "eu-west-2"], ["region": "eu-west-1"]).region == "eu-west-2")
        #expect(try place("s3://bucket", ["AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-2"]).region == "eu-west-3")
        #expect(try place("s3://bucket?region=cn-north-1", ["AWS_REGION": "x"]).endpoint.host == "s3.cn-north-1.amazonaws.com.cn")
        #expect(try place("s3://bucket", ["AWS_ENDPOINT_URL": "http://h:1", "AWS_ENDPOINT_URL_S3": "http://h:2/base"]).endpoint.path == "/base")
        #expect(throws: ArchiveError.self) { try place("s3://bucket", ["AWS_ENDPOINT_URL": "h:1"]) }
    }

    @Test("put the bucket into the path where a certificate or a name would not do")
    func addressing() throws {
        #expect(try !place("s3://bucket").isPathStyle)
        #expect(try place("s3://my.bucket").isPathStyle)
        #expect(try place("s3://bucket?endpoint=https://h").isPathStyle)
        #expect(try !place("s3://bucket?endpoint=https://h&addressing=virtual").isPathStyle)
        #expect(try place("s3://bucket?addressing=path").isPathStyle)
    }

    @Test("make the address of every request")
    func requests() async throws {
        for (url, host, path, root) in [
            ("s3://bucket/f?region=eu-west-1", "bucket.s3.eu-west-1.amazonaws.com", "/f/a%2Bb%3D", "/"),
            ("s3://my.bucket/f", "s3.us-east-1.amazonaws.com", "/my.bucket/f/a%2Bb%3D", "/my.bucket"),
            ("s3://bucket/f?endpoint=https://h:1/base", "h:1", "/base/bucket/f/a%2Bb%3D", "/base/bucket"),
            ("s3://bucket/f?endpoint=https://h:1/base&addressing=virtual", "bucket.h:1", "/base/f/a%2Bb%3D", "/base/"),
        ] {
            let server = ScriptedS3 { request, _ in request.query.isEmpty ? ScriptedS3.error(404, "NoSuchKey") : ScriptedS3.error(404, "NoSuchBucket")
            }
            let store = try server.store(url)
            _ = await refusal { try await store.get(ObjectKey(known: "a+b=")) }
            _ = await refusal { try await store.listAll(prefix: "") }
            #expect(server.asked.map(\.host) == [host, host])
            #expect(server.asked.map(\.path) == [path, root])
        }
    }
}
