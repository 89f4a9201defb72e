import ArchiveCore
import ArchiveTesting
import DurableIO
import Synchronization
import Testing

@testable import Store

@Suite("Credentials of S3")
struct S3CredentialsTests {
    let directory: TemporaryDirectory
    init() throws { directory = try TemporaryDirectory() }

    /// Answers by method and URL without query; whatever it does not know cannot be reached.
    private struct Metadata: HTTPTransport {
        var answers: [String: String] = [:]
        let asked = Requests()

        func send(_ request: HTTPRequest) async throws -> HTTPResponse {
            asked.add(request)
            guard let text = answers["\(request.method.rawValue) \(request.scheme)://\(request.host)\(request.path)"] else {
                throw HTTPFailure(.unreachable, "nobody there")
            }
            let status = Int(text.prefix(3)) ?? 200
            return HTTPResponse(status: status, body: Array((Int(text.prefix(3)) == nil ? text : String(text.dropFirst(3))).utf8))
        }
    }
    private final class Requests: Sendable {
        private let requests = Mutex<[HTTPRequest]>([])
        func add(_ request: HTTPRequest) { requests.withLock { $0.append(request) } }
        var all: [HTTPRequest] { requests.withLock { $0 } }
    }

    private static let time = Moment("2026-11-24T12:00:00Z")!
    private static let pacing = Pacing(random: { 0 }, sleep: { _ in try Task.checkCancellation() }, seconds: { 0 })

    private func chain(_ environment: [String: String], _ metadata: Metadata = Metadata(), profile: String? = nil) -> S3CredentialChain {
        var environment = environment
        environment["HOME"] = environment["HOME"] ?? directory.path
        let variables = environment
        return S3CredentialChain(
            environment: { variables[$0] }, files: { try AWSProfiles.read { variables[$0] } },
            requests: AWSCredentialRequests(
                environment: { variables[$0] }, transport: metadata, nearby: metadata, region: "eu-central-1", now: { Self.time }, pacing: Self.pacing
            ),
            profile: profile)
    }

    private func write(_ name: String, _ text: String) throws -> String {
        let path = directory.path + "/" + name
        try Files.makeDirectory(Files.parent(of: path))
        try Files.writeDurably(Array(text.utf8), to: path)
        return path
    }

    private func sts(_ action: String) -> String {
        "<\(action)Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><\(action)Result><Credentials><AccessKeyId>ID-STS</AccessKeyId><SecretAccessKey>s3cr3t-STS"
            + "</SecretAccessKey><SessionToken>t0k3n-STS</SessionToken><Expiration>2026-11-24T13:00:00Z</Expiration></Credentials></\(action)Result></\(action)Response>"
    }
    private let json = #"{"Code":"Success","AccessKeyId":"ID-J","SecretAccessKey":"s3cr3t-J","Token":"t0k3n-J","Expiration":"2026-11-24T13:00:00Z"}"#

