import ArchiveCore

/// Bytes that may move: as many come in each second as the rate says, and at most a quarter of a second's are kept.
///
/// Whoever takes more than there are is let through, and the debt is waited for by the next: so a piece of any size passes in the end.
struct TokenBucket: Sendable {
    /// Bytes a second; `nil`: no limit.
    private(set) var rate: UInt64?
    private var balance: Double
    private var time: Moment

    init(rate: UInt64?, at time: Moment) {
        self.rate = rate
        self.time = time
        balance = Double(rate ?? 0) / 4
    }

    /// Fills up until `time` at the rate so far, and goes on at `rate`. A clock that runs backwards brings nothing.
    mutating func advance(to time: Moment, rate: UInt64?) {
        balance += max(0, time - self.time) * Double(self.rate ?? 0)
        if self.rate == nil { balance = 0 }
        balance = min(balance, Double(rate ?? 0) / 4)
        self.time = time
        self.rate = rate
    }

    /// - Returns: `false` when there is nothing left.
    mutating func take(_ bytes: Int) -> Bool {
        guard rate != nil else { return true }
        guard balance > 0 else { return false }
        balance -= Double(bytes)
        return true
    }

    mutating func putBack(_ bytes: Int) { if rate != nil { balance += Double(bytes) } }

    /// Seconds until `take` succeeds.
    var wait: Double {
        guard let rate, balance <= 0 else { return 0 }
        return (1 - balance) / Double(max(rate, 1))
    }
}

/// The transfers of one direction that share a bucket: who found it empty waits in line, and nobody overtakes.
struct BandwidthLine: Sendable {
    private(set) var bucket: TokenBucket
    private var waiting: [(id: UInt64, bytes: Int)] = []

    init(_ bucket: TokenBucket) { self.bucket = bucket }

    mutating func advance(to time: Moment, rate: UInt64?) { bucket.advance(to: time, rate: rate) }

    /// - Returns: `false` when `id` has to wait; then it is in line.
    mutating func take(_ bytes: Int, for id: UInt64) -> Bool {
        if waiting.isEmpty && bucket.take(bytes) { return true }
        waiting.append((id, bytes))
        return false
    }

    /// Lets those through who are first in line, as far as the bucket goes.
    mutating func admit() -> [(id: UInt64, bytes: Int)] {
        var count = 0
        while count < waiting.count, bucket.take(waiting[count].bytes) { count += 1 }
        defer { waiting.removeFirst(count) }
        return Array(waiting[..<count])
    }

    /// Takes `id` out of the line, and back what it was given and did not use.
    mutating func leave(_ id: UInt64, unused: Int) {
        waiting.removeAll { $0.id == id }
        bucket.putBack(unused)
    }

    /// Seconds until the first in line may go on; `nil` when nobody waits.
    var wait: Double? { waiting.isEmpty ? nil : bucket.wait }
}
