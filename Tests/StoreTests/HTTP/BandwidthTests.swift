import ArchiveCore
import ArchiveTesting
import Foundation
import Runtime
import Synchronization
import Testing

@testable import Store

/// A clock that a test sets.
final class ManualTime: Sendable {
    private let time: Mutex<Moment>
    init(_ text: String = "2026-11-25T12:00:00Z") { time = Mutex(Moment(text)!) }
    var now: Moment { time.withLock { $0 } }
    func pass(_ seconds: Double) { time.withLock { $0 = $0.adding(nanoseconds: Int64(seconds * 1e9)) } }
}

@Suite("Bandwidth", .timeLimit(.minutes(10)))
struct BandwidthTests {
    @Test("a bucket holds a quarter of a second, and debts are paid by waiting")
    func bucket() {
        let time = ManualTime()
        var bucket = TokenBucket(rate: 1000, at: time.now)
        var seen: [Bool] = []
        func after(_ seconds: Double, rate: UInt64? = 1000, take sizes: Int...) {
            time.pass(seconds)
            bucket.advance(to: time.now, rate: rate)
            seen += sizes.map { bucket.take($0) }
        }
        after(0, take: 250, 1)
        #expect(seen == [true, false])
        after(100, take: 1250, 1)
        #expect(seen.suffix(2) == [true, false] && bucket.wait == 1.001)
        after(0.5, take: 1)
        // The clock was set back: nothing comes in, nothing breaks.
        after(-3600, take: 1)
        #expect(seen.suffix(2) == [false, false])
        after(0.6, take: 1)
        #expect(seen.last == true)
        after(0, rate: nil, take: 1 << 40)
        #expect(seen.last == true && bucket.wait == 0)
        after(0, rate: 10, take: 1)
        #expect(seen.last == false)
    }

    @Test("over a minute, as many bytes pass as the rate says, evenly, whatever the sizes")
    func rate() {
        let time = ManualTime()
        var random = SeededRandom(seed: 3)
        var bucket = TokenBucket(rate: 1_000_000, at: time.now)
        var seconds: [Int] = []
        for _ in 0..<60 {
            var bytes = 0
            for _ in 0..<100 {
                time.pass(0.01)
                bucket.advance(to: time.now, rate: 1_000_000)
                var size = Int.random(in: 1...30_000, using: &random)
                while bucket.take(size) {
                    bytes += size
                    size = Int.random(in: 1...30_000, using: &random)
                }
            }
            seconds.append(bytes)
        }
        #expect(seconds.dropFirst().allSatisfy { abs($0 - 1_000_000) < 50_000 })
    }

    @Test("who waits is served in order, and nobody overtakes")
    func line() {
        let time = ManualTime()
        var line = BandwidthLine(TokenBucket(rate: 1000, at: time.now))
        func after(_ seconds: Double) -> [UInt64] {
            time.pass(seconds)
            line.advance(to: time.now, rate: 1000)
            return line.admit().map(\.id)
        }
        var taken = [line.take(250, for: 1), line.take(100, for: 2), line.take(100, for: 3), line.take(100, for: 4)]
        #expect(taken == [true, false, false, false] && line.wait != nil)
        line.leave(3, unused: 0)
        time.pass(0.05)
        line.advance(to: time.now, rate: 1000)
        taken = [line.take(1, for: 5)]
        #expect(taken == [false])
        var admitted = after(0)
        #expect(admitted == [2])
        admitted = after(10)
        #expect(admitted == [4, 5] && line.wait == nil)
        line.leave(4, unused: 100)
        taken = [line.take(249, for: 6), line.take(1, for: 7)]
        #expect(taken == [true, false])
    }

    @Test("follows its plan as time passes")
    func schedule() {
        let time = ManualTime("2026-11-25T07:59:58Z")
        let day = BandwidthPlan.Rule(days: Set(1...7), from: 480, to: 1080, zone: TimeZone(secondsFromGMT: 0)!, limits: .init(upload: 160_000))
        let bandwidth = Bandwidth(BandwidthPlan(rules: [day]), now: { time.now })
        #expect(bandwidth.piece(.upload) == 128 << 10 && bandwidth.take(1 << 30, .upload, for: 1))
        time.pass(3)
        #expect(bandwidth.piece(.upload) == 10_000 && bandwidth.piece(.download) == 128 << 10)
        #expect(!bandwidth.take(1, .upload, for: 1) && bandwidth.take(1 << 30, .download, for: 1))
        time.pass(10 * 3600)
        #expect(bandwidth.admit().map(\.id) == [1] && bandwidth.wait == nil && bandwidth.take(1 << 30, .upload, for: 1))
    }

    @Test("a plan that replaces another is in force at once, also for those who wait")
    func update() {
        let time = ManualTime("2026-11-25T07:59:58Z")
        let bandwidth = Bandwidth(BandwidthPlan(), now: { time.now })
        #expect(bandwidth.take(1 << 30, .upload, for: 1))
        bandwidth.update(BandwidthPlan(always: .init(upload: 160_000)))
        #expect(bandwidth.piece(.upload) == 10_000 && !bandwidth.take(1 << 30, .upload, for: 1) && bandwidth.wait != nil)
        bandwidth.update(BandwidthPlan())
        #expect(bandwidth.admit().map(\.id) == [1] && bandwidth.wait == nil)
    }

