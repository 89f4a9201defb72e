import ArchiveCore
import Store

extension Catalog {
    /// A file of the log under the source's own name: a closed piece, its tails put together and filled with zeros, or the file that
    /// tells of a branch.
    ///
    /// - Returns: `nil` when the archive has no such file, and the log ends or branches off there.
    /// - Throws: `.archiveGap` when it has what comes before and after: a recovery that ended there would end too early.
    public func file(named name: String, of i: IncarnationRecord) async throws -> [UInt8]? {
        // An agent at work may replace tails by their closed piece in between.
        do { return try await fileNow(name, of: i) } catch let error as ArchiveError where error.code == .objectMissing {
            return try await fileNow(name, of: i)
        }
    }

    private func fileNow(_ name: String, of i: IncarnationRecord) async throws -> [UInt8]? {
        if let branch = try await branches(of: i).first(where: { $0.fileName == name }) { return branch.file }
        guard name.utf8.count == 24, let branch = UInt32(hexDigits: Array(name.utf8.prefix(8))) else { return nil }
        let piece = PieceName(branch: branch, name: name)
        let prefix = "log/\(i.source)/\(i.id)/"
        let keys = try await store.listAll(prefix: "\(prefix)\(piece)").map { String($0.key.path.dropFirst(prefix.utf8.count)) }
        let indexed = keys.filter { $0.hasSuffix(".idx") }.compactMap { PieceName(path: String($0.dropLast(4))) }
        if let closed = indexed.first(where: { $0.part == nil }) {
            return try await read(closed, index: try await index(of: closed, of: i), of: i).flatMap { $0 }
        }
        let tails = indexed.filter { $0.part != nil }
        guard !tails.isEmpty else {
            let folder = "\(prefix)\(hex(UInt64(branch), 8))/"
            let first = try await store.list(prefix: folder, after: nil, limit: 1).first?.key.path
            let later = try await store.list(prefix: folder, after: "\(prefix)\(piece)/", limit: 1).first?.key.path
            if let first, let later, first < "\(prefix)\(piece)" {
                throw ArchiveError(
                    .archiveGap, "The log of '\(i.source)' has a hole: '\(name)' is missing, and '\(later)' is there.",
                    remedy: "Restore to a time before it, or from a newer base; `tidemark window` lists what can be reached.")
            }
            return nil
        }
        guard let size = i.facts["segment-size"].flatMap(UInt64.init) else {
            throw ArchiveError(.archiveDamaged, "The record of '\(i.source)' does not say how large its files are.")
        }
        var content: [UInt8] = []
        var next = tails[0].part!.lowerBound / size * size
        for tail in tails {
            guard let part = tail.part, part.lowerBound == next else {
                throw ArchiveError(.archiveGap, "The tails of '\(name)' do not follow each other at \(LSN(rawValue: next)).")
            }
            content += try await read(tail, index: try await index(of: tail, of: i), of: i).flatMap { $0 }
            next = part.upperBound
        }
        return content + [UInt8](repeating: 0, count: max(0, Int(size) - content.count))
    }
}
