import ArchiveCore

extension S3Store {
    /// Tries every permission on an object of its own, and looks at what else may keep the bucket from holding an archive.
    public func examine() async -> [StoreFinding] {
        var findings = await permissions()
        // With no answer at all, the rest would only say so again.
        guard service.skew != nil || findings.contains(where: { $0.level == .ok }) else { return findings }
        if let clock = Self.clock(service.skew) { findings.append(clock) }
        if service.location.versioning { findings.append(await versioning()) }
        if service.location.lock != nil { findings.append(await objectLock()) }
        findings += await lifecycle()
        return findings
    }

    private func failed(_ doing: String, _ error: any Error) -> StoreFinding {
        guard let error = error as? ArchiveError else { return StoreFinding(.failure, "\(doing): \(error)") }
        return StoreFinding(.failure, "\(doing): \(error.message)", remedy: error.remedy)
    }

    // MARK: Permissions and conditions

    private func permissions() async -> [StoreFinding] {
        var findings: [StoreFinding] = []
        let name = "\(Self.probeFolder)/\(hex(UInt64.random(in: .min ... .max), 16))"
        let probe = ObjectKey(known: name)
        let bytes = Array("tidemark check".utf8)
        var isThere = false
        do {
            try await put(bytes, at: probe)
            isThere = true
            findings.append(StoreFinding(.ok, "objects can be put (s3:PutObject)"))
        } catch { findings.append(failed("An object could not be put", error)) }
        do {
            guard try await get(probe, range: nil) == bytes || !isThere else {
                throw ArchiveError(.objectDamaged, "Other bytes came back than were put.")
            }
            findings.append(StoreFinding(.ok, "objects can be read (s3:GetObject)"))
        } catch let error as ArchiveError where error.code == .objectMissing && !isThere {
            findings.append(StoreFinding(.ok, "objects can be read (s3:GetObject)"))
        } catch { findings.append(failed("An object could not be read", error)) }
        do {
            let names = try await namesOfTrials()
            guard !isThere || names.contains(name) else { throw ArchiveError(.storeUnavailable, "An object that was just put is not listed.") }
            findings.append(StoreFinding(.ok, "objects can be listed (s3:ListBucket)"))
        } catch { findings.append(failed("Objects could not be listed", error)) }
        do {
            try await remove(probe)
            let isGone = try await look(probe) == nil
            guard isGone else { throw ArchiveError(.storeUnavailable, "An object that was removed is still there.") }
            findings.append(StoreFinding(.ok, "objects can be removed (s3:DeleteObject)"))
        } catch { findings.append(failed("An object could not be removed", error)) }
        guard isThere else { return findings }
        do {
            findings.append(
                try await refusesSecondWrite()
                    ? StoreFinding(.ok, "an object is written once: the server refuses a second write under its name (If-None-Match)")
                    : StoreFinding(
                        .warning, "the server does not honour conditional writes: before each put, it is looked whether the name is taken",
                        remedy: "Let one agent alone write to this archive, or use a server that honours If-None-Match on PutObject."))
        } catch { findings.append(failed("It could not be tried whether a second write is refused", error)) }
        return findings
    }

    // MARK: Clocks

    /// - Parameter skew: seconds that the server's clock is ahead.
    static func clock(_ skew: Double?) -> StoreFinding? {
        guard let skew else { return nil }
        let distance = Int(abs(skew).rounded())
        let words = "this machine's clock is \(distance) s \(skew > 0 ? "behind" : "ahead of") the server's"
        let remedy = "Keep it set with NTP: S3 refuses requests from 15 minutes on."
        if distance > 600 { return StoreFinding(.failure, words, remedy: remedy) }
        if distance > 60 { return StoreFinding(.warning, words, remedy: remedy) }
        return StoreFinding(.ok, distance < 2 ? "this machine's clock agrees with the server's" : words)
    }

    // MARK: The bucket's own settings

    /// - Returns: the document; `nil` where the bucket has none.
    private func settings(_ action: S3Request.Action, _ name: String, absent: Set<String> = []) async throws -> XMLElement? {
        let response = try await service.send(S3Request(action: action, method: .get, query: [(name, nil)]))
        if response.status == 200 { return try XMLElement.parse(response.body) }
        let answer = S3Answer(response)
        if let code = answer.code, absent.contains(code) { return nil }
        throw answer.error(action, service.location, key: nil, skew: service.skew)
    }

