import Glibc
import Synchronization
import Testing

@testable import Store

@Suite("The limit of requests at once", .timeLimit(.minutes(10)))
struct AdaptiveLimitTests {
    @Test("grows by one after each round of successes, up to its maximum")
    func grows() {
        var limit = AdaptiveLimit(start: 2, maximum: 4)
        let seen = (0..<12).map { _ in
            limit.succeeded()
            return limit.limit
        }
        #expect(seen == [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4])
    }

    @Test("halves once for all requests that were under way, and never ends")
    func halves() {
        var limit = AdaptiveLimit(start: 16, maximum: 64)
        let round = limit.round
        for _ in 0..<16 { limit.slowDown(round) }
        #expect(limit.limit == 8)
        for expected in [4, 2, 1, 1] {
            limit.slowDown(limit.round)
            #expect(limit.limit == expected)
        }
    }

    @Test("the gate lets in as many as the limit says, first come, first served; who is cancelled leaves the line")
    func gate() async throws {
        let gate = RequestGate(AdaptiveLimit(start: 2, maximum: 2))
        let rounds = [try await gate.enter(), try await gate.enter()]
        final class Order: Sendable { let of = Mutex<[Int]>([]) }
        let order = Order()
        var tasks: [Task<AdaptiveLimit.Round, any Error>] = []
        for n in 0..<5 {
            tasks.append(
                Task {
                    let round = try await gate.enter()
                    order.of.withLock { $0.append(n) }
                    return round
                })
            while gate.waiting <= n { try await Task.sleep(for: .milliseconds(1)) }
        }
        tasks[1].cancel()
        await #expect(throws: CancellationError.self) { try await tasks[1].value }
        gate.leave(rounds[0], .success)
        _ = try await tasks[0].value
        #expect(order.of.withLock { $0 } == [0])
        // Half as many: the next that leaves makes no place.
        gate.leave(rounds[1], .slower)
        #expect(gate.waiting == 3 && gate.limit == 1)
        for n in [0, 2, 3] {
            gate.leave(try await tasks[n].value, .failure)
        }
        _ = try await tasks[4].value
        #expect(order.of.withLock { $0 } == [0, 2, 3, 4])
    }
}
