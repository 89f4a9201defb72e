import Planner
import Testing

@Suite("A policy of retention")
struct PolicyTests {
    @Test("is equal to another with the same window and count only")
    func equality() {
        #expect(KeepPolicy(window: 60, bases: 2) == KeepPolicy(window: 60, bases: 2))
        #expect(KeepPolicy(window: 60, bases: 2) != KeepPolicy(window: 60, bases: 3))
    }
}
