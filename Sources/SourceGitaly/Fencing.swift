import ArchiveCore
import Digests
import Runtime
import Source

/// Which fences a storage's log gets.
public struct Fencing: Sendable {
    public var writer: any FenceWriter
    /// Shortest time between two fences, in seconds.
    public var interval: Double
    /// Seconds until the next attempt after a first failure, doubled from then on up to the second number.
    var backoff = (first: 5.0, last: 60.0)

    public init(writer: any FenceWriter, interval: Double) {
        self.writer = writer
        self.interval = interval
    }
}

/// When the next fence of a storage is due, and what its operator hears while none can be written.
struct FenceSchedule {
    private let fencing: Fencing
    private let output: Log
    /// Whether every entry given out so far was there before the last fence. Until then another one is wanted, though nothing new came.
    var isCovered = false
    private(set) var due = ContinuousClock.now
    /// Seconds between two attempts while they fail; `nil` while they do not.
    private var backoff: Double?

    init(_ fencing: Fencing, output: Log) {
        self.fencing = fencing
        self.output = output
    }

    /// - Parameter isLast: whether there will be no other look; then the interval does not count, but a failure that was noted does.
    func isDue(at instant: ContinuousClock.Instant, isLast: Bool) -> Bool { instant >= due || (isLast && backoff == nil) }

    /// Writes the marker of one fence for the positions listed, in a look that began at `instant`.
    ///
    /// - Returns: `nil` when it could not be written: then entries go without.
    mutating func write(_ positions: [String: UInt64], at instant: ContinuousClock.Instant) async -> FenceRecord? {
        do {
            let record = try await Self.attempt(positions, by: fencing.writer)
            due = instant + .seconds(fencing.interval)
            if backoff != nil { output.info("fences are written into the log of '\(fencing.writer.anchor)' again") }
            backoff = nil
            return record
        } catch {
            failed(error)
            return nil
        }
    }

    /// Writes one marker. - Throws: what the writer does.
    static func attempt(_ positions: [String: UInt64], by writer: any FenceWriter) async throws -> FenceRecord {
        let id = identifier(now())
        let digest = digest(positions)
        let asked = now()
        let mark = try await writer.write(id: id, digest: digest)
        return FenceRecord(
            id: id, anchor: writer.anchor, anchorIdentity: mark.anchorIdentity, branch: mark.branch, position: mark.position,
            anchorTime: mark.anchorTime, asked: asked, answered: now())
    }

    private mutating func failed(_ error: any Error) {
        let before = backoff
        let pause = before.map { min($0 * 2, fencing.backoff.last) } ?? fencing.backoff.first
        backoff = pause
        due = .now + .seconds(pause)
        guard before == nil || before == fencing.backoff.last else { return }
        output.warning(
            "no fence could be written into the log of '\(fencing.writer.anchor)': \(error) Entries are archived all the same; which of them came before a restore's target is told by the two clocks alone until fences are back. Trying again in \(pause) s.")
    }

    func close() async { await fencing.writer.close() }

    /// Of the positions in order, so that two fences for the same ones carry the same digest.
    private static func digest(_ positions: [String: UInt64]) -> String {
        let text = positions.sorted { ($0.key.utf8.count, $0.key) < ($1.key.utf8.count, $1.key) }
            .map { "\($0.key) \(PartitionLSN(rawValue: $0.value))\n" }.joined()
        return hexText(SHA256.of(Array(text.utf8)))
    }

    /// `20261124T025330Z-1a2b3c4d`: sorts by time, and no two are the same.
    private static func identifier(_ time: Moment) -> String {
        let digits = "\(Moment(rawValue: time.rawValue - time.rawValue % 1_000_000_000))".filter { $0 != "-" && $0 != ":" }
        return "\(digits)-\(hex(UInt64.random(in: 0...0xFFFF_FFFF), 8).lowercased())"
    }
}