    private func unseen(_ what: String, _ error: any Error) -> StoreFinding {
        guard let error = error as? ArchiveError else { return StoreFinding(.warning, "\(what) could not be looked at: \(error)") }
        return StoreFinding(.warning, "\(what) could not be looked at: \(error.message)", remedy: error.remedy)
    }

    private func versioning() async -> StoreFinding {
        do {
            let status = try await settings(.versioning, "versioning")?["Status"]
            guard status == "Enabled" else {
                return StoreFinding(
                    .failure, "the bucket keeps no versions of objects, which versioning=required asks for",
                    remedy: "Run `aws s3api put-bucket-versioning --bucket \(service.location.bucket) --versioning-configuration Status=Enabled`.")
            }
            return StoreFinding(.ok, "the bucket keeps versions of objects")
        } catch { return unseen("whether the bucket keeps versions", error) }
    }

    private func objectLock() async -> StoreFinding {
        do {
            let found = try await settings(
                .objectLock, "object-lock", absent: ["ObjectLockConfigurationNotFoundError", "InvalidRequest", "NoSuchObjectLockConfiguration"])
            guard found?["ObjectLockEnabled"] == "Enabled" else {
                return StoreFinding(
                    .failure, "the bucket has no object lock, which lock= asks for: every put would fail",
                    remedy:
                        "Create a bucket with object lock, as `aws s3api create-bucket --object-lock-enabled-for-bucket` does, or leave lock= and retain= out."
                )
            }
            return StoreFinding(.ok, "the bucket locks objects")
        } catch { return unseen("whether the bucket locks objects", error) }
    }

    private func lifecycle() async -> [StoreFinding] {
        do {
            let found = try await settings(.lifecycle, "lifecycle", absent: ["NoSuchLifecycleConfiguration"])
            let rules = found.map { S3LifecycleRule.dangers(in: $0, prefix: service.location.prefix) } ?? []
            return rules.isEmpty ? [StoreFinding(.ok, "no lifecycle rule expires or moves objects of the archive")] : rules
        } catch { return [unseen("the bucket's lifecycle rules", error)] }
    }
}

/// A rule of GetBucketLifecycleConfiguration.
enum S3LifecycleRule {
    /// Where objects go to and cannot be read at once.
    private static let cold: Set<String> = ["GLACIER", "DEEP_ARCHIVE"]

    /// What rules would do to objects without tags whose names begin with `prefix`.
    static func dangers(in document: XMLElement, prefix: String) -> [StoreFinding] {
        document.all("Rule").flatMap { rule -> [StoreFinding] in
            guard rule["Status"] == "Enabled" else { return [] }
            let filter = rule.first("Filter")
            let scope = filter?.first("And") ?? filter
            // A rule for tagged objects does not touch those of an archive, which have none.
            guard scope?.first("Tag") == nil else { return [] }
            let covered = scope?["Prefix"] ?? rule["Prefix"] ?? ""
            guard covered.hasPrefix(prefix) || prefix.hasPrefix(covered) else { return [] }
            let id = rule["ID"].map { $0.isEmpty ? "without a name" : "'\($0)'" } ?? "without a name"
            var findings: [StoreFinding] = []
            if let expiration = rule.first("Expiration"), expiration["Days"] != nil || expiration["Date"] != nil {
                let when = expiration["Days"].map { "after \($0) days" } ?? "on a date"
                findings.append(
                    StoreFinding(
                        .failure, "the lifecycle rule \(id) deletes objects of the archive \(when)",
                        remedy: "Remove the rule, or keep it from '\(prefix)': what an archive needs is known to Tidemark alone."))
            }
            for transition in rule.all("Transition") {
                guard let storageClass = transition["StorageClass"], cold.contains(storageClass) else { continue }
                findings.append(
                    StoreFinding(
                        .failure,
                        "the lifecycle rule \(id) moves objects of the archive to \(storageClass), where a restore cannot read them at once",
                        remedy: "Remove the rule, or let it move objects to STANDARD_IA or GLACIER_IR."))
            }
            return findings
        }
    }
}
