import Synchronization

/// Which fault each request meets.
public struct FaultPlan: Sendable {
    let choose: @Sendable (_ number: Int, _ request: HTTPHead) -> FaultProxy.Kind

    /// - Parameter choose: called with the request's number, from 0 on; one at a time.
    public init(_ choose: @escaping @Sendable (_ number: Int, _ request: HTTPHead) -> FaultProxy.Kind) { self.choose = choose }

    /// One after the other, then `.pass` for ever.
    public static func script(_ kinds: [FaultProxy.Kind]) -> FaultPlan { FaultPlan { number, _ in number < kinds.count ? kinds[number] : .pass } }

    /// A fault with probability `rate`, one of `kinds`.
    public static func random(seed: UInt64, rate: Double, kinds: [FaultProxy.Kind]) -> FaultPlan {
        let generator = Mutex(SeededRandom(seed: seed))
        return FaultPlan { _, _ in generator.withLock { $0.unit() < rate ? kinds.randomElement(using: &$0) ?? .pass : .pass } }
    }
}

/// Stands on loopback in front of a server that speaks HTTP/1.1 and treats requests as its plan says.
public final class FaultProxy: Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        case pass, delay
        /// The connection ends before the request is forwarded.
        case drop
        /// The request is forwarded, and the connection ends before the answer: nobody knows whether it was done.
        case dropAnswer = "drop-answer"
        /// The connection ends in the middle of the request's body; what came is forwarded.
        case cutUpload = "cut-upload"
        /// The connection ends in the middle of the answer.
        case cutAnswer = "cut-answer"
        /// The answer has half of its body, and a length that fits it.
        case truncate
        /// One byte in the middle of a body is another one.
        case corruptUpload = "corrupt-upload"
        case corruptAnswer = "corrupt-answer"
        case error500 = "error-500"
        case error503 = "error-503"
        case error429 = "error-429"
        /// A put is answered with success and never forwarded.
        case lie
        /// The request is read, and nothing is ever answered.
        case stall
        /// What is answered is no HTTP.
        case garbage
    }

    /// What it did, by kind; a fault that fitted no request of its turn, such as a corrupt body where there is none, is a `.pass`.
    public var faults: [Kind: Int] { shared.state.withLock { $0.faults } }
    public var port: Int { server.port }

    private final class Shared: Sendable { let state = Mutex<(number: Int, faults: [Kind: Int])>((0, [:])) }
    private let shared: Shared
    private let server: LoopbackServer

    /// - Parameters:
    ///   - upstream: a port of 127.0.0.1.
    ///   - delay: seconds that `.delay` waits.
    /// - Throws: `.inputOutput`.
    public init(upstream: Int, plan: FaultPlan, delay: Double = 0.3) throws {
        let shared = Shared()
        self.shared = shared
        server = try LoopbackServer { client in
            while let request = client.head() {
                let kind = shared.state.withLock { state in
                    defer { state.number += 1 }
                    return plan.choose(state.number, request)
                }
                let exchange = FaultExchange(client: client, request: request, upstream: upstream, delay: delay) { kind in
                    shared.state.withLock { $0.faults[kind, default: 0] += 1 }
                }
                guard exchange.run(kind) else { break }
            }
        }
    }

    /// Ends all connections and listens no more.
    public func stop() { server.stop() }
}
