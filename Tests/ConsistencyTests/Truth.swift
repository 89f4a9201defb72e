import ArchiveCore
import ArchiveTesting

/// Repeatable chance.
typealias Chance = SeededRandom

extension SeededRandom {
    init(_ seed: UInt64) { self.init(seed: seed) }

    mutating func happens(_ probability: Double) -> Bool { Double.random(in: 0..<1, using: &self) < probability }
    mutating func pick(_ range: ClosedRange<Int64>) -> Int64 { Int64.random(in: range, using: &self) }
    mutating func pick<T>(_ values: [T]) -> T? { values.randomElement(using: &self) }
}

let millisecond: Int64 = 1_000_000
let second: Int64 = 1_000_000_000
/// True time at which worlds begin, in nanoseconds since 1970.
let beginning: Int64 = 1_800_000_000 * second

/// A host's clock: true time and a deviation that drifts and is set anew at times.
struct HostClock {
    /// Nanoseconds for each second.
    private let drift: Int64
    private var deviations: [(from: Int64, value: Int64)]

    init(_ chance: inout Chance, most: Int64) {
        drift = most == 0 ? 0 : chance.pick(-100_000...100_000)
        deviations = [(beginning, most == 0 ? 0 : chance.pick(-most...most))]
    }

    mutating func set(to value: Int64, at time: Int64) { deviations.append((time, value)) }

    func read(_ time: Int64) -> Int64 {
        let value = deviations.last { $0.from <= time }?.value ?? deviations[0].value
        return time + value + (time - beginning) / second * drift
    }
}

/// Where an entry lies.
struct Place: Hashable {
    var storage: Int
    var partition: Int
    var offset: UInt64
}

/// An entry of a partition's log, as it truly was.
struct Entry {
    var place: Place
    var truth: Int64
    /// By its host's clock.
    var time: Int64
    /// The anchor's clock at the same moment.
    var anchorTime: Int64
    var flags: LogEvent.Flags
    var isArchived = false
}

/// A record of the anchor's log, as it truly was.
struct Record {
    var branch: UInt32
    var start: UInt64
    var end: UInt64
    var kind: LogEvent.Kind
    var time: Int64
    var truth: Int64
    var number: UInt64
    var subject: String
    /// Entries that the commit's rows name.
    var names: [Place]
    /// Taken back by a crash: it never was.
    var isLost = false
    var isArchived = false

    var isDecisive: Bool { !isLost && (kind == .commit || kind == .prepare) }
}

/// A fence, as it truly was.
struct Fence {
    var record: FenceRecord
    var storage: Int
    /// Highest entries by partition before the marker was written, and after.
    var v: [Int: UInt64]
    var v2: [Int: UInt64]
    var asked: Int64
    var listed: Int64
}
