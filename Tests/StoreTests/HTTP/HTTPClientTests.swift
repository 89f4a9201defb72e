import ArchiveCore
import ArchiveTesting
import Synchronization
import Testing

@testable import Store

/// Answers from a list; the last one for ever.
final class ListedAnswers: HTTPTransport {
    private let state: Mutex<(answers: [Result<HTTPResponse, HTTPFailure>], requests: [HTTPRequest])>

    init(_ answers: [Result<HTTPResponse, HTTPFailure>]) { state = Mutex((answers, [])) }

    var requests: [HTTPRequest] { state.withLock { $0.requests } }

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        try state.withLock { state in
            state.requests.append(request)
            return try (state.answers.count > 1 ? state.answers.removeFirst() : state.answers[0]).get()
        }
    }
}

/// Time that passes only where somebody sleeps.
final class FakeTime: Sendable {
    private let state = Mutex<(seconds: Double, pauses: [Double])>((0, []))
    let random: Double

    init(random: Double = 1) { self.random = random }

    var pauses: [Double] { state.withLock { $0.pauses } }
    var pacing: Pacing {
        Pacing(
            random: { self.random },
            sleep: { seconds in
                try Task.checkCancellation()
                self.state.withLock {
                    $0.seconds += seconds
                    $0.pauses.append(seconds)
                }
            }, seconds: { self.state.withLock { $0.seconds } })
    }
}

@Suite("A client of HTTP", .timeLimit(.minutes(10)))
struct HTTPClientTests {
    private let start = Moment("2026-11-25T03:00:00Z")!
    private let request = HTTPRequest(
        .put, host: "b.example", path: "/k", query: [("X-Amz-Signature", "SECRET")], headers: [("Authorization", "SECRET")])

    private func client(
        _ transport: any HTTPTransport, _ time: FakeTime, _ policy: RetryPolicy = RetryPolicy(), limit: AdaptiveLimit = AdaptiveLimit()
    ) -> HTTPClient {
        let start = start
        return HTTPClient(transport, service: "s3://b", now: { start }, policy: policy, limit: limit, pacing: time.pacing)
    }

    private func answer(_ status: Int, _ headers: [(name: String, value: String)] = []) -> Result<HTTPResponse, HTTPFailure> {
        .success(HTTPResponse(status: status, headers: headers))
    }

    @Test(
        "repeats what may pass, signing anew, with pauses that double up to 10 s",
        arguments: [HTTPFailure.Kind.unreachable, .timeout, .cut, .malformed])
    func repeats(_ kind: HTTPFailure.Kind) async throws {
        let transport = ListedAnswers([.failure(HTTPFailure(kind, "no"))] + [Int](repeating: 500, count: 7).map { answer($0) } + [answer(404)])
        let time = FakeTime()
        let signatures = Counter()
        let response = try await client(transport, time).send(
            request,
            preparing: { request, _ in
                var request = request
                request.set("authorization", "\(signatures.add())")
                return request
            }, judging: { $0.status == 500 ? .again("status 500") : .done })
        #expect(response.status == 404)
        #expect(transport.requests.map { $0["authorization"] } == (1...9).map { "\($0)" })
        #expect(time.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10])
    }

    @Test("the pauses are jittered in full")
    func jitter() async throws {
        let time = FakeTime(random: 0.25)
        _ = try await client(ListedAnswers([answer(500), answer(500), answer(200)]), time).ask(request)
        #expect(time.pauses == [0.025, 0.05])
    }

    @Test("never repeats what no repetition cures", arguments: [HTTPFailure.Kind.tls, .plain, .tooLong, .proxy, .request])
    func final(_ kind: HTTPFailure.Kind) async throws {
        let transport = ListedAnswers([.failure(HTTPFailure(kind, "The reason."))])
        let error = await #expect(throws: ArchiveError.self) { try await client(transport, FakeTime()).ask(request) }
        #expect(error?.code == .storeUnavailable && error?.message == "s3://b did not answer PUT https://b.example/k: The reason.")
        #expect(error?.remedy != nil)
        #expect(transport.requests.count == 1)
    }

    @Test("gives up after its attempts, or its patience, and says so")
    func givesUp() async throws {
        let transport = ListedAnswers([answer(503)])
        let few = await #expect(throws: ArchiveError.self) { try await client(transport, FakeTime(), RetryPolicy(attempts: 3)).ask(request) }
        #expect(few?.message == "s3://b did not answer PUT https://b.example/k in 3 attempts over 0 s: status 503.")
        #expect(few?.code.isRetryable == true)
        #expect(transport.requests.count == 3)
        let time = FakeTime()
        let long = await #expect(throws: ArchiveError.self) { try await client(ListedAnswers([answer(500)]), time).ask(request) }
        #expect(long?.message == "s3://b did not answer PUT https://b.example/k in 12 attempts over 53 s: status 500.")
        #expect(time.pauses.reduce(0, +) <= 60)
        #expect(few.map { "\($0)".contains("SECRET") } == false)
    }

