import ArchiveCore
import ArchiveTesting

/// How large an archive is to be, and how its log is spread over its time. Everything in it follows from this and nothing else.
struct Shape: Sendable {
    var days = 365
    var segments = 2_000_000
    var entries = 50_000_000
    var packs = 2_000_000
    var partitions = 100_000
    var commitsInSegment = 300
    var seed: UInt64 = 1
    var start = Moment("2025-01-01T00:00:00Z") ?? Moment(rawValue: 0)
    /// Times that will be planned for: the indexes of pieces around them are written in full.
    var targets: [Moment] = []

    static let second: Int64 = 1_000_000_000
    static let day: Int64 = 86_400 * second
    /// The Gitaly host's clock is behind PostgreSQL's by so many nanoseconds.
    static let clockOffset: Int64 = 5_000_000
    /// When in the day the bases are begun, and how long they take, in seconds.
    static let postgresBase = (hour: 2, seconds: 900)
    static let storageBase = (hour: 3, seconds: 1800)
    /// Nanoseconds before and after a target within which indexes are written in full, and pieces that are at least behind it.
    static let margin: Int64 = 600 * second
    static let piecesBehindTarget = 600

    var end: Moment { start.adding(nanoseconds: Int64(days) * Self.day) }
    var length: Int64 { Int64(days) * Self.day }

    /// A number that depends on the seed, on what it is for and on `n`.
    func random(_ purpose: UInt64, _ n: Int) -> UInt64 {
        var mixer = SeededRandom(seed: seed &* 0x9E37_79B9_7F4A_7C15 ^ purpose << 56 ^ UInt64(n))
        return mixer.next()
    }

    /// When segment `n` begins.
    func segmentTime(_ n: Int) -> Moment {
        start.adding(nanoseconds: Int64(Double(length) * Double(n) / Double(segments)))
    }

    /// When pack `n` is closed and its fence is asked for, by Gitaly's clock; ascending.
    func packTime(_ n: Int) -> Moment {
        let interval = Double(length) / Double(packs)
        let jitter = Double(random(1, n) % 1000) / 1000 * 0.8
        return start.adding(nanoseconds: Int64((Double(n) + 0.1 + jitter) * interval))
    }

    /// The position of PostgreSQL's log at a time by its own clock, 8 bytes aligned.
    func position(at time: Moment) -> UInt64 {
        let done = Double(time.rawValue - start.rawValue) / Double(length) * Double(segments)
        return (16 << 20) + UInt64(max(0, done) * Double(16 << 20)) / 8 * 8
    }

    /// The fence that belongs to pack `n`, whose marker lies in one segment as a whole.
    func fence(_ n: Int, anchor: IncarnationRecord, late: [FenceRecord.Late]) -> FenceRecord {
        let asked = packTime(n)
        let time = asked.adding(nanoseconds: Self.clockOffset + 400_000)
        let position = position(at: time)
        let inSegment = position % (16 << 20)
        return FenceRecord(
            id: "\(hex(random(2, n) >> 32, 8).lowercased())-\(n)", anchor: anchor.source, anchorIdentity: anchor.identity, branch: 1,
            position: inSegment < 256 ? position - inSegment + 256 : position, anchorTime: time, asked: asked,
            answered: asked.adding(nanoseconds: 900_000), late: late)
    }
}

/// Where the indexes of pieces must be real ones: around the targets.
struct RealRegions: Sendable {
    private let targets: [Moment]
    private var behind: [Int]

    init(_ shape: Shape) {
        targets = shape.targets.sorted()
        behind = targets.map { _ in 0 }
    }

    /// - Parameter time: of the next piece, in order.
    mutating func contains(_ time: Moment) -> Bool {
        var isReal = false
        for (i, target) in targets.enumerated() where time >= target.adding(nanoseconds: -Shape.margin) {
            if time > target { behind[i] += 1 }
            if time <= target.adding(nanoseconds: Shape.margin) || behind[i] <= Shape.piecesBehindTarget { isReal = true }
        }
        return isReal
    }
}
