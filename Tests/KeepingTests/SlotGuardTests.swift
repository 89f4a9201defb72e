import Source
import Testing

@testable import Sidecar

private let mib: UInt64 = 1 << 20

private func reading(_ retained: UInt64, room: UInt64?, lost: Bool = false, unreserved: Bool = false) -> GuardReading {
    GuardReading(
        name: "s", state: lost ? "lost" : "extended", retained: retained * mib, room: room.map { $0 * mib }, slack: 32 * mib, isLost: lost,
        isUnreserved: unreserved)
}

@Suite("The forecast of a slot's room")
struct RoomForecastTests {
    @Test("a steady growth is told to the second")
    func steady() {
        var forecast = RoomForecast()
        #expect(forecast.take(reading(100, room: 900), at: 0) == nil)
        #expect(forecast.take(reading(110, room: 890), at: 10) == 890)
        #expect(forecast.take(reading(120, room: 880), at: 20) == 880)
    }

    @Test("a receiver that keeps up is in no danger, and one that catches up neither")
    func keepsUp() {
        var forecast = RoomForecast()
        for n in 0..<100 { #expect(forecast.take(reading(UInt64(n % 3) * 10, room: 10), at: Double(n) * 10) == nil) }
        var draining = RoomForecast()
        for n in 0..<50 { #expect(draining.take(reading(UInt64(1000 - n * 10), room: 50), at: Double(n) * 10) == nil) }
    }

    @Test("after a burst the longer averages still count it, and forget it")
    func burst() throws {
        var forecast = RoomForecast()
        _ = forecast.take(reading(40, room: 10_000), at: 0)
        _ = forecast.take(reading(640, room: 9400), at: 10)
        var last: Double?
        for n in 2..<30 { last = forecast.take(reading(640, room: 9400), at: Double(n) * 10) }
        #expect(try #require(last) > 9400 / 60 * 10)
        for n in 30..<400 { last = forecast.take(reading(640, room: 9400), at: Double(n) * 10) }
        #expect(last == nil)
    }

    @Test("unknown room, a lost slot and a clock that goes back give none; memory stays bounded")
    func odd() {
        var forecast = RoomForecast()
        _ = forecast.take(reading(100, room: nil), at: 0)
        #expect(forecast.take(reading(200, room: nil), at: 10) == nil)
        #expect(forecast.take(reading(300, room: 5), at: 5) == nil)
        #expect(forecast.take(reading(400, room: 0, lost: true), at: 20) == nil)
        for n in 0..<20_000 { _ = forecast.take(reading(100, room: 5), at: 100 + Double(n)) }
        #expect(forecast.count < 1000)
    }
}

@Suite("The policy of a slot")
struct SlotPolicyTests {
    private func decide(_ policy: inout SlotPolicy, _ left: Double?, at time: Double, drop: Double? = nil, room: UInt64 = 1000) -> SlotPolicy.Decision {
        policy.decide(reading(100, room: room), forecast: left, warn: 7200, drop: drop, at: time)
    }

    @Test("one look is no warning; two are, once, again when it halves or after an hour")
    func warns() {
        var policy = SlotPolicy()
        #expect(decide(&policy, 7000, at: 0) == .none)
        #expect(decide(&policy, 7000, at: 10) == .warn)
        #expect(decide(&policy, 6000, at: 20) == .none)
        #expect(decide(&policy, 3400, at: 30) == .warn)
        #expect(decide(&policy, 3000, at: 3629) == .none)
        #expect(decide(&policy, 3000, at: 3630) == .warn)
    }

    @Test("it is over after a minute of calm only")
    func recovers() {
        var policy = SlotPolicy()
        _ = decide(&policy, 100, at: 0)
        #expect(decide(&policy, 100, at: 10) == .warn)
        #expect(decide(&policy, 8000, at: 20) == .none)
        #expect(decide(&policy, nil, at: 30) == .none)
        #expect(decide(&policy, 100, at: 40) == .none)
        #expect(decide(&policy, nil, at: 50) == .none)
        #expect(decide(&policy, nil, at: 109) == .none)
        #expect(decide(&policy, nil, at: 110) == .recovered)
        #expect(policy.level == .ok)
    }

    @Test("hold never drops; drop does below its limit, or when nothing more fits")
    func drops() {
        var policy = SlotPolicy()
        #expect(decide(&policy, 1, at: 0, room: 1) == .warn)
        #expect(policy.level == .danger)
        #expect(decide(&policy, 1, at: 10, room: 1) == .none)
        var dropping = SlotPolicy()
        #expect(decide(&dropping, 601, at: 0, drop: 600) == .none)
        #expect(decide(&dropping, 599, at: 10, drop: 600) == .drop)
        dropping.dropped()
        #expect(decide(&dropping, nil, at: 20, drop: 600, room: 1) == .drop)
        var keepingUp = SlotPolicy()
        #expect(keepingUp.decide(reading(3, room: 1), forecast: nil, warn: 7200, drop: 600, at: 0) == .none)
    }

    @Test("a lost slot is told once, and dropped no more")
    func lost() {
        var policy = SlotPolicy()
        let gone = reading(100, room: 0, lost: true)
        #expect(policy.decide(gone, forecast: nil, warn: 7200, drop: 600, at: 0) == .lost)
        #expect(policy.decide(gone, forecast: nil, warn: 7200, drop: 600, at: 10) == .none)
        #expect(policy.decide(reading(1, room: 1000), forecast: nil, warn: 7200, drop: 600, at: 20) == .recovered)
    }

    @Test("looks come closer together as the end does")
    func pauses() {
        var policy = SlotPolicy()
        #expect(policy.pause(reading(1, room: 100_000), forecast: nil) == 60)
        #expect(policy.pause(reading(1, room: 100), forecast: nil) == 10)
        #expect(policy.pause(reading(100, room: 100_000), forecast: 50) == 5)
        #expect(policy.pause(reading(100, room: 100_000), forecast: 1) == 1)
        _ = decide(&policy, 100, at: 0)
        #expect(decide(&policy, 100, at: 10) == .warn)
        #expect(policy.pause(reading(1, room: 100_000), forecast: nil) == 10)
    }
}
