import Testing

@testable import Store

@Suite("When a transfer counts as stalled")
struct StallWatchTests {
    @Test("without a byte, after the timeout")
    func silent() {
        var watch = StallWatch(timeout: 30)
        #expect(watch.deadline == nil)
        watch.moved(0, at: 100)
        #expect(watch.deadline == 130)
        watch.moved(1, at: 120)
        #expect(watch.deadline == 150 && watch.reason("s:1") == "No byte moved between here and s:1 for 30.0 s.")
    }

    @Test("with a byte now and then, after a minute")
    func dripping() {
        var watch = StallWatch(timeout: 30)
        for time in stride(from: 100.0, through: 155, by: 5) { watch.moved(1, at: time) }
        #expect(watch.deadline == 160 && watch.reason("s:1") == "Less than 1000 bytes moved between here and s:1 in 60.0 s.")
    }

    @Test("never while it goes on, however slowly, or after it had to wait in line")
    func goingOn() {
        var watch = StallWatch(timeout: 30)
        for time in stride(from: 100.0, through: 1000, by: 20) {
            watch.moved(600, at: time)
            #expect(watch.deadline.map { $0 > time + 20 } == true)
        }
        var held = StallWatch(timeout: 30)
        held.moved(1, at: 100)
        held.begin(at: 159)
        #expect(held.deadline == 189)
    }

    @Test("a long timeout lengthens the window")
    func long() {
        var watch = StallWatch(timeout: 300)
        watch.moved(1, at: 100)
        #expect(watch.deadline == 400)
    }
}
