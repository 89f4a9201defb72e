import ArchiveCore

/// What S3 knows somebody by. Shown nowhere.
struct S3Credentials: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    var accessKeyID: String
    var secretAccessKey: String
    /// Of temporary credentials.
    var sessionToken: String?
    /// `nil`: for good.
    var expires: Moment?

    init(accessKeyID: String, secretAccessKey: String, sessionToken: String? = nil, expires: Moment? = nil) {
        self.accessKeyID = accessKeyID
        self.secretAccessKey = secretAccessKey
        self.sessionToken = sessionToken
        self.expires = expires
    }

    var description: String { sessionToken == nil ? "credentials" : "temporary credentials" }
    var debugDescription: String { description }
    var customMirror: Mirror { Mirror(self, children: []) }
}

/// What a place that may hold credentials had to say.
enum S3CredentialAnswer: Sendable {
    case found(S3Credentials)
    /// Nothing; why, in a few words for whoever wonders.
    case nothing(String)
}

/// Keeps the credentials, and gets new ones minutes before they expire; many who ask at once cause one look.
actor S3CredentialCache {
    /// Seconds before their end from which credentials are renewed, and until which old ones are used when that fails.
    static let margin = 300.0
    static let reserve = 10.0

    private let find: @Sendable (Moment) async throws -> S3Credentials
    private var held: S3Credentials?
    private var pending: Task<S3Credentials, any Error>?

    init(_ find: @escaping @Sendable (Moment) async throws -> S3Credentials) { self.find = find }

    /// - Throws: what finding them did, unless the old ones are good for a while.
    func value(at now: Moment) async throws -> S3Credentials {
        if let held, held.expires.map({ $0 - now > Self.margin }) ?? true { return held }
        let find = self.find
        let task = pending ?? Task { try await find(now) }
        pending = task
        do {
            let fresh = try await task.value
            if pending == task {
                pending = nil
                held = fresh
            }
            return fresh
        } catch {
            if pending == task { pending = nil }
            if let held, let expires = held.expires, expires - now > Self.reserve { return held }
            throw error
        }
    }

    /// The service called `credentials` expired: whoever asks next gets new ones.
    func refuse(_ credentials: S3Credentials) { if held == credentials { held = nil } }
}

/// Finds credentials where AWS's own programs look, in their order.
struct S3CredentialChain: Sendable {
    var environment: @Sendable (String) -> String?
    var files: @Sendable () async throws -> AWSProfiles
    var requests: AWSCredentialRequests
    /// As the archive's URL says: then the environment's own keys are passed over, as AWS's programs do.
    var profile: String?

    /// - Throws: `.storeRefused` that lists where it looked; what a place threw that is configured and does not work.
    func find(at now: Moment) async throws -> S3Credentials {
        var looked: [String] = []
        func take(_ place: String, _ answer: S3CredentialAnswer) -> S3Credentials? {
            switch answer {
            case .found(let credentials): return credentials
            case .nothing(let why):
                looked.append("\(place): \(why)")
                return nil
            }
        }
        if profile == nil {
            if let found = take("environment", fromEnvironment()) { return found }
        } else {
            looked.append("environment: passed over, as the URL names a profile")
        }
        let files = try await self.files()
        let name = profile ?? set("AWS_PROFILE") ?? "default"
        if let found = take("profile '\(name)'", try await fromProfile(name, files, at: now, behind: [])) { return found }
        if let file = set("AWS_WEB_IDENTITY_TOKEN_FILE"), let role = set("AWS_ROLE_ARN") {
            return try await requests.assume(role: role, session: set("AWS_ROLE_SESSION_NAME"), webIdentityFile: file, at: now)
        }
        looked.append("web identity: AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN are not both set")
        if let found = take("container", try await requests.container(at: now)) { return found }
        if let found = take("instance metadata", try await requests.instance(at: now)) { return found }
        throw ArchiveError(
            .storeRefused, "No credentials for S3 were found. Looked at: \(looked.joined(separator: "; ")).",
            remedy: "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to ~/.aws/credentials.")
    }

    private func set(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }

    private func fromEnvironment() -> S3CredentialAnswer {
        guard let id = set("AWS_ACCESS_KEY_ID") else { return .nothing("AWS_ACCESS_KEY_ID is not set") }
        guard let secret = set("AWS_SECRET_ACCESS_KEY") else { return .nothing("AWS_SECRET_ACCESS_KEY is not set") }
        return .found(S3Credentials(accessKeyID: id, secretAccessKey: secret, sessionToken: set("AWS_SESSION_TOKEN")))
    }

    /// - Parameter behind: the profiles that led to this one, so that a circle ends.
    private func fromProfile(_ name: String, _ files: AWSProfiles, at now: Moment, behind: [String]) async throws -> S3CredentialAnswer {
        func refuse(_ why: String) -> ArchiveError {
            ArchiveError(
                .storeRefused, "The profile '\(name)' \(why).",
                remedy: "Correct \(files.places), or name another profile with profile= or AWS_PROFILE.")
        }
        guard let settings = files.profiles[name] else {
            if behind.isEmpty, profile == nil, set("AWS_PROFILE") == nil { return .nothing("not in \(files.places)") }
            throw refuse("is not in \(files.places)")
        }
        guard !behind.contains(name), behind.count < 8 else { throw refuse("leads back to itself by source_profile") }
        // A profile that is its own source holds the keys that it assumes the role with.
        if let role = settings["role_arn"] {
            if let file = settings["web_identity_token_file"] {
                return .found(try await requests.assume(role: role, session: settings["role_session_name"], webIdentityFile: file, at: now))
            }
            guard settings["mfa_serial"] == nil else { throw refuse("wants a code of a second factor, which nobody can type here") }
            let source: S3CredentialAnswer
            if settings["source_profile"] == name {
                source = keys(settings)
            } else if let other = settings["source_profile"] {
                source = try await fromProfile(other, files, at: now, behind: behind + [name])
            } else {
                switch settings["credential_source"] {
                case "Environment": source = fromEnvironment()
                case "EcsContainer": source = try await requests.container(at: now)
                case "Ec2InstanceMetadata": source = try await requests.instance(at: now)
                default: throw refuse("has a role_arn without source_profile, credential_source or web_identity_token_file")
                }
            }
            guard case .found(let base) = source else { throw refuse("assumes a role with credentials that are not there") }
            return .found(
                try await requests.assume(
                    role: role, session: settings["role_session_name"], externalID: settings["external_id"], with: base, at: now))
        }
        return keys(settings)
    }

    private func keys(_ settings: [String: String]) -> S3CredentialAnswer {
        if let id = settings["aws_access_key_id"], let secret = settings["aws_secret_access_key"] {
            return .found(S3Credentials(accessKeyID: id, secretAccessKey: secret, sessionToken: settings["aws_session_token"]))
        }
        for other in ["credential_process", "sso_session", "sso_start_url"] where settings[other] != nil {
            return .nothing("it has \(other), which is not supported here")
        }
        return .nothing("it has no aws_access_key_id and aws_secret_access_key")
    }
}
