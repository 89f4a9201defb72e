import Testing

@testable import Source

@Suite("The pace of tails")
struct TailPaceTests {
    @Test("a tail is cut earlier by what storing takes, and at most twice as often", arguments: [(0.0, 1.0), (0.1, 0.9), (0.3, 0.7), (0.5, 0.5), (20, 0.5)])
    func pace(storing: Double, interval: Double) {
        var pace = TailPace()
        #expect(pace.interval(of: 1) == 1)
        for n in 1...200 {
            pace.gave(UInt64(n), at: Double(n))
            pace.archived(through: UInt64(n), at: Double(n) + storing)
        }
        #expect(abs(pace.interval(of: 1) - interval) < 1e-6)
        #expect(abs(pace.interval(of: 60) - max(30, 60 - storing)) < 1e-6)
    }

    @Test("one that was slow once is soon forgotten, and pieces that nobody acknowledges fill nothing")
    func smooth() {
        var pace = TailPace()
        pace.gave(1, at: 0)
        pace.archived(through: 1, at: 10)
        #expect(pace.interval(of: 10) == 8)
        for n in 2..<50 {
            pace.gave(UInt64(n), at: 100)
            pace.archived(through: UInt64(n), at: 100)
        }
        #expect(pace.interval(of: 10) > 9.99)
        for n in 50..<10_000 { pace.gave(UInt64(n), at: 200) }
        pace.archived(through: 10_000, at: 200)
        #expect(pace.interval(of: 10) > 9.99)
    }
}
