import ArchiveCore
import Runtime
import Source

/// Where streaming begins, found out from the archive, the spool and the server.
struct StartPoint {
    /// The beginning of a segment.
    var position: UInt64
    var timeline: UInt32
    /// Complete segments of the spool that the archive lacks, in log order.
    var spooled: [ClosedSegment] = []
    /// What has to be told before anything else.
    var outputs: [LogOutput] = []
    /// Read everything before some position; see `makeDecoder`.
    var decoder: WALDecoder?

    /// - Parameters:
    ///   - connection: a replication connection; the slot is created on it when it is missing.
    ///   - archived: a decoder behind the archive's last segment, when it could be read back.
    ///   - restart: begin anew where the server still has WAL, because it no longer has what the archive needs.
    static func find(
        connection: Connection, slot: String, resume: ResumeState, archived: WALDecoder?, size: SegmentSize, spool: Spool, restart: String?
    ) throws -> StartPoint {
        let system = try connection.identifySystem()
        guard system.identifier == resume.incarnation.identity else {
            throw ArchiveError(
                .twoHistories, "The server's system identifier is \(system.identifier), but the archive holds \(resume.incarnation.identity).",
                remedy: "Connect to the right server, or give the new one another name in the configuration.")
        }
        var kept: UInt64?
        if restart != nil { try connection.dropSlot(slot) }
        switch try connection.slotState(slot) {
        case .present(let position): kept = position
        case .missing, .unknown: try connection.createSlot(slot)
        }
        if kept == nil, case .present(let position) = try connection.slotState(slot) { kept = position }
        let available = segmentStart(kept ?? system.position, size)

        let branches = Array(resume.lastPiece.keys) + resume.tails.map(\.name.branch)
        guard let newest = branches.max() else { return StartPoint(position: available, timeline: system.timeline) }
        guard newest <= system.timeline else {
            throw ArchiveError(
                .twoHistories, "The server is on timeline \(system.timeline), but the archive has timeline \(newest) already.",
                remedy: "Connect to the server that was promoted last; this one is of an older history.")
        }
        var point = StartPoint(position: available, timeline: newest, decoder: archived)
        if let tail = resume.tails.first(where: { $0.name.branch == newest })?.name, let name = SegmentName(tail.name, size: size) {
            point.position = name.start.rawValue
        } else if let last = resume.lastPiece[newest], let name = SegmentName(last.name, size: size) {
            point.position = name.end.rawValue
        }
        try point.takeSpool(spool, size: size, systemID: UInt64(resume.incarnation.identity))
        try point.followTimelines(to: system, connection: connection, size: size)
        if point.timeline == system.timeline, point.position > system.position {
            throw ArchiveError(
                .twoHistories,
                "The archive reaches \(LSN(rawValue: point.position)) on timeline \(point.timeline), but the server is only at \(LSN(rawValue: system.position)).",
                remedy: "The server was restored from an older state. Archive it under a new name, or connect to the right one.")
        }
        if let restart, available > point.position {
            let tailEnd = resume.tails.last { $0.name.branch == point.timeline }?.name.part?.upperBound ?? point.position
            point.outputs.append(
                .gap(
                    GapRecord(
                        stream: PostgresLogSource.stream, branch: point.timeline, start: max(point.position, min(tailEnd, available)), end: available,
                        noticed: now(), cause: restart)))
            point.position = available
            point.timeline = system.timeline
        }
        return point
    }

    /// Complete segments that an earlier run received and made durable, but could not archive.
    private mutating func takeSpool(_ spool: Spool, size: SegmentSize, systemID: UInt64?) throws {
        let names = try spool.segments().compactMap { SegmentName($0, size: size) }
        for name in names where name.end.rawValue <= position && name.timeline.rawValue <= timeline { try spool.discard(name.description) }
        guard let start = TimelineID(rawValue: timeline) else { return }
        var name = SegmentName(timeline: start, containing: LSN(rawValue: position), size: size)
        while names.contains(name) {
            let bytes = try spool.read(name.description)
            // A segment that is not whole ends in zeros, which are no record: it is asked from the server again.
            var decoder = makeDecoder(size: size, systemID: systemID)
            do { try bytes.withUnsafeBytes { try decoder.feed($0) } } catch is ArchiveError { return }
            spooled.append(
                ClosedSegment(
                    name: name.description, branch: timeline, start: name.start.rawValue, end: name.end.rawValue, bytes: nil,
                    events: decoder.events, lastRecord: decoder.lastRecord, tails: [], spooled: true))
            decoder.events = []
            self.decoder = decoder
            position = name.end.rawValue
            name = name.next
        }
    }

    /// A decoder for what comes at `position`: the one that read what comes before, when that follows, so that a record that goes on
    /// from there is known.
    func makeDecoder(size: SegmentSize, systemID: UInt64?) -> WALDecoder {
        if let decoder, decoder.position == position, decoder.timeline == timeline { return decoder }
        return WALDecoder(start: position, timeline: timeline, segmentSize: size.bytes, systemID: systemID)
    }

    /// Goes over to the timelines that followed, where ours ended before the position.
    private mutating func followTimelines(to system: Connection.System, connection: Connection, size: SegmentSize) throws {
        guard timeline < system.timeline else { return }
        let history = try connection.timelineHistory(system.timeline)
        while timeline < system.timeline {
            guard let end = history.end(of: timeline), let next = history.successor(of: timeline) else {
                throw ArchiveError(
                    .twoHistories, "The server's timeline \(system.timeline) does not descend from timeline \(timeline), which the archive has.",
                    remedy: "The server belongs to another history; archive it under a new name.")
            }
            guard end <= position else { return }
            outputs.append(.branch(try connection.timelineHistory(next).record))
            timeline = next
            position = segmentStart(end, size)
        }
    }
}

func segmentStart(_ position: UInt64, _ size: SegmentSize) -> UInt64 { position & ~(size.bytes - 1) }
