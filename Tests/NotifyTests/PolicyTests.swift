import ArchiveCore
import Notify
import Sidecar
import Testing

@Suite("What goes out to a recipient, and when")
struct PolicyTests {
    private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_700_000_000_000_000_000).adding(seconds: seconds) }
    private func event(_ kind: AgentEvent.Kind, _ source: String? = "main", _ seconds: Double = 0) -> AgentEvent {
        AgentEvent(kind, at: at(seconds), source: source, "\(kind.rawValue) at \(seconds)")
    }
    private func policy(_ kinds: Set<AgentEvent.Kind> = Recipient.standardKinds, _ count: Int = 10) -> NotificationPolicy {
        NotificationPolicy(kinds: kinds, limit: .init(count: count, period: 3600))
    }

    @Test("everything but success, unless asked for; a test always")
    func kinds() {
        var standard = policy(), all = policy([.success])
        #expect(standard.admit(event(.success), at: at(0)) == nil && standard.admit(event(.failure), at: at(0)) != nil)
        #expect(all.admit(event(.success), at: at(0)) != nil && all.admit(event(.failure), at: at(0)) == nil)
        #expect(all.admit(event(.test), at: at(0)) != nil)
    }

    @Test("the same is told once, then once an hour as long as it goes on")
    func folded() throws {
        var policy = policy()
        #expect(policy.admit(event(.failure), at: at(0))?.repeats == 0)
        for n in 1...7 { #expect(policy.admit(event(.failure, "main", Double(n)), at: at(Double(n) * 60)) == nil) }
        // Another source and another kind are other things.
        #expect(policy.admit(event(.failure, "other"), at: at(500)) != nil && policy.admit(event(.gap), at: at(500)) != nil)
        #expect(policy.due(at: at(3599)).isEmpty)
        let still = policy.due(at: at(3600))
        #expect(still.map(\.repeats) == [7] && still.first?.event.message == "failure at 7.0")
        #expect(policy.due(at: at(9000)).isEmpty)
        #expect(policy.admit(event(.failure), at: at(9001))?.repeats == 0)
    }

    @Test("what is over is told, and what comes then is a first again")
    func recovered() {
        var policy = policy()
        #expect(policy.admit(event(.failure), at: at(0)) != nil && policy.admit(event(.failure), at: at(1)) == nil)
        #expect(policy.admit(event(.recovered), at: at(2)) != nil && policy.admit(event(.failure), at: at(3))?.repeats == 0)
        // It ends nothing of another source, and no missed objective.
        #expect(policy.admit(event(.rpoMissed), at: at(4)) != nil && policy.admit(event(.recovered, "other"), at: at(5)) != nil)
        #expect(policy.admit(event(.failure), at: at(6)) == nil && policy.admit(event(.recovered), at: at(7)) != nil)
        #expect(policy.admit(event(.rpoMissed), at: at(8)) == nil && policy.admit(event(.rpoRecovered), at: at(9)) != nil)
        #expect(policy.admit(event(.rpoMissed), at: at(10)) != nil)
    }

    @Test("no more than the limit; how many were left out is told when there is room")
    func limit() throws {
        var policy = policy(Recipient.standardKinds, 3)
        let sent = (0..<10).compactMap { policy.admit(event(.failure, "s\($0)"), at: at(Double($0))) }
        #expect(sent.count == 3)
        #expect(policy.due(at: at(3599)).isEmpty)
        let rest = policy.due(at: at(3600))
        // The newest itself, and six beside it.
        #expect(rest.count == 1 && rest.first?.event.source == "s9" && rest.first?.leftOut == [.failure: 6])
        #expect(policy.due(at: at(3700)).isEmpty)
    }

    @Test("a clock that is set back does not silence anybody for longer than the limit's period")
    func clock() {
        var policy = policy(Recipient.standardKinds, 1)
        #expect(policy.admit(event(.gap), at: at(1_000_000)) != nil)
        #expect(policy.admit(event(.failure), at: at(0)) != nil)
    }

    @Test("memory is bounded, whatever comes")
    func flood() {
        var policy = policy(Recipient.standardKinds, 1000)
        for n in 0..<5000 { _ = policy.admit(event(.failure, "s\(n)"), at: at(0)) }
        #expect(policy.admit(event(.failure, "s1"), at: at(1)) == nil)
        let first = policy.due(at: at(3600)).first
        #expect(first?.event.source == "s1" && first?.repeats == 1 && first?.leftOut == [.failure: 4000])
    }
}