    @Test(
        "waits as long as the server asks, but not for ever",
        arguments: [
            (429, "3", 3.0), (503, "0", 0.1), (503, "Wed, 25 Nov 2026 03:00:07 GMT", 7), (503, "Wed, 25 Nov 2026 02:00:00 GMT", 0.1),
            (503, "100000", 60), (500, "3", 0.1), (429, "-3", 0.1), (429, "soon", 0.1), (429, "", 0.1),
        ])
    func retryAfter(_ status: Int, _ text: String, _ seconds: Double) async throws {
        let time = FakeTime()
        _ = try await client(ListedAnswers([answer(status, [("Retry-After", text)]), answer(200)]), time).ask(request)
        #expect(time.pauses == [seconds])
    }

    @Test("an unknown name is asked for 10 s only, and is what the remedy is about")
    func unknownName() async throws {
        let time = FakeTime()
        let transport = ListedAnswers([.failure(HTTPFailure(.unknownName, "The name of b.example is unknown."))])
        let error = await #expect(throws: ArchiveError.self) { try await client(transport, time).ask(request) }
        #expect(error?.remedy?.contains("name service") == true)
        #expect(transport.requests.count > 1 && time.pauses.reduce(0, +) <= 10)
    }

    @Test("a wish that is longer than a request is repeated is told")
    func longWish() async throws {
        let error = await #expect(throws: ArchiveError.self) {
            try await client(ListedAnswers([answer(503, [("Retry-After", "999999999")])]), FakeTime(), RetryPolicy(patience: 5)).ask(request)
        }
        #expect(error?.message.hasSuffix("status 503, and asks to wait for 999999999 s, longer than a request is repeated.") == true)
    }

    @Test("ends at once when its task is cancelled")
    func cancelled() async throws {
        for transport in [ListedAnswers([.failure(HTTPFailure(.cancelled, "x"))]), ListedAnswers([answer(500)])] {
            let task = Task {
                while !Task.isCancelled { await Task.yield() }
                return try await client(transport, FakeTime()).ask(request)
            }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
    }

    @Test("what the signer throws comes through, and gives its place back")
    func signer() async throws {
        let client = client(ListedAnswers([answer(200)]), FakeTime(), limit: AdaptiveLimit(start: 1))
        for _ in 0..<2 {
            await #expect(throws: ArchiveError.self) {
                try await client.send(request, preparing: { _, _ in throw ArchiveError(.configuration, "No credentials.") }, judging: { _ in .done })
            }
        }
        #expect(try await client.ask(request).status == 200)
    }

    @Test("asks for less when the service wants it, and for more when all goes well")
    func adapts() async throws {
        let client = client(ListedAnswers([answer(503), answer(503), .failure(HTTPFailure(.timeout, "slow")), answer(200)]), FakeTime())
        #expect(client.concurrency == 16)
        try await client.ask(request)
        #expect(client.concurrency == 2)
        for _ in 0..<4 { try await client.ask(request) }
        #expect(client.concurrency == 4)
    }
}

@Suite("What is told of repeated requests")
struct RepeatLedgerTests {
    @Test("the first at once, then once a minute with their reasons, and no more reasons than fit")
    func summary() {
        let told = Mutex<[String]>([])
        let ledger = RepeatLedger(service: "s3://bucket") { message in told.withLock { $0.append(message) } }
        ledger.add("the server said 503.", at: 100)
        #expect(told.withLock { $0 } == ["s3://bucket: 1 request repeated: the server said 503"])
        ledger.add("the connection was cut", at: 101)
        for _ in 0..<3 { ledger.add("the server said 503", at: 159) }
        #expect(told.withLock { $0.count } == 1)
        ledger.add("the connection was cut", at: 160)
        #expect(told.withLock { $0.last } == "s3://bucket: 5 requests repeated: 3 × the server said 503; 2 × the connection was cut")
        for i in 0..<20 { ledger.add("reason \(i)", at: 170) }
        ledger.add("reason 1", at: 300)
        let last = told.withLock { $0.last ?? "" }
        #expect(last.hasPrefix("s3://bucket: 21 requests repeated: 2 × reason 1"))
        #expect(last.hasSuffix("12 × others"))
    }
}
