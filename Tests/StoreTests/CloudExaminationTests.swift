import ArchiveCore
import Foundation
import Testing

@testable import Store

@Suite("What check tells of the clouds")
struct CloudExaminationTests {
    private func judge(_ json: String, _ url: String = "gs://bucket/tm/one") throws -> [StoreFinding] {
        guard case .gcs(let location) = try StoreLocation(url) else { throw ArchiveError(.usage, "no bucket") }
        return GCSExamination.judge(try JSONDecoder().decode(GCSBucket.self, from: Data(json.utf8)), for: location)
    }

    @Test("lifecycle rules that would eat the archive", arguments: [
        (#"{"action":{"type":"Delete"},"condition":{"age":30}}"#, StoreFinding.Level.failure), (#"{"action":{"type":"Delete"}}"#, .failure),
        (#"{"action":{"type":"Delete"},"condition":{"age":30,"matchesPrefix":["tm/"]}}"#, .failure),
        (#"{"action":{"type":"Delete"},"condition":{"age":30,"matchesPrefix":["logs/","tm/one/wal/"]}}"#, .failure),
        (#"{"action":{"type":"SetStorageClass","storageClass":"ARCHIVE"},"condition":{"age":30}}"#, .warning),
        (#"{"action":{"type":"Delete"},"condition":{"age":30,"matchesPrefix":["logs/"]}}"#, .ok),
        (#"{"action":{"type":"Delete"},"condition":{"isLive":false}}"#, .ok), (#"{"action":{"type":"Delete"},"condition":{"numNewerVersions":3}}"#, .ok),
        (#"{"action":{"type":"Delete"},"condition":{"daysSinceNoncurrentTime":7}}"#, .ok),
        (#"{"action":{"type":"AbortIncompleteMultipartUpload"},"condition":{"age":1}}"#, .ok),
        (#"{"action":{"type":"SetStorageClass","storageClass":"NEARLINE"},"condition":{"age":30}}"#, .ok),
    ])
    func lifecycle(_ rule: String, _ level: StoreFinding.Level) throws {
        let findings = try judge(#"{"lifecycle":{"rule":[\#(rule)]}}"#)
        #expect(findings.map(\.level) == (level == .ok ? [] : [level]))
        #expect(findings.allSatisfy { $0.message.contains("lifecycle rule") && $0.remedy != nil })
    }

    @Test("versioning and retention, where the URL requires them")
    func required() throws {
        #expect(try judge("{}").isEmpty)
        let url = "gs://bucket/tm?versioning=required&retention=required"
        #expect(try judge("{}", url).map(\.level) == [.failure, .failure])
        let good = #"{"versioning":{"enabled":true},"retentionPolicy":{"retentionPeriod":"2592000","isLocked":true}}"#
        #expect(try judge(good, url).map(\.message) == ["the bucket keeps versions", "objects are kept at least 30 days by the bucket's retention policy, which is locked"])
        let open = #"{"versioning":{"enabled":true},"retentionPolicy":{"retentionPeriod":"3601"}}"#
        #expect(try judge(open, url).map(\.level) == [.ok, .warning])
        #expect(try judge(#"{"softDeletePolicy":{"retentionDurationSeconds":"604800"},"defaultEventBasedHold":true}"#).map(\.level) == [.ok, .warning])
    }

    @Test("each permission that is missing is named", arguments: [
        (HTTPRequest.Method.post, "storage.objects.create", StoreFinding.Level.failure), (.delete, "storage.objects.delete", .warning),
    ])
    func permissions(_ method: HTTPRequest.Method, _ permission: String, _ level: StoreFinding.Level) async throws {
        let bucket = ScriptedBucket()
        let transport = ScriptedTransport { request in
            if request.method == method { return try bucket.refusal(403, "forbidden", "x does not have \(permission) access to the object.") }
            if request.path.hasSuffix("/o") && request.method == .get {
                let items = bucket.objects.withLock { $0.keys.sorted() }.map { ["name": $0, "size": "1"] }
                return try json(["items": items])
            }
            if request.path.hasSuffix("/b/bucket") { return try bucket.refusal(403, "forbidden", "x does not have storage.buckets.get access to the bucket.") }
            return try bucket.answer(request)
        }
        let findings = try await openScripted("gs://bucket?credentials=none", transport).examine()
        #expect(findings.contains { $0.level == level && $0.message.contains("permission \(permission) is missing") && $0.remedy?.contains("roles/storage.objectAdmin") == true }, "\(findings)")
        #expect(findings.contains { $0.level == .warning && $0.message.contains("storage.buckets.get") })
        #expect(findings.filter { $0.level == .failure }.count == (level == .failure ? 1 : 0))
    }

    @Test("clocks that differ", arguments: [(0.0, StoreFinding.Level.ok), (59, .ok), (-61, .warning), (599, .warning), (601, .failure), (-4000, .failure)])
    func clocks(_ skew: Double, _ level: StoreFinding.Level) async throws {
        let bucket = ScriptedBucket()
        let transport = ScriptedTransport { request in
            guard !request.path.hasSuffix("/o") || request.method == .post, !request.path.hasSuffix("/b/bucket") else { return try json([:]) }
            var answer = try bucket.answer(request)
            answer.headers.append(("Date", HTTPDates.text(scriptedTime.adding(seconds: -skew))))
            return answer
        }
        let findings = try await openScripted("gs://bucket?credentials=none", transport).examine()
        let clock = try #require(findings.first { $0.message.contains("clock") })
        #expect(clock.level == level, "\(clock)")
        #expect(level == .ok || clock.message.contains("\(Int(abs(skew))) s \(skew < 0 ? "behind" : "ahead of")"))
    }

    @Test("a container's own headers")
    func container() {
        let quiet = AzureExamination.judge(HTTPResponse(status: 200, headers: [("x-ms-has-immutability-policy", "false"), ("x-ms-has-legal-hold", "false")]))
        #expect(quiet.map(\.level) == [.ok])
        let loud = AzureExamination.judge(
            HTTPResponse(status: 200, headers: [("x-ms-has-immutability-policy", "true"), ("x-ms-has-legal-hold", "true"), ("x-ms-blob-public-access", "container")]))
        #expect(loud.map(\.level) == [.ok, .warning, .failure, .ok])
    }
}
