import Glibc

/// How often lags of which length were seen: buckets of equal ratio, eight to each doubling, from a millisecond on.
///
/// A quantile read from it is at most 9 % above the true one, and never below it.
public struct LagHistogram: Sendable, Hashable {
    /// Buckets to each doubling.
    public static let resolution = 8.0
    /// The last bucket, which takes everything above about 34,000 years.
    public static let last = 400

    /// Weights by bucket. Bucket 0 holds up to a millisecond; bucket n up to 2^(n/8) milliseconds.
    public private(set) var weights: [Int: UInt64] = [:]
    /// Of all weights.
    public private(set) var total: UInt64 = 0
    /// The longest lag, in seconds.
    public private(set) var maximum = 0.0
    /// Of lag times weight, in seconds.
    public private(set) var sum = 0.0

    public init() {}

    /// - Parameters:
    ///   - buckets: a bucket's number and its weight.
    /// - Returns: `nil` for a bucket that there is none of.
    public init?(buckets: [(Int, UInt64)], maximum: Double, sum: Double) {
        for (bucket, weight) in buckets {
            guard (0...Self.last).contains(bucket) else { return nil }
            weights[bucket, default: 0].add(weight)
            total.add(weight)
        }
        self.maximum = maximum
        self.sum = sum
    }

    /// The bucket of a lag in seconds.
    public static func bucket(of seconds: Double) -> Int {
        guard seconds > 0.001 else { return 0 }
        return Int(min(Double(last), (log2(seconds * 1000) * resolution).rounded(.up)))
    }

    /// The longest lag that a bucket takes, in seconds.
    public static func bound(of bucket: Int) -> Double { 0.001 * exp2(Double(bucket) / resolution) }

    public mutating func add(_ seconds: Double, weight: UInt64 = 1) {
        guard weight > 0 else { return }
        let seconds = max(0, seconds)
        weights[Self.bucket(of: seconds), default: 0].add(weight)
        total.add(weight)
        maximum = max(maximum, seconds)
        sum += seconds * Double(weight)
    }

    public static func += (a: inout LagHistogram, b: LagHistogram) {
        for (bucket, weight) in b.weights { a.weights[bucket, default: 0].add(weight) }
        a.total.add(b.total)
        a.maximum = max(a.maximum, b.maximum)
        a.sum += b.sum
    }

    /// The lag in seconds that a share of all weight does not exceed; `nil` where nothing was seen.
    ///
    /// - Parameter share: 0 to 1.
    public func quantile(_ share: Double) -> Double? {
        guard total > 0 else { return nil }
        let wanted = max(1, UInt64(exactly: (share * Double(total)).rounded(.up)) ?? total)
        var seen: UInt64 = 0
        for (bucket, weight) in weights.sorted(by: { $0.key < $1.key }) {
            seen.add(weight)
            if seen >= wanted { return min(Self.bound(of: bucket), maximum) }
        }
        return maximum
    }

    /// The weight of lags that are at most `seconds`, to the resolution of a bucket.
    public func weight(upTo seconds: Double) -> UInt64 {
        let bucket = Self.bucket(of: seconds)
        var sum: UInt64 = 0
        for (key, weight) in weights where key <= bucket { sum.add(weight) }
        return sum
    }
}

extension UInt64 {
    /// Up to the greatest number, whatever a record says.
    fileprivate mutating func add(_ other: UInt64) {
        let (sum, over) = addingReportingOverflow(other)
        self = over ? .max : sum
    }
}

extension LagHistogram: Codable {
    private enum Key: String, CodingKey { case buckets, maximum, sum }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        let pairs = try container.decode([[UInt64]].self, forKey: .buckets)
        guard pairs.allSatisfy({ $0.count == 2 && $0[0] <= UInt64(Self.last) }),
            let histogram = LagHistogram(
                buckets: pairs.map { (Int($0[0]), $0[1]) }, maximum: try container.decode(Double.self, forKey: .maximum), sum: try container.decode(Double.self, forKey: .sum))
        else { throw DecodingError.dataCorruptedError(forKey: .buckets, in: container, debugDescription: "no buckets of a lag histogram") }
        self = histogram
    }

    /// As the bounds' numbers and weights, ascending.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(weights.sorted { $0.key < $1.key }.map { [UInt64($0.key), $0.value] }, forKey: .buckets)
        try container.encode(maximum, forKey: .maximum)
        try container.encode(sum, forKey: .sum)
    }
}

/// Of base 2.
func logarithm(_ x: Double) -> Double { log2(x) }