    @Test("limits all transfers together, both ways", arguments: [true, false])
    func measured(_ up: Bool) async throws {
        let size = 100_000
        let server = try tinyServer { head, _, connection in
            connection.answer(200, body: [UInt8](repeating: 7, count: head.method == "GET" ? size : 0))
        }
        defer { server.stop() }
        let limits = BandwidthPlan.Limits(upload: up ? 1_000_000 : nil, download: up ? nil : 1_000_000)
        let bandwidth = Bandwidth(BandwidthPlan(always: limits), now: { now() })
        var request = get(server.port)
        if up { request = HTTPRequest(.put, scheme: "http", host: request.host, path: "/", body: [UInt8](repeating: 7, count: size)) }
        let start = ContinuousClock.now
        let ends = try await withThrowingTaskGroup(of: Duration.self) { group in
            for _ in 0..<24 {
                group.addTask { [request] in
                    // A turn comes every 1.5 s: waiting in line is no stall.
                    let answer = try await CurlTransport(options(stall: 1), bandwidth: bandwidth).send(request)
                    #expect(answer.body.count == (up ? 0 : size))
                    return ContinuousClock.now - start
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }.sorted()
        }
        #expect(ends[23] >= .seconds(1.8), "\(ends)")
        // Shared: none was done when it alone could have been, after 0.1 s.
        #expect(ends[0] > .seconds(0.2) && ends[12] > .seconds(1), "\(ends)")
    }

    @Test("a transfer that waits for bandwidth ends when it is cancelled, and those behind it go on")
    func cancelled() async throws {
        let arrived = Counter()
        let server = try tinyServer { _, _, connection in
            arrived.add()
            return connection.answer(200, body: [UInt8](repeating: 7, count: 300_000))
        }
        defer { server.stop() }
        let bandwidth = Bandwidth(BandwidthPlan(always: .init(download: 100_000)), now: { now() })
        let port = server.port
        let slow = (0..<2).map { _ in Task { try await CurlTransport(options(), bandwidth: bandwidth).send(get(port)) } }
        while arrived.value < 2 { try await Task.sleep(for: .milliseconds(5)) }
        slow[0].cancel()
        #expect(try await failure { try await slow[0].value }.kind == .cancelled)
        #expect(try await slow[1].value.body.count == 300_000)
    }
}

@Suite("The plan of bandwidth")
struct BandwidthPlanTests {
    private func upload(_ rule: BandwidthPlan.Rule, _ time: String) -> UInt64? {
        BandwidthPlan(always: .init(upload: 9), rules: [rule]).limits(at: Moment(time)!).upload
    }

    private func rule(_ days: Set<Int>, _ from: Int, _ to: Int, _ zone: String = "UTC") -> BandwidthPlan.Rule {
        BandwidthPlan.Rule(days: days, from: from, to: to, zone: TimeZone(identifier: zone)!, limits: .init(upload: 1))
    }

    @Test(
        "knows its days and hours",
        arguments: [
            // 2026-11-25 is a Wednesday.
            ("2026-11-25T07:59:59Z", 9), ("2026-11-25T08:00:00Z", 1), ("2026-11-25T17:59:59Z", 1), ("2026-11-25T18:00:00Z", 9),
            ("2026-11-27T09:00:00Z", 1), ("2026-11-28T09:00:00Z", 9), ("2026-11-29T09:00:00Z", 9), ("2026-11-30T09:00:00Z", 1),
        ] as [(String, UInt64)])
    func weekdays(_ time: String, _ limit: UInt64) { #expect(upload(rule(Set(1...5), 480, 1080), time) == limit) }

    @Test(
        "a rule past midnight belongs to the day that it begins on",
        arguments: [
            ("2026-11-27T21:59:00Z", 9), ("2026-11-27T22:00:00Z", 1), ("2026-11-28T05:59:00Z", 1), ("2026-11-28T06:00:00Z", 9),
            ("2026-11-28T22:30:00Z", 9), ("2026-11-29T05:00:00Z", 9), ("2026-11-27T05:00:00Z", 9),
        ] as [(String, UInt64)])
    func midnight(_ time: String, _ limit: UInt64) { #expect(upload(rule([5], 1320, 360), time) == limit) }

    @Test("Sunday's night ends on Monday, and a whole day is one from midnight to midnight")
    func edges() {
        #expect(upload(rule([7], 1320, 360), "2026-11-30T05:00:00Z") == 1)
        for time in ["2026-11-25T00:00:00Z", "2026-11-25T23:59:59Z"] {
            #expect(upload(rule([3], 0, 1440), time) == 1 && upload(rule([3], 0, 0), time) == 1 && upload(rule([4], 0, 1440), time) == 9)
        }
    }

    @Test(
        "goes by the zone's own clock, also when that changes",
        arguments: [
            // Berlin leaves summer time on 2026-10-25 at 01:00 UTC.
            ("2026-10-24T05:59:00Z", 9), ("2026-10-24T06:00:00Z", 1), ("2026-10-25T06:30:00Z", 9), ("2026-10-25T07:00:00Z", 1),
            // And goes back to it on 2026-03-29.
            ("2026-03-29T05:59:00Z", 9), ("2026-03-29T06:00:00Z", 1),
        ] as [(String, UInt64)])
    func zones(_ time: String, _ limit: UInt64) { #expect(upload(rule(Set(1...7), 480, 1080, "Europe/Berlin"), time) == limit) }

    @Test("the first rule that covers a time counts")
    func order() {
        var second = rule([3], 0, 1440)
        second.limits = .init(upload: 2, download: 3)
        let plan = BandwidthPlan(rules: [rule([3], 480, 600), second])
        #expect(plan.limits(at: Moment("2026-11-25T09:00:00Z")!) == .init(upload: 1))
        #expect(plan.limits(at: Moment("2026-11-25T11:00:00Z")!) == .init(upload: 2, download: 3))
        #expect(plan.limits(at: Moment("2026-11-26T11:00:00Z")!) == .init())
    }
}
