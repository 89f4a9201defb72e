/// HTTP/1.1 and HTTP/2 over libcurl. All transports of a process share one thread and its connections.
///
/// Servers must show a certificate that is trusted and made for their name, over TLS 1.2 or later; nothing turns that off. Redirections
/// are answers like any other, for a signature is made for one address. Requests go straight from their body, without a copy; an answer
/// is collected up to the request's limit.
public struct CurlTransport: HTTPTransport {
    private let options: TransportOptions
    private let bandwidth: Bandwidth?

    /// - Parameter bandwidth: shared by all transports that move bytes over the same line; `nil`: no limit.
    public init(_ options: TransportOptions = TransportOptions(), bandwidth: Bandwidth? = nil) {
        self.options = options
        self.bandwidth = bandwidth
    }

    public func send(_ request: HTTPRequest) async throws -> HTTPResponse { try await CurlLane.shared.send(request, options, bandwidth) }
}
