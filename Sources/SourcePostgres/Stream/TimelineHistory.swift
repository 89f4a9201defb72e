import ArchiveCore

/// PostgreSQL's own account of how a timeline came to be.
struct TimelineHistory: Sendable {
    var timeline: UInt32
    var fileName: String
    var file: [UInt8]
    /// From the oldest to the parent; each with the first position that no longer belongs to it.
    var ancestors: [BranchRecord.Ancestor]

    init(timeline: UInt32, fileName: String, file: [UInt8]) throws(ArchiveError) {
        self.timeline = timeline
        self.fileName = fileName
        self.file = file
        ancestors = []
        for line in String(decoding: file, as: UTF8.self).split(whereSeparator: \.isNewline) {
            let fields = line.split(whereSeparator: \.isWhitespace)
            guard let first = fields.first, !first.hasPrefix("#") else { continue }
            guard fields.count >= 2, let id = UInt32(first), id > ancestors.last?.branch ?? 0, id < timeline,
                let end = LSN(String(fields[1]))
            else { throw ArchiveError(.logDamaged, "The history of timeline \(timeline) has the line '\(line)', which was not understood.") }
            ancestors.append(.init(branch: id, end: end.rawValue))
        }
        guard !ancestors.isEmpty || timeline == 1 else {
            throw ArchiveError(.logDamaged, "The history of timeline \(timeline) names no ancestor.")
        }
    }

    /// Where `timeline` ended, when it is an ancestor.
    func end(of timeline: UInt32) -> UInt64? { ancestors.first { $0.branch == timeline }?.end }

    /// The timeline that followed `timeline` on the way here.
    func successor(of timeline: UInt32) -> UInt32? {
        guard let i = ancestors.firstIndex(where: { $0.branch == timeline }) else { return nil }
        return i + 1 < ancestors.count ? ancestors[i + 1].branch : self.timeline
    }

    var record: BranchRecord { BranchRecord(branch: timeline, ancestors: ancestors, file: file, fileName: fileName) }
}
