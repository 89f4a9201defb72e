import ArchiveCore
import Foundation

/// What may keep a bucket from holding an archive.
struct GCSExamination {
    private let service: GCSService
    private let writes: WriteOnce<GCSService>

    init(_ service: GCSService, _ writes: WriteOnce<GCSService>) {
        self.service = service
        self.writes = writes
    }

    func run() async -> [StoreFinding] {
        let requests = await service.examineRequests { try await writes.put($0, at: $1) }
        // Who may not even put has been told why.
        let conditions = requests.contains { $0.level == .failure } ? [] : await writes.examineConditions(of: service.description)
        return requests + conditions + (await service.examineClock()) + (await examineBucket())
    }

    private func examineBucket() async -> [StoreFinding] {
        do {
            let fields = "versioning,retentionPolicy,softDeletePolicy,lifecycle,defaultEventBasedHold"
            let request = service.request(.get, "", [("fields", fields)])
            let response = try await service.send(request, accepting: [200], to: "look at the bucket of \(service.description)", needing: "storage.buckets.get")
            let bucket = try JSONDecoder().decode(GCSBucket.self, from: Data(response.body))
            return Self.judge(bucket, for: service.location)
        } catch {
            let cause = finding(.warning, error)
            return [
                StoreFinding(
                    .warning, "the bucket's versioning, retention and lifecycle rules could not be looked at: \(cause.message)",
                    remedy: "Give the account storage.buckets.get (role roles/storage.legacyBucketReader), or look at them yourself.")
            ]
        }
    }

    /// What a bucket's settings mean to an archive.
    static func judge(_ bucket: GCSBucket, for location: GCSLocation) -> [StoreFinding] {
        var findings: [StoreFinding] = []
        let hasVersions = bucket.versioning?.enabled == true
        if location.needsVersioning {
            findings.append(
                hasVersions
                    ? StoreFinding(.ok, "the bucket keeps versions")
                    : StoreFinding(
                        .failure, "the bucket keeps no versions, and the archive's URL requires it",
                        remedy: "gcloud storage buckets update gs://\(location.bucket) --versioning"))
        }
        let period = bucket.retentionPolicy?.retentionPeriod.flatMap(UInt64.init)
        if location.needsRetention, period == nil {
            findings.append(
                StoreFinding(
                    .failure, "the bucket has no retention policy, and the archive's URL requires one",
                    remedy: "gcloud storage buckets update gs://\(location.bucket) --retention-period=30d"))
        }
        if let period {
            let text = "objects are kept at least \(time(period)) by the bucket's retention policy"
            findings.append(
                bucket.retentionPolicy?.isLocked == true
                    ? StoreFinding(.ok, text + ", which is locked")
                    : StoreFinding(
                        location.needsRetention ? .warning : .ok, text + "; it is not locked, whoever owns the bucket can take it away",
                        remedy: location.needsRetention ? "Lock it once you are sure: gcloud storage buckets update --lock-retention-period" : nil))
        }
        if let seconds = bucket.softDeletePolicy?.retentionDurationSeconds.flatMap(UInt64.init), seconds > 0 {
            findings.append(StoreFinding(.ok, "removed objects can be had back for \(time(seconds)) (soft delete)"))
        }
        if bucket.defaultEventBasedHold == true {
            findings.append(
                StoreFinding(
                    .warning, "the bucket holds every new object until somebody releases it (default event-based hold): nothing can be removed",
                    remedy: "Take it away unless you want it: gcloud storage buckets update gs://\(location.bucket) --no-default-event-based-hold"))
        }
        for rule in bucket.lifecycle?.rule ?? [] where rule.concernsLiveObjects(below: location.prefix) {
            let age = rule.condition?.age.map { "after \($0) days" } ?? "by its conditions"
            switch (rule.action.type, rule.action.storageClass) {
            case ("Delete", _):
                findings.append(
                    StoreFinding(
                        .failure, "a lifecycle rule of the bucket deletes the archive's objects \(age)",
                        remedy: "Remove the rule, or limit it by a prefix to what is not the archive: gcloud storage buckets describe gs://\(location.bucket)"))
            case ("SetStorageClass", "ARCHIVE"?):
                findings.append(
                    StoreFinding(
                        .warning, "a lifecycle rule of the bucket moves the archive's objects to class ARCHIVE \(age): reading and removing them costs extra",
                        remedy: "Limit the rule by a prefix to what is not the archive, unless you want this."))
            default: break
            }
        }
        return findings
    }

    private static func time(_ seconds: UInt64) -> String { seconds % 86_400 == 0 ? "\(seconds / 86_400) days" : "\(seconds) s" }
}

extension GCSBucket.Lifecycle.Rule {
    /// Whether the rule may act on a current version of an object whose name begins with `prefix`.
    func concernsLiveObjects(below prefix: String) -> Bool {
        guard let condition else { return true }
        guard condition.isLive != false, condition.numNewerVersions == nil, condition.daysSinceNoncurrentTime == nil, condition.noncurrentTimeBefore == nil else {
            return false
        }
        guard let prefixes = condition.matchesPrefix, !prefixes.isEmpty else { return true }
        return prefixes.contains { prefix.hasPrefix($0) || $0.hasPrefix(prefix) }
    }
}

extension GCSService: ExaminedService {
    func lists(_ key: ObjectKey) async throws -> Bool {
        let page = try await page(prefix: location.prefix + key.path, from: nil, delimiter: nil, limit: 10, token: nil)
        return page.items?.contains { $0.name == location.prefix + key.path } ?? false
    }

    func clocks() async throws -> (service: Moment, here: Moment)? {
        let key = WriteOnce<GCSService>.probe
        let request = request(.get, "/o/" + percentEncoded(location.prefix + key.path), [("fields", "name")])
        let response = try await send(request, accepting: [200, 404], to: "look at '\(key)'", needing: "storage.objects.get")
        return response["Date"].flatMap(HTTPDates.parse).map { ($0, now()) }
    }
}
