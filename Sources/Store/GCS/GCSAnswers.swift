import ArchiveCore
import Foundation

/// What Google Cloud Storage's JSON API says of an object (cloud.google.com/storage/docs/json_api/v1/objects).
struct GCSObject: Decodable {
    var name: String?
    /// A number in quotes.
    var size: String?
    var md5Hash: String?
    var crc32c: String?
    var generation: String?
    /// RFC 3339.
    var retentionExpirationTime: String?
    var temporaryHold: Bool?
    var eventBasedHold: Bool?

    /// Until when it cannot be removed; `nil`: it can.
    var lockedUntil: Moment? {
        if temporaryHold == true || eventBasedHold == true { return Moment(rawValue: .max) }
        return retentionExpirationTime.map { Moment($0) ?? Moment(rawValue: .max) }
    }

    /// - Returns: `nil` for an answer without a size.
    var state: StoredState? {
        guard let size = size.flatMap(UInt64.init) else { return nil }
        return StoredState(
            size: size, md5: md5Hash.flatMap { Data(base64Encoded: $0) }.map(Array.init), crc32c: crc32c.flatMap(GCSHashes.crc32c), version: generation)
    }
}

struct GCSPage: Decodable {
    var items: [GCSObject]?
    var prefixes: [String]?
    var nextPageToken: String?
}

/// The parts of a bucket's description that matter to an archive.
struct GCSBucket: Decodable {
    struct Versioning: Decodable { var enabled: Bool? }
    struct Retention: Decodable {
        /// Seconds, in quotes.
        var retentionPeriod: String?
        var isLocked: Bool?
    }
    struct SoftDelete: Decodable { var retentionDurationSeconds: String? }
    struct Lifecycle: Decodable {
        struct Rule: Decodable {
            struct Action: Decodable {
                var type: String
                var storageClass: String?
            }
            struct Condition: Decodable {
                /// Days.
                var age: Int?
                var isLive: Bool?
                var matchesPrefix: [String]?
                var numNewerVersions: Int?
                var daysSinceNoncurrentTime: Int?
                var noncurrentTimeBefore: String?
            }
            var action: Action
            var condition: Condition?
        }
        var rule: [Rule]?
    }
    var versioning: Versioning?
    var retentionPolicy: Retention?
    var softDeletePolicy: SoftDelete?
    var lifecycle: Lifecycle?
    var defaultEventBasedHold: Bool?
}

enum GCSHashes {
    /// Four bytes, the highest first, in base64.
    static func crc32c(_ text: String) -> UInt32? {
        guard let data = Data(base64Encoded: text), data.count == 4 else { return nil }
        return data.reduce(0) { $0 << 8 | UInt32($1) }
    }

    static func text(crc32c value: UInt32) -> String {
        Data([UInt8(value >> 24), UInt8(value >> 16 & 255), UInt8(value >> 8 & 255), UInt8(value & 255)]).base64EncodedString()
    }

    /// What the headers `x-goog-hash` (`crc32c=…`, `md5=…`, in one or several) say of a whole object.
    static func stated(in response: HTTPResponse) -> (crc32c: UInt32?, md5: [UInt8]?) {
        var result: (crc32c: UInt32?, md5: [UInt8]?)
        for header in response.headers where header.name.lowercased() == "x-goog-hash" {
            for item in header.value.split(separator: ",") {
                let parts = item.split(separator: "=", maxSplits: 1)
                guard parts.count == 2 else { continue }
                let value = parts[1].trimmingCharacters(in: .whitespaces)
                switch parts[0].trimmingCharacters(in: .whitespaces) {
                case "crc32c": result.crc32c = crc32c(value)
                case "md5": result.md5 = Data(base64Encoded: value).map(Array.init)
                default: break
                }
            }
        }
        return result
    }
}

/// Why Google Cloud Storage would not do something.
struct GCSRefusal: Sendable {
    var status: Int
    /// Where a redirection leads.
    var redirection: String?
    /// Such as `retentionPolicyNotMet`.
    var reason: String?
    /// Such as `storage.objects.create`, where the answer names one.
    var permission: String?
    /// Whether the answer is about the bucket.
    var lacksBucket: Bool
    /// Whether the bytes that arrived did not have the checksum that was sent along.
    var mismatch: Bool

    init(_ response: HTTPResponse) {
        struct Body: Decodable {
            struct Failure: Decodable {
                struct Item: Decodable { var reason: String? }
                var message: String?
                var errors: [Item]?
            }
            var error: Failure
        }
        let failure = response.body.count > 1 << 16 ? nil : try? JSONDecoder().decode(Body.self, from: Data(response.body)).error
        let message = failure?.message ?? ""
        status = response.status
        redirection = response.redirection
        reason = shownCode(failure?.errors?.first?.reason)
        permission = message.split { $0 == " " || $0 == "'" || $0 == "\"" || $0 == "," }
            .first { $0.hasPrefix("storage.") && $0.split(separator: ".").count == 3 }
            .flatMap { shownCode(String($0).trimmingCharacters(in: .punctuationCharacters)) }
        lacksBucket = message.contains("bucket does not exist")
        mismatch = status == 400 && (message.contains("match calculated") || message.contains("match the"))
    }

    /// What an answer means to `HTTPClient`.
    static func verdict(_ response: HTTPResponse) -> Verdict {
        switch response.status {
        case 429, 503: return .slower("status \(response.status)")
        case 408, 500, 502, 504: return .again("status \(response.status)")
        case 403:
            let reason = GCSRefusal(response).reason ?? ""
            return reason.lowercased().contains("ratelimitexceeded") ? .slower(reason) : .done
        default: return .done
        }
    }

    /// - Parameters:
    ///   - doing: such as `put 'a/b' into gs://bucket`.
    ///   - needed: the permission that this takes.
    func error(_ doing: String, bucket: String, needing needed: String) -> ArchiveError {
        let shown = "status \(status)" + (reason.map { ", \($0)" } ?? "")
        func refused(_ why: String, _ remedy: String) -> ArchiveError {
            ArchiveError(.storeRefused, "Google Cloud Storage would not \(doing): \(why) (\(shown)).", remedy: remedy)
        }
        switch (status, reason) {
        case (400, "userProjectMissing"):
            return refused("who reads from this bucket must pay, and no project is named", "Name one: ?user-project=PROJECT.")
        case (401, _):
            return refused(
                "the credentials are not accepted",
                "See whether the key or the account is still valid, and name credentials by GOOGLE_APPLICATION_CREDENTIALS or ?credentials=FILE.")
        case (403, "retentionPolicyNotMet"), (403, "objectUnderActiveHold"), (403, "objectRetentionPolicyNotMet"):
            return refused(
                "the bucket's retention policy or a hold keeps the object", "Wait until its time has passed; what must be kept longer than Tidemark keeps it stays.")
        case (403, "accountDisabled"), (403, "UserProjectAccountProblem"), (403, "userProjectAccountProblem"):
            return refused("billing of the project is disabled", "Enable it in the console of Google Cloud.")
        case (403, _):
            return refused(
                "permission \(permission ?? needed) is missing",
                "Give the account the role roles/storage.objectAdmin on bucket \(bucket), or one with \(permission ?? needed).")
        case (404, _): return refused("there is no bucket \(bucket)", "Create it, or name another in the URL.")
        default: return refused("it answered so", strangeAnswerRemedy(redirection))
        }
    }
}
