import ArchiveCore

/// What a service lets somebody in for, and until when.
struct AccessToken: Sendable {
    var value: String
    var expires: Moment
}

/// Keeps a token and gets a new one some minutes before it ends; many who ask at once cause one request.
actor TokenCache {
    /// Seconds before its end from which a token is renewed. Google's metadata server hands out the same token until five minutes
    /// before its end, so that asking earlier would be in vain.
    static let margin = 225.0

    private let fetch: @Sendable (Moment) async throws -> AccessToken
    private var token: AccessToken?
    private var pending: Task<AccessToken, any Error>?

    init(_ fetch: @escaping @Sendable (Moment) async throws -> AccessToken) { self.fetch = fetch }

    /// - Throws: what getting one did, unless the old one is good for a while.
    func value(at now: Moment) async throws -> String {
        if let token, token.expires - now > Self.margin { return token.value }
        let task = pending ?? Task { try await fetch(now) }
        pending = task
        do {
            let fresh = try await task.value
            if pending == task {
                pending = nil
                token = fresh
            }
            return fresh.value
        } catch {
            if pending == task { pending = nil }
            if let token, token.expires - now > 10 { return token.value }
            throw error
        }
    }

    /// The service would not take `value`: the next who asks gets a new one.
    func refuse(_ value: String) { if token?.value == value { token = nil } }
}