    @Test("of the environment come first, unless the URL names a profile")
    func environment() async throws {
        _ = try write(
            ".aws/credentials",
            "[default]\naws_access_key_id = ID-D\naws_secret_access_key=s3cr3t-D\n[other]\naws_access_key_id=ID-O\naws_secret_access_key=S=E\n")
        let variables = ["AWS_ACCESS_KEY_ID": "ID-E", "AWS_SECRET_ACCESS_KEY": "s3cr3t-E", "AWS_SESSION_TOKEN": "t0k3n-E"]
        #expect(
            try await chain(variables).find(at: Self.time) == S3Credentials(accessKeyID: "ID-E", secretAccessKey: "s3cr3t-E", sessionToken: "t0k3n-E")
        )
        #expect(try await chain(variables, profile: "other").find(at: Self.time) == S3Credentials(accessKeyID: "ID-O", secretAccessKey: "S=E"))
        #expect(try await chain(["AWS_PROFILE": "other"]).find(at: Self.time).accessKeyID == "ID-O")
        #expect(try await chain([:]).find(at: Self.time).accessKeyID == "ID-D")
    }

    @Test("of both files are one profile; what is indented, commented or of elsewhere is passed over")
    func files() async throws {
        let credentials = try write("c", "# x\n[p]\naws_access_key_id = ID-C\n; y\n")
        let config = try write(
            "k",
            "[profile p]\nregion = eu-west-1\naws_access_key_id = ID-K\naws_secret_access_key = s3cr3t-K\ns3 =\n  aws_secret_access_key = no\n[p]\nregion = no\n[broken\nregion = no\n"
        )
        let found = try AWSProfiles.read { ["AWS_SHARED_CREDENTIALS_FILE": credentials, "AWS_CONFIG_FILE": config][$0] }
        #expect(found.profiles["p"] == ["aws_access_key_id": "ID-C", "aws_secret_access_key": "s3cr3t-K", "region": "eu-west-1"])
    }

    @Test("of a role by another profile, signed by that")
    func assumeRole() async throws {
        _ = try write(
            ".aws/config",
            "[profile r]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = b\nexternal_id = e/1\n[profile b]\naws_access_key_id=ID-B\naws_secret_access_key=s3cr3t-B\n"
        )
        let metadata = Metadata(answers: ["POST https://sts.eu-central-1.amazonaws.com/": sts("AssumeRole")])
        let found = try await chain([:], metadata, profile: "r").find(at: Self.time)
        #expect(
            found
                == S3Credentials(
                    accessKeyID: "ID-STS", secretAccessKey: "s3cr3t-STS", sessionToken: "t0k3n-STS", expires: Moment("2026-11-24T13:00:00Z")))
        let request = try #require(metadata.asked.all.first)
        #expect(
            String(decoding: request.body, as: UTF8.self)
                == "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=tidemark&ExternalId=e%2F1&Version=2011-06-15")
        #expect(request["authorization"]?.contains("ID-B/20261124/eu-central-1/sts/") == true)
        let refused = Metadata(answers: [
            "POST https://sts.eu-central-1.amazonaws.com/":
                "403<ErrorResponse><Error><Code>AccessDenied</Code><Message>s3cr3t</Message></Error></ErrorResponse>"
        ])
        let error = await refusal { try await self.chain([:], refused, profile: "r").find(at: Self.time) }
        #expect(error.message.contains("AccessDenied") && error.message.contains("role/x"))
    }

    @Test(
        "profiles that lead nowhere are refused by name",
        arguments: [
            ("c", "source_profile"), ("missing", "is not in"), ("lonely", "role_arn without"), ("mfa", "second factor"), ("base", "not there"),
        ])
    func badProfiles(_ name: String, _ why: String) async throws {
        _ = try write(
            ".aws/config",
            "[profile c]\nrole_arn=a\nsource_profile=d\n[profile d]\nrole_arn=b\nsource_profile=c\n[profile lonely]\nrole_arn=a\n[profile mfa]\nrole_arn=a\nmfa_serial=m\nsource_profile=c\n"
                + "[profile base]\nrole_arn=a\nsource_profile=empty\n[profile empty]\nregion=x\n")
        let error = await refusal { try await self.chain([:], profile: name).find(at: Self.time) }
        #expect(error.code == .storeRefused)
        #expect(error.message.contains(why), "\(error)")
    }

    @Test("of a web identity, by its file as it is now")
    func webIdentity() async throws {
        let path = try write("token", "t0k3n-W\n")
        let metadata = Metadata(answers: ["POST https://sts.eu-central-1.amazonaws.com/": sts("AssumeRoleWithWebIdentity")])
        let found = try await chain(["AWS_WEB_IDENTITY_TOKEN_FILE": path, "AWS_ROLE_ARN": "arn:r"], metadata).find(at: Self.time)
        #expect(found.accessKeyID == "ID-STS")
        let request = try #require(metadata.asked.all.first)
        #expect(String(decoding: request.body, as: UTF8.self).hasSuffix("&WebIdentityToken=t0k3n-W&Version=2011-06-15"))
        #expect(request["authorization"] == nil)
    }

    @Test("of a container, with its token; plain HTTP only to what is near")
    func container() async throws {
        let token = try write("token", "t0k3n-C\n")
        let metadata = Metadata(answers: ["GET http://169.254.170.2/v2/x": json, "GET http://127.0.0.1:81/x": json])
        #expect(try await chain(["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"], metadata).find(at: Self.time).accessKeyID == "ID-J")
        let variables = ["AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:81/x?a=b", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token]
        #expect(try await chain(variables, metadata).find(at: Self.time).sessionToken == "t0k3n-J")
        #expect(metadata.asked.all.last?["authorization"] == "t0k3n-C")
        #expect(metadata.asked.all.last?.encodedQuery == "a=b")
        for far in ["http://example.org/x", "http://127.0.0.1.example.org/x", "ftp://127.0.0.1/", "http://u@127.0.0.1/"] {
            let error = await refusal { try await self.chain(["AWS_CONTAINER_CREDENTIALS_FULL_URI": far], metadata).find(at: Self.time) }
            #expect(error.code == .storeRefused)
        }
    }

    @Test("of an instance, by version 2 of its metadata")
    func instance() async throws {
        let base = "http://169.254.169.254/latest"
        let metadata = Metadata(answers: [
            "PUT \(base)/api/token": "t0k3n-I", "GET \(base)/meta-data/iam/security-credentials/": "role-1\n",
            "GET \(base)/meta-data/iam/security-credentials/role-1": json,
        ])
        let found = try await chain([:], metadata).find(at: Self.time)
        #expect(found.accessKeyID == "ID-J" && found.expires == Moment("2026-11-24T13:00:00Z"))
        #expect(metadata.asked.all.dropFirst().allSatisfy { $0["x-aws-ec2-metadata-token"] == "t0k3n-I" })
        let without = Metadata(answers: ["PUT \(base)/api/token": "t0k3n-I", "GET \(base)/meta-data/iam/security-credentials/": "404"])
        #expect(await refusal { try await self.chain([:], without).find(at: Self.time) }.message.contains("no role belongs"))
    }

    @Test("that are nowhere: the places that were looked at are listed")
    func nowhere() async throws {
        let error = await refusal { try await self.chain([:]).find(at: Self.time) }
        for place in ["AWS_ACCESS_KEY_ID", "default", "AWS_WEB_IDENTITY_TOKEN_FILE", "container", "169.254.169.254 did not answer"] {
            #expect(error.message.contains(place))
        }
        let disabled = await refusal { try await self.chain(["AWS_EC2_METADATA_DISABLED": "true"]).find(at: Self.time) }
        #expect(disabled.message.contains("AWS_EC2_METADATA_DISABLED"))
    }

    @Test("are renewed minutes before their end, once for all who ask, and kept when that fails")
    func renewal() async throws {
        let found = Mutex(0)
        let fails = Mutex(false)
        let cache = S3CredentialCache { now in
            if fails.withLock({ $0 }) { throw ArchiveError(.storeUnavailable, "no") }
            try await Task.sleep(for: .milliseconds(20))
            return S3Credentials(
                accessKeyID: "\(found.withLock { $0 += 1; return $0 })", secretAccessKey: "s3cr3t", sessionToken: "t0k3n",
                expires: now.adding(seconds: 3600))
        }
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<10 { group.addTask { #expect(await (try? cache.value(at: Self.time))?.accessKeyID == "1") } }
        }
        #expect(try await cache.value(at: Self.time.adding(seconds: 3200)).accessKeyID == "1")
        #expect(try await cache.value(at: Self.time.adding(seconds: 3301)).accessKeyID == "2")
        fails.withLock { $0 = true }
        let held = try await cache.value(at: Self.time.adding(seconds: 3301 + 3580))
        #expect(held.accessKeyID == "2")
        _ = await refusal { try await cache.value(at: Self.time.adding(seconds: 3301 + 3595)) }
        fails.withLock { $0 = false }
        await cache.refuse(held)
        #expect(try await cache.value(at: Self.time).accessKeyID == "3")
    }

    @Test("that the service calls expired are renewed at once, and once for a request")
    func expired() async throws {
        let answers = Mutex(0)
        let server = ScriptedS3 { request, _ in
            if request.host.hasPrefix("169.254.170.2") {
                let number = answers.withLock {
                    $0 += 1; return $0
                }
                return ScriptedS3.xml(
                    200,
                    #"{"AccessKeyId":"AKIDTEST\#(number)","SecretAccessKey":"s3cr3t","Token":"t0k3n\#(number)","Expiration":"2026-11-24T13:00:00Z"}"#)
            }
            if request["x-amz-security-token"] == "t0k3n1" {
                return request.method == .head ? HTTPResponse(status: 400) : ScriptedS3.error(400, "ExpiredToken")
            }
            return nil
        }
        let environment = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x", "HOME": directory.path]
        try await server.store(environment: environment).put([1], at: ObjectKey(known: "a"))
        #expect(server.object("folder/a") == [1])
        #expect(answers.withLock { $0 } == 2)
        let never = ScriptedS3 { request, _ in
            if request.host.hasPrefix("169.254.170.2") {
                return ScriptedS3.xml(
                    200, #"{"AccessKeyId":"AKIDTEST","SecretAccessKey":"s3cr3t","Token":"t0k3n","Expiration":"2026-11-24T13:00:00Z"}"#)
            }
            return ScriptedS3.error(400, "ExpiredToken")
        }
        let error = await refusal { try await never.store(environment: environment).get(ObjectKey(known: "a")) }
        #expect(error.message.contains("expired"))
        #expect(never.asked(.get, "/a") == 2)
    }
}
