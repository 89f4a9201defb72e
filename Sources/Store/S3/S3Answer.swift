import ArchiveCore

/// What an answer of S3 says that is no success ("Error responses", Amazon S3 API reference).
struct S3Answer: Sendable {
    var status: Int
    /// Such as `NoSuchKey`; `nil` where the answer has no body, as to HEAD.
    var code: String?
    /// The header that is not implemented, the region that is right, and the address that is.
    var header: String?
    var region: String?
    var endpoint: String?
    /// Where a redirection leads: `scheme://host`.
    var redirection: String?
    /// Whether a failure came with a body that is none of S3's, such as a web server's page.
    var isForeign = false

    /// Why a request is sent again after new credentials.
    static let renewal = "the credentials had expired"

    init(_ response: HTTPResponse) {
        status = response.status
        region = shownCode(response["x-amz-bucket-region"])
        redirection = response.redirection
        guard status >= 300, !response.body.isEmpty else { return }
        guard response.body.count <= 1 << 16, let root = try? XMLElement.parse(response.body), root.name == "Error" else {
            isForeign = true
            return
        }
        code = shownCode(root["Code"])
        header = shownCode(root["Header"])
        region = region ?? shownCode(root["Region"])
        endpoint = shownCode(root["Endpoint"])
    }

    private static let throttled: Set<String> = [
        "SlowDown", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException", "BandwidthLimitExceeded",
    ]
    /// Faults of the way or of the moment.
    private static let passing: Set<String> = [
        "InternalError", "ServiceUnavailable", "RequestTimeout", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict", "BadDigest",
        "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ServerTimeout",
    ]
    private static let expired: Set<String> = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"]

    /// - Parameter mayRenew: whether the credentials are temporary and were not renewed yet for this request.
    func verdict(isHead: Bool, mayRenew: Bool) -> Verdict {
        let words = "HTTP \(status)" + (code.map { " \($0)" } ?? "")
        if status == 429 || status == 503 || code.map(Self.throttled.contains) == true { return .slower(words) }
        if code.map(Self.passing.contains) == true || [408, 500, 502, 504].contains(status) { return .again(words) }
        if status == 409, code == nil { return .again(words) }
        // The answer to HEAD does not say why.
        if mayRenew, code.map(Self.expired.contains) == true || isHead && (status == 400 || status == 403) { return .again(Self.renewal) }
        return .done
    }

    /// What an administrator is told.
    ///
    /// - Parameter skew: seconds that the server's clock is ahead of ours.
    func error(_ action: S3Request.Action, _ location: S3Location, key: String?, skew: Double?) -> ArchiveError {
        let what = key.map { "\(action.rawValue) of '\($0)'" } ?? action.rawValue
        let words = "HTTP \(status)" + (code.map { " \($0)" } ?? "")
        func refuse(_ why: String, _ remedy: String) -> ArchiveError {
            ArchiveError(.storeRefused, "\(location) refused \(what): \(why) (\(words)).", remedy: remedy)
        }
        switch code {
        case "SignatureDoesNotMatch":
            return refuse(
                "the signature is not what the server computed", "Check the secret access key, the region, and that no proxy changes requests.")
        case "InvalidAccessKeyId":
            return refuse("it does not know the access key", "Check the access key, and that the endpoint is the one that it belongs to.")
        case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken":
            return refuse(
                "the session token is expired or wrong", "Get new temporary credentials, or let them come from a role, which renews them by itself.")
        case "RequestTimeTooSkewed":
            let measured = skew.map { seconds in "our clock is \(Int(abs(seconds).rounded())) s \(seconds > 0 ? "behind" : "ahead of") the server's" }
            return refuse(measured ?? "our clock is too far from the server's", "Set this machine's clock, and keep it set with NTP.")
        case "NoSuchBucket": return refuse("there is no bucket '\(location.bucket)'", "Create it, or correct the archive's URL.")
        case "InvalidObjectState":
            return refuse(
                "the object was moved to a storage class that cannot be read at once",
                "Restore it with `aws s3api restore-object`, and end the rule that moved it.")
        case "NotImplemented":
            return refuse(
                "it does not support the header '\(header ?? "that was sent")'", "Leave the option that asks for it out of the archive's URL.")
        case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect": return wrongPlace(refuse)
        case "AccessDenied", "AllAccessDisabled", "AccessForbidden", "UnauthorizedAccess", "AccountProblem": return denied(action, location, refuse)
        case "InvalidRequest", "InvalidArgument", "InvalidStorageClass", "KMS.NotFoundException", "InvalidEncryptionAlgorithmError":
            return refuse(
                "an option of the archive's URL does not suit the bucket",
                "See that storage-class, sse, lock and checksum are what this service supports.")
        default: break
        }
        switch status {
        case 301, 302, 307, 308: return wrongPlace(refuse)
        case 400 where region != nil && region != location.region: return wrongPlace(refuse)
        case 401, 403: return denied(action, location, refuse)
        case 404 where isForeign:
            let place = location.endpoint.map { "at \($0.host)" } ?? "there"
            return refuse("what answers \(place) may not be S3", "Correct the endpoint, or what stands in front of it.")
        case 404: return refuse("it is not there", "See that the bucket exists, and that the endpoint speaks S3.")
        case 405, 501: return refuse("it does not know this request", "Check that the endpoint speaks S3.")
        default:
            return ArchiveError(
                .storeUnavailable, "\(location) did not do \(what): \(words).", remedy: "See what the service's log says; it is tried again.")
        }
    }

    private func wrongPlace(_ refuse: (String, String) -> ArchiveError) -> ArchiveError {
        if let region { return refuse("the bucket is in the region \(region)", "Add region=\(region) to the archive's URL.") }
        if let endpoint { return refuse("the bucket is at \(endpoint)", "Add endpoint=https://… or region= of that address to the archive's URL.") }
        if let redirection { return refuse("the server redirects to \(redirection)", "Correct endpoint= in the archive's URL.") }
        return refuse("the bucket is in another region", "Add the bucket's region to the archive's URL: region=….")
    }

    private func denied(_ action: S3Request.Action, _ location: S3Location, _ refuse: (String, String) -> ArchiveError) -> ArchiveError {
        var permissions = action.permission
        let resource =
            action == .list || action == .versioning || action == .objectLock || action == .lifecycle
            ? "arn:aws:s3:::\(location.bucket)" : "arn:aws:s3:::\(location.bucket)/\(location.prefix)*"
        if action == .put, location.lock != nil { permissions += " and s3:PutObjectRetention" }
        if action == .put, location.encryption?.hasPrefix("aws:kms") == true { permissions += ", and kms:GenerateDataKey on the key," }
        // Without leave to list, S3 denies what is merely not there.
        let listing = action == .get || action == .head ? ", and s3:ListBucket on the bucket, without which a missing object looks forbidden" : ""
        return refuse("it is not allowed", "Allow \(permissions) on \(resource)\(listing); see also the bucket's own policy.")
    }
}
