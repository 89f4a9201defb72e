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

    public init(_ transport: any HTTPTransport, service: String, now: @escaping @Sendable () -> Moment) {
        self.transport = transport
        self.service = service
        self.now = now
    }

    /// - Parameters:
    ///   - prepare: signs the request; called before each attempt, with the time of day.
    ///   - judge: what an answer means; called for each whole answer.
    /// - Returns: the first answer that is `.done`.
    /// - Throws: `.storeUnavailable` when attempts are used up, with the last reason; `.interrupted` when the task is cancelled.
    public func send(
        _ request: HTTPRequest, preparing prepare: @Sendable (HTTPRequest, Moment) async throws -> HTTPRequest,
        judging judge: @Sendable (HTTPResponse) -> Verdict
    ) async throws -> HTTPResponse {
        let response = try await transport.send(try await prepare(request, now()))
        guard judge(response) == .done else { throw ArchiveError(.storeUnavailable, "\(service) did not answer \(request.summary).") }
        return response
    }
}
