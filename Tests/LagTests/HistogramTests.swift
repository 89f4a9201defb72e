import Foundation
import Testing

@testable import Lag

@Suite("A histogram of lags")
struct HistogramTests {
    @Test("gives quantiles that are never too low, and at most 9 % too high", arguments: [1, 3, 1000])
    func quantiles(count: Int) throws {
        var histogram = LagHistogram()
        let lags = (1...count).map { Double($0) * 0.0137 }
        for lag in lags { histogram.add(lag) }
        for share in [0.0, 0.5, 0.95, 0.99, 1] {
            let truth = lags[max(0, Int((share * Double(count)).rounded(.up)) - 1)]
            let found = try #require(histogram.quantile(share))
            #expect(found >= truth && found <= truth * 1.0906, "\(share): \(found) for \(truth)")
        }
        #expect(histogram.quantile(1) == lags.last)
        #expect(LagHistogram().quantile(0.5) == nil)
    }

    @Test("survives JSON, and refuses buckets that there are none of")
    func json() throws {
        var histogram = LagHistogram()
        for lag in [0, 0.5, 1e9, 1e300] { histogram.add(lag, weight: 3) }
        let copy = try JSONDecoder().decode(LagHistogram.self, from: JSONEncoder().encode(histogram))
        #expect(copy == histogram)
        #expect(throws: DecodingError.self) { try JSONDecoder().decode(LagHistogram.self, from: Data(#"{"buckets":[[999,1]],"maximum":1,"sum":1}"#.utf8)) }
    }
}
