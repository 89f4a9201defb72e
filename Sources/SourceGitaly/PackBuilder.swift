import ArchiveCore

/// Collects entries of all partitions into one piece of log.
struct PackBuilder {
    static let maximumEntries = 4096
    /// Bytes of content after which a pack is closed; one entry may be larger.
    static let maximumBytes = 8 << 20

    /// Entries after which the pack is full.
    let limit: Int
    private var frames: [[UInt8]] = []
    private var events: [LogEvent] = []
    private var spans: [LogSpan] = []
    private var spanOf: [String: Int] = [:]
    private var bytes = 0
    var isEmpty: Bool { events.isEmpty }
    var isFull: Bool { events.count >= limit || bytes >= Self.maximumBytes }

    init(limit: Int = Self.maximumEntries) { self.limit = limit }

    mutating func add(_ found: FoundEntry) {
        let frame = EntryFrame.encode(
            partition: found.partition, lsn: found.lsn, time: found.time, manifest: found.manifest, files: found.files)
        let span: Int
        if let known = spanOf[found.partition] {
            span = known
            spans[span].end = found.lsn + 1
            spans[span].lastRecord = found.lsn
        } else {
            span = spans.count
            spanOf[found.partition] = span
            spans.append(LogSpan(stream: found.partition, branch: 0, start: found.lsn, end: found.lsn + 1, lastRecord: found.lsn))
        }
        let entry = found.entry
        var flags: LogEvent.Flags = []
        if entry.createsRepository { flags.insert(.created) }
        if entry.isDeletion { flags.insert(.deleted) }
        if entry.isHousekeeping { flags.insert(.housekeeping) }
        if entry.operations.isEmpty { flags.insert(.empty) }
        if !found.links.isEmpty || found.unresolvedLinks > 0 { flags.insert(.storageLink) }
        if found.unresolvedLinks > 0 { flags.insert(.unresolvedLink) }
        events.append(
            LogEvent(
                span: span, start: found.lsn, end: found.lsn + 1, time: found.time, kind: .commit, flags: flags,
                subject: String(decoding: entry.relativePath, as: UTF8.self),
                details: entry.references.map {
                    "\(String(decoding: $0.name, as: UTF8.self)) \($0.newID.isEmpty ? String(decoding: $0.newTarget, as: UTF8.self) : $0.newID)"
                }, frame: frames.count))
        bytes += frame.count
        frames.append(frame)
        if !found.links.isEmpty {
            let links = EntryFrame.encodeLinks(partition: found.partition, lsn: found.lsn, time: found.time, found.links)
            bytes += links.count
            frames.append(links)
        }
    }

    /// - Parameter fence: the one that this pack completes; then there need not be any entry.
    func piece(number: UInt64, fence: FenceRecord? = nil) -> LogPiece {
        LogPiece(
            name: PieceName(branch: 0, name: hex(number, 16), suffix: "tar.zst"), frames: frames + [EntryFrame.end], spans: spans,
            events: events, sequence: number, fences: fence.map { [$0] } ?? [])
    }
}
