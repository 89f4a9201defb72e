import ArchiveCore
import ArchiveTesting
import Store
import Synchronization

/// An HTTP server of a test: `handle` reads nothing, gets each request with its body, and says whether the connection goes on.
func tinyServer(_ handle: @escaping @Sendable (HTTPHead, [UInt8], LoopbackConnection) -> Bool) throws -> LoopbackServer {
    try LoopbackServer { connection in
        while let head = connection.head(), let body = connection.read(exactly: head.length) { if !handle(head, body, connection) { break } }
    }
}

func get(_ port: Int, _ path: String = "/", limit: Int = 8 << 20) -> HTTPRequest {
    HTTPRequest(.get, scheme: "http", host: "127.0.0.1:\(port)", path: path, responseLimit: limit)
}

func options(stall: Double = 10, connect: Double = 10, caFile: String? = nil, proxy: String = "") -> TransportOptions {
    var options = TransportOptions()
    options.stallTimeout = stall
    options.connectTimeout = connect
    options.caFile = caFile
    options.proxy = proxy
    return options
}

/// How a request failed.
func failure(_ body: () async throws -> HTTPResponse) async throws -> HTTPFailure {
    do {
        let response = try await body()
        throw ArchiveError(.inputOutput, "It did not fail, but answered \(response.status).")
    } catch let failure as HTTPFailure { return failure }
}

/// Counts what threads and tasks do.
final class Counter: Sendable {
    private let count = Mutex(0)
    @discardableResult
    func add(_ n: Int = 1) -> Int {
        count.withLock {
            $0 += n
            return $0
        }
    }
    var value: Int { count.withLock { $0 } }
}

extension HTTPClient {
    /// Sends a request as it is; takes 5xx for trouble and 429 and 503 for a wish for less.
    @discardableResult
    func ask(_ request: HTTPRequest) async throws -> HTTPResponse {
        try await send(request, preparing: { request, _ in request }) { answer in
            switch answer.status {
            case 429, 503: .slower("status \(answer.status)")
            case 500...599: .again("status \(answer.status)")
            default: .done
            }
        }
    }
}
