import ArchiveCore
import Source

/// Reads archived segments and tails as WAL: every page, every CRC, every event.
struct WALIndexer: LogIndexer {
    private let size: SegmentSize
    private let systemID: UInt64?
    /// Stands behind the last piece that was read; `nil` behind damage.
    private var decoder: WALDecoder?

    init(size: SegmentSize, systemID: UInt64?) {
        self.size = size
        self.systemID = systemID
    }

    mutating func read(_ name: PieceName, frames: [[UInt8]]) throws(ArchiveError) -> PieceContent? {
        guard let segment = SegmentName(name.name, size: size), segment.timeline.rawValue == name.branch else {
            throw ArchiveError(.logDamaged, "'\(name)' is not the name of a segment of \(size.bytes) bytes on its timeline.")
        }
        let start = name.part?.lowerBound ?? segment.start.rawValue
        let end = name.part?.upperBound ?? segment.end.rawValue
        let length = frames.reduce(0) { $0 + UInt64($1.count) }
        guard length == end - start else {
            throw ArchiveError(.logDamaged, "'\(name)' holds \(length) bytes of WAL instead of \(end - start).")
        }
        // A record may go on from the piece before: only who read that one knows what it is.
        var reader: WALDecoder
        var isKnown = false
        if let decoder, decoder.timeline == name.branch, decoder.position == start {
            reader = decoder
            isKnown = !decoder.isPassing
        } else {
            guard start == segment.start.rawValue else { return nil }
            reader = WALDecoder(start: start, timeline: name.branch, segmentSize: size.bytes, systemID: systemID)
        }
        decoder = nil
        do { for frame in frames { try frame.withUnsafeBytes { try reader.feed($0) } } } catch let error as ArchiveError {
            throw ArchiveError(.logDamaged, "The WAL in '\(name)' is damaged.", cause: error)
        } catch {
            throw ArchiveError(.logDamaged, "The WAL in '\(name)' could not be read.", cause: error)
        }
        let events = reader.events
        reader.events = []
        decoder = reader
        return PieceContent(
            spans: [LogSpan(stream: PostgresLogSource.stream, branch: name.branch, start: start, end: end, lastRecord: reader.lastRecord)],
            events: events, beginsInside: !isKnown && reader.beganInside)
    }
}

extension WALDecoder {
    /// A decoder that stands where the archive's closed segments of the newest timeline end, and knows the record that goes on there.
    ///
    /// Without it the event of a record that begins in an archived segment and ends in the next one would be lost at each restart.
    /// Reads back as many segments as that record needs, nearly always one.
    ///
    /// - Returns: `nil` when the archive has no closed segment of that timeline.
    /// - Throws: what reading the archive throws; `.logDamaged`.
    static func behind(_ resume: ResumeState, size: SegmentSize) async throws -> WALDecoder? {
        let branches = Array(resume.lastPiece.keys) + resume.tails.map(\.name.branch)
        guard let content = resume.content, let branch = branches.max(), let last = resume.lastPiece[branch],
            let newest = SegmentName(last.name, size: size), let timeline = TimelineID(rawValue: branch)
        else { return nil }
        func decoder(at name: SegmentName) -> WALDecoder {
            WALDecoder(
                start: name.start.rawValue, timeline: branch, segmentSize: size.bytes, systemID: UInt64(resume.incarnation.identity))
        }
        func feed(_ decoder: inout WALDecoder, _ name: SegmentName) async throws {
            for frame in try await content(PieceName(branch: branch, name: name.description)) {
                try frame.withUnsafeBytes { try decoder.feed($0) }
            }
            decoder.events = []
        }
        var first = newest
        var result = decoder(at: first)
        try await feed(&result, first)
        while result.isPassing, first.start.rawValue > 0 {
            // The whole segment is the middle of one record.
            first = SegmentName(timeline: timeline, containing: LSN(rawValue: first.start.rawValue - 1), size: size)
            do {
                result = decoder(at: first)
                try await feed(&result, first)
            } catch let error as ArchiveError where error.code == .objectMissing { return nil }  // the archive begins in that record
        }
        while first.index < newest.index {
            first = first.next
            try await feed(&result, first)
        }
        return result
    }
}
