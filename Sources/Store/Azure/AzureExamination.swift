import ArchiveCore

/// What may keep a container from holding an archive, as far as the Blob service itself shows it: an account's versioning, soft delete
/// and lifecycle rules are shown to administrators only.
struct AzureExamination {
    private let service: AzureService
    private let writes: WriteOnce<AzureService>

    init(_ service: AzureService, _ writes: WriteOnce<AzureService>) {
        self.service = service
        self.writes = writes
    }

    func run() async -> [StoreFinding] {
        let requests = await service.examineRequests { try await writes.put($0, at: $1) }
        // Who may not even put has been told why.
        let conditions = requests.contains { $0.level == .failure } ? [] : await writes.examineConditions(of: service.description)
        return requests + conditions + (await service.examineClock()) + (await examineContainer())
    }

    /// Looks at the container's own headers (Get Container Properties).
    private func examineContainer() async -> [StoreFinding] {
        do {
            let request = service.request(.head, query: [("restype", "container")])
            let response = try await service.send(request, accepting: { _ in false }, to: "look at the container of \(service.description)", needing: "r")
            return Self.judge(response)
        } catch {
            return [
                StoreFinding(
                    .warning, "the container's immutability policy could not be looked at: \(finding(.warning, error).message)",
                    remedy: "Give the identity the role Storage Blob Data Contributor, or an account SAS with srt=co, or look at it in the portal.")
            ]
        }
    }

    /// What the headers mean to an archive.
    static func judge(_ response: HTTPResponse) -> [StoreFinding] {
        func says(_ name: String) -> Bool { response[name]?.lowercased() == "true" }
        var findings: [StoreFinding] = []
        if says("x-ms-has-immutability-policy") {
            findings.append(StoreFinding(.ok, "the container has an immutability policy: blobs cannot be removed before its time has passed"))
        }
        if says("x-ms-has-legal-hold") {
            findings.append(
                StoreFinding(
                    .warning, "the container is under a legal hold: nothing in it can be removed, and old bases pile up", remedy: "Clear the hold when it is over."))
        }
        if let access = response["x-ms-blob-public-access"] {
            findings.append(
                StoreFinding(
                    .failure, "the container is public (\(shownCode(access) ?? "access")): anyone can read the archive",
                    remedy: "Set its access level to private, and rotate what the archive may hold of secrets."))
        }
        findings.append(
            StoreFinding(
                .ok, "whether the account keeps versions, or has lifecycle rules that delete or archive blobs, is not shown by the Blob service",
                remedy: "Look at the account's Data protection and Lifecycle management pages."))
        return findings
    }
}

extension AzureService: ExaminedService {
    func lists(_ key: ObjectKey) async throws -> Bool {
        try await page(prefix: location.prefix + key.path, delimiter: nil, limit: 10, marker: nil).blobs.contains { $0.name == location.prefix + key.path }
    }

    func clocks() async throws -> (service: Moment, here: Moment)? {
        let key = WriteOnce<AzureService>.probe
        let response = try await send(request(.head, key), accepting: { $0.isMissing }, to: "look at '\(key)'", needing: "r")
        return response["Date"].flatMap(HTTPDates.parse).map { ($0, now()) }
    }
}
