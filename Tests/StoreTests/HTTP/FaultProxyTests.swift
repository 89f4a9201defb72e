import ArchiveTesting
import Store
import Synchronization
import Testing

/// Says of each fault what a client must see, so that the suites that run through the proxy mean what they say.
@Suite("Through faults", .timeLimit(.minutes(10)))
struct FaultProxyTests {
    private let body = [UInt8]((0..<10_000).map { UInt8(truncatingIfNeeded: $0) })

    private func exchange(
        _ kind: FaultProxy.Kind, _ method: HTTPRequest.Method
    ) async throws -> (result: Result<HTTPResponse, any Error>, stored: [[UInt8]], faults: [FaultProxy.Kind: Int]) {
        let stored = Stored()
        let server = try tinyServer { head, body, connection in
            if head.method == "PUT" { stored.bodies.withLock { $0.append(body) } }
            return connection.answer(200, body: head.method == "GET" ? self.body : [])
        }
        defer { server.stop() }
        let proxy = try FaultProxy(upstream: server.port, plan: .script([kind]), delay: 0.1)
        defer { proxy.stop() }
        var request = HTTPRequest(method, scheme: "http", host: "127.0.0.1:\(proxy.port)", path: "/")
        if method == .put { request.body = body }
        let result: Result<HTTPResponse, any Error>
        do { result = .success(try await CurlTransport(options(stall: 2)).send(request)) } catch { result = .failure(error) }
        return (result, stored.bodies.withLock { $0 }, proxy.faults)
    }
    private final class Stored: Sendable { let bodies = Mutex<[[UInt8]]>([]) }

    @Test(
        "a put meets each of them",
        arguments: [
            (.pass, .done, 1), (.delay, .done, 1), (.drop, .failed(.cut), 0), (.dropAnswer, .failed(.cut), 1), (.cutUpload, .failed(.cut), 0),
            (.cutAnswer, .failed(.cut), 1), (.corruptUpload, .done, 1), (.error500, .status(500), 0), (.error503, .status(503), 0),
            (.error429, .status(429), 0), (.lie, .done, 0), (.stall, .failed(.timeout), 0), (.garbage, .failed(.malformed), 0),
        ] as [(FaultProxy.Kind, Seen, Int)])
    func puts(_ kind: FaultProxy.Kind, _ seen: Seen, _ count: Int) async throws {
        let (result, stored, faults) = try await exchange(kind, .put)
        #expect(Seen(result) == seen)
        #expect(stored.count == count && faults == [kind: 1])
        if kind == .corruptUpload { #expect(stored[0].count == body.count && zip(stored[0], body).filter { $0 != $1 }.count == 1) } else {
            #expect(stored.allSatisfy { $0 == body })
        }
        if kind == .lie { #expect(try result.get()["etag"] != nil) }
        if kind == .error503 || kind == .error429 { #expect(try result.get()["retry-after"] == "1") }
    }

    @Test(
        "so does a get",
        arguments: [(.cutAnswer, .failed(.cut)), (.truncate, .done), (.corruptAnswer, .done), (.pass, .done)] as [(FaultProxy.Kind, Seen)])
    func gets(_ kind: FaultProxy.Kind, _ seen: Seen) async throws {
        let (result, _, faults) = try await exchange(kind, .get)
        #expect(Seen(result) == seen && faults == [kind: 1])
        guard case .success(let response) = result else { return }
        switch kind {
        case .truncate: #expect(response.body == Array(body.prefix(5000)))
        case .corruptAnswer: #expect(response.body.count == body.count && zip(response.body, body).filter { $0 != $1 }.count == 1)
        default: #expect(response.body == body)
        }
    }

    @Test("a client gets 200 requests through a proxy that harms every second one")
    func client() async throws {
        let server = try tinyServer { head, _, connection in connection.answer(200, body: Array(head.target.utf8)) }
        defer { server.stop() }
        let kinds: [FaultProxy.Kind] = [.drop, .dropAnswer, .cutAnswer, .error500, .garbage]
        let proxy = try FaultProxy(upstream: server.port, plan: .random(seed: 5, rate: 0.5, kinds: kinds))
        defer { proxy.stop() }
        let policy = RetryPolicy(attempts: 30, firstPause: 0.001, longestPause: 0.01)
        let client = HTTPClient(CurlTransport(options()), service: "test", now: { .init(nanoseconds: 0) }, policy: policy)
        let port = proxy.port
        try await withThrowingTaskGroup(of: Void.self) { group in
            for n in 0..<200 {
                group.addTask {
                    let answer = try await client.ask(get(port, "/\(n)"))
                    #expect(answer.body == Array("/\(n)".utf8))
                }
            }
            try await group.waitForAll()
        }
        #expect(kinds.allSatisfy { proxy.faults[$0, default: 0] > 10 }, "\(proxy.faults)")
    }
}

enum Seen: Hashable, Sendable {
    case done
    case status(Int)
    case failed(HTTPFailure.Kind)

    init(_ result: Result<HTTPResponse, any Error>) {
        switch result {
        case .success(let response): self = response.status == 200 ? .done : .status(response.status)
        case .failure(let error): self = .failed((error as? HTTPFailure)?.kind ?? .request)
        }
    }
}
