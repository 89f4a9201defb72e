import ArchiveCore
import Store

extension Catalog {
    /// A file of the log under the source's own name: a closed piece, its tails put together and filled with zeros, or the file that
    /// tells of a branch.
    ///
    /// - Parameter target: where the recovery stops that asks for it; a hole behind that does not matter.
    /// - Returns: `nil` when the archive has no such file, and the log ends or branches off there.
    /// - Throws: `.archiveGap` when it has what comes before and after: a recovery that ended there would end too early.
    public func file(named name: String, of i: IncarnationRecord, recoveringTo target: LSN? = nil) async throws -> [UInt8]? {
        // An agent at work may replace tails by their closed piece in between.
        do { return try await fileNow(name, of: i, target) } catch let error as ArchiveError
            where error.code == .objectMissing || error.code == .archiveGap
        {
            return try await fileNow(name, of: i, target)
        }
    }

    private func fileNow(_ name: String, of i: IncarnationRecord, _ target: LSN?) async throws -> [UInt8]? {
        if let branch = try await branches(of: i).first(where: { $0.fileName == name }) { return branch.file }
        guard name.utf8.count == 24, let branch = UInt32(hexDigits: Array(name.utf8.prefix(8))) else { return nil }
        let piece = PieceName(branch: branch, name: name)
        let prefix = "log/\(i.source)/\(i.id)/"
        let found = try await store.listAll(prefix: "\(prefix)\(piece)").compactMap { self.piece(at: String($0.key.path.dropFirst(prefix.utf8.count))) }
        let indexed = found.filter(\.isIndex).map(\.name)
        if let closed = indexed.first(where: { $0.part == nil }) {
            return try await read(closed, index: try await index(of: closed, of: i), of: i).flatMap { $0 }
        }
        guard let size = i.facts["segment-size"].flatMap(UInt64.init).flatMap(SegmentSize.init(bytes:)) else {
            throw ArchiveError(.archiveDamaged, "The record of '\(i.source)' does not say how large its files are.")
        }
        guard let segment = SegmentName(name, size: size) else { return nil }
        let folder = "\(prefix)\(hex(UInt64(branch), 8))/"
        /// Refuses when the archive goes on behind `end`, where this file's content ends, and the recovery would have to.
        func refuseHole(at end: LSN, _ what: String) async throws {
            if let target, target < end { return }
            guard let later = try await store.list(prefix: folder, after: "\(prefix)\(piece)/", limit: 1).first?.key.path else { return }
            throw ArchiveError(
                .archiveGap, "The log of '\(i.source)' has a hole: \(what), and '\(later)' is there.",
                remedy: "Restore to a time before it, or from a newer base; `tidemark window` lists what can be reached.")
        }
        let tails = indexed.filter { $0.part != nil }
        guard !tails.isEmpty else {
            let first = try await store.list(prefix: folder, after: nil, limit: 1).first?.key.path
            if let first, first < "\(prefix)\(piece)" { try await refuseHole(at: segment.start, "'\(name)' is missing") }
            return nil
        }
        var content: [UInt8] = []
        var next = segment.start.rawValue
        for tail in tails {
            guard let part = tail.part, part.lowerBound == next else {
                throw ArchiveError(.archiveGap, "The tails of '\(name)' do not follow each other at \(LSN(rawValue: next)).")
            }
            content += try await read(tail, index: try await index(of: tail, of: i), of: i).flatMap { $0 }
            next = part.upperBound
        }
        if next < segment.end.rawValue { try await refuseHole(at: LSN(rawValue: next), "'\(name)' ends at \(LSN(rawValue: next))") }
        return content + [UInt8](repeating: 0, count: max(0, Int(size.bytes) - content.count))
    }
}
