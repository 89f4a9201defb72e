import ArchiveCore

/// Why Azure Blob Storage would not do something (learn.microsoft.com/rest/api/storageservices/blob-service-error-codes).
struct AzureRefusal: Sendable {
    var status: Int
    /// Where a redirection leads.
    var redirection: String?
    /// Such as `AuthorizationPermissionMismatch`. The text beside it is never used: it repeats signatures.
    var code: String?

    init(_ response: HTTPResponse) {
        status = response.status
        redirection = response.redirection
        code = shownCode(response["x-ms-error-code"])
        if code == nil, response.body.count <= 1 << 16 { code = shownCode((try? XMLElement.parse(withoutMark(response.body)))?["Code"]) }
    }

    /// What an answer means to `HTTPClient`.
    static func verdict(_ response: HTTPResponse) -> Verdict {
        switch response.status {
        case 429, 503: .slower("status \(response.status)")
        case 408, 500, 502, 504: .again("status \(response.status)")
        default: .done
        }
    }

    /// - Parameters:
    ///   - doing: such as `put 'a/b' into azblob://container`.
    ///   - needed: what a SAS token must allow, such as `c` for create.
    func error(_ doing: String, container: String, needing needed: String) -> ArchiveError {
        let shown = "status \(status)" + (code.map { ", \($0)" } ?? "")
        func refused(_ why: String, _ remedy: String) -> ArchiveError {
            ArchiveError(.storeRefused, "Azure Blob Storage would not \(doing): \(why) (\(shown)).", remedy: remedy)
        }
        switch (status, code) {
        case (_, "AuthenticationFailed"), (401, _):
            return refused(
                "the credentials are not accepted", "See whether the key, SAS token or identity is right and not expired, and this machine's clock is right.")
        case (_, "AuthorizationPermissionMismatch"), (_, "InsufficientAccountPermissions"):
            return refused(
                "permission is missing",
                "Give the identity the role Storage Blob Data Contributor on container \(container), or let the SAS token allow '\(needed)' (sp=racwdl).")
        case (_, "AuthorizationServiceMismatch"), (_, "AuthorizationResourceTypeMismatch"):
            return refused("the SAS token is not for this", "Make one for the Blob service and for containers and objects (ss=b, srt=co), or for the container (sr=c).")
        case (_, "AuthorizationSourceIPMismatch"), (_, "AuthorizationFailure"):
            return refused("the account's network rules or settings keep this machine out", "Allow this machine's network in the account's Networking page.")
        case (_, "AuthorizationProtocolMismatch"), (_, "AccountRequiresHttps"): return refused("it must be asked by https://", "Use https:// in the endpoint.")
        case (_, "KeyBasedAuthenticationNotPermitted"):
            return refused("the account allows no shared keys", "Use a managed identity or workload identity: unset AZURE_STORAGE_KEY.")
        case (_, "AccountIsDisabled"): return refused("the account is disabled", "Enable it, or pay the subscription.")
        case (_, "BlobImmutableDueToPolicy"), (_, "ContainerProtectedFromDeletion"):
            return refused(
                "an immutability policy or a legal hold keeps the blob", "Wait until its time has passed; what must be kept longer than Tidemark keeps it stays.")
        case (_, "BlobArchived"):
            return refused("the blob is in the Archive tier", "Rehydrate it (set its tier to Hot, which takes hours), and remove the rule that archived it.")
        case (_, "ContainerNotFound"), (404, nil), (404, "ResourceNotFound"):
            return refused("there is no container \(container)", "Create it, or name another in the URL.")
        case (_, "ContainerBeingDeleted"): return refused("the container is being deleted", "Use another, or wait and create it anew.")
        case (_, "InvalidHeaderValue"), (_, "UnsupportedHeader"):
            return refused("it does not know something that was asked", "See whether the access tier is one that this account has.")
        case (403, _): return refused("permission is missing", "Give the identity the role Storage Blob Data Contributor on container \(container).")
        default: return refused("it answered so", strangeAnswerRemedy(redirection))
        }
    }
}

/// Azure's documents begin with a byte order mark, which no reader of XML needs in UTF-8.
func withoutMark(_ bytes: [UInt8]) -> [UInt8] { bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? Array(bytes.dropFirst(3)) : bytes }
