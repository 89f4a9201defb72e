import ArchiveCore

/// What an answer means to whoever asked.
public enum Verdict: Sendable, Hashable {
    /// Whatever it says, it is final: the caller looks at it.
    case done
    /// The same request may succeed a little later; why, in a few words.
    case again(String)
    /// As `again`, and the server wants fewer requests at once.
    case slower(String)
}

/// Sends requests to one service, repeats those that may succeed later, and finds out how many at once the service takes.
public final class HTTPClient: Sendable {
    private let transport: any HTTPTransport
    /// What people call the service, such as `s3://bucket`.
    private let service: String
    private let now: @Sendable () -> Moment
    private let policy: RetryPolicy
    private let pacing: Pacing
    private let gate: RequestGate
    private let ledger: RepeatLedger

    /// - Parameter tell: takes a sentence about requests that had to be repeated, now and then.
    public init(
        _ transport: any HTTPTransport, service: String, now: @escaping @Sendable () -> Moment, policy: RetryPolicy = RetryPolicy(),
        limit: AdaptiveLimit = AdaptiveLimit(), pacing: Pacing = .real, telling tell: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        self.transport = transport
        self.service = service
        self.now = now
        self.policy = policy
        self.pacing = pacing
        gate = RequestGate(limit)
        ledger = RepeatLedger(service: service, tell: tell)
    }

    /// How many requests at once the service takes, as far as is known.
    public var concurrency: Int { gate.limit }

    /// - Parameters:
    ///   - prepare: signs the request; called before each attempt, with the time of day. It must not send requests through this client,
    ///     whose places may all be taken by those who wait for it.
    ///   - judge: what an answer means; called for each whole answer.
    /// - Returns: the first answer that is `.done`.
    /// - Throws: `.storeUnavailable` when attempts or patience are used up, with the last reason, or when none could help;
    ///   `CancellationError`; what `prepare` throws.
    public func send(
        _ request: HTTPRequest, preparing prepare: @Sendable (HTTPRequest, Moment) async throws -> HTTPRequest,
        judging judge: @Sendable (HTTPResponse) -> Verdict
    ) async throws -> HTTPResponse {
        let start = pacing.seconds()
        var attempt = 1
        while true {
            let failure: Failure
            switch try await self.attempt(request, prepare, judge) {
            case .success(let response): return response
            case .failure(let reason): failure = reason
            }
            let elapsed = pacing.seconds() - start
            let own = policy.pause(after: attempt, random: pacing.random(), wish: nil)
            let pause = max(own, min(failure.wish ?? 0, Self.longestWish))
            let patience = failure.kind == .unknownName ? min(policy.patience, RetryPolicy.patienceForNames) : policy.patience
            guard failure.mayPass, attempt < policy.attempts, elapsed + pause <= patience else {
                var failure = failure
                if let wish = failure.wish, elapsed + own <= patience, elapsed + pause > patience {
                    failure.reason += ", and asks to wait for \(Int(min(wish, 1e15).rounded())) s, longer than a request is repeated"
                }
                throw unavailable(request, failure, attempts: attempt, seconds: elapsed)
            }
            ledger.add(failure.reason, at: pacing.seconds())
            try await pacing.sleep(pause)
            attempt += 1
        }
    }

    /// Seconds that a server is waited for at most, whatever it asks.
    private static let longestWish = 60.0

    /// Why an attempt brought no answer that counts.
    private struct Failure: Error {
        var reason: String
        /// Seconds that the server asks to wait.
        var wish: Double?
        /// `nil`: an answer came.
        var kind: HTTPFailure.Kind?
        var mayPass: Bool { kind.map(HTTPClient.mayPass) ?? true }
    }

    private func attempt(
        _ request: HTTPRequest, _ prepare: @Sendable (HTTPRequest, Moment) async throws -> HTTPRequest, _ judge: @Sendable (HTTPResponse) -> Verdict
    ) async throws -> Result<HTTPResponse, Failure> {
        let round = try await gate.enter()
        var outcome = RequestGate.Outcome.failure
        defer { gate.leave(round, outcome) }
        do {
            // Signed in here and not before: a signature that waited in line would be old.
            let response = try await transport.send(try await prepare(request, now()))
            switch judge(response) {
            case .done:
                outcome = .success
                return .success(response)
            case .again(let reason): return .failure(Failure(reason: reason, wish: response.retryAfter(now: now())))
            case .slower(let reason):
                outcome = .slower
                return .failure(Failure(reason: reason, wish: response.retryAfter(now: now())))
            }
        } catch let failure as HTTPFailure {
            if failure.kind == .cancelled { throw CancellationError() }
            if failure.kind == .timeout { outcome = .slower }
            return .failure(Failure(reason: failure.message, kind: failure.kind))
        }
    }

    /// Whether the same request may succeed later.
    private static func mayPass(_ kind: HTTPFailure.Kind) -> Bool {
        switch kind {
        case .unreachable, .unknownName, .timeout, .cut, .malformed, .cancelled: true
        case .tls, .plain, .tooLong, .proxy, .request: false
        }
    }

    private static func remedy(_ kind: HTTPFailure.Kind?) -> String {
        switch kind {
        case nil, .unreachable, .timeout, .cut, .malformed, .cancelled: "See whether the service is up and can be reached from here."
        case .unknownName: "Correct the host's or the proxy's name, or see to this machine's name service."
        case .plain: "This port speaks no TLS: write http:// in the endpoint, or name another port."
        case .tls:
            "Name the file with its authority's certificate as ca-file=/path/ca.pem in the archive's URL, or correct the server's certificate."
        case .tooLong: "See what answers at this address: it may not be the store."
        case .proxy: "Give the proxy's user and password in https_proxy, or let the proxy pass this host, or name it in no_proxy."
        case .request: "Correct the archive's URL."
        }
    }

    private func unavailable(_ request: HTTPRequest, _ failure: Failure, attempts: Int, seconds: Double) -> ArchiveError {
        let reason = failure.reason.hasSuffix(".") ? String(failure.reason.dropLast()) : failure.reason
        let tried = attempts == 1 ? "" : " in \(attempts) attempts over \(Int(seconds.rounded())) s"
        return ArchiveError(
            .storeUnavailable, "\(service) did not answer \(request.summary)\(tried): \(reason).",
            remedy: Self.remedy(failure.kind))
    }
}
