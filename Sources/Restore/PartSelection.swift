import ArchiveCore
import Catalog
import Planner
import Source

/// Finds out what of a base and of a log one item needs.
struct PartSelection: Sendable {
    let catalog: Catalog
    let plan: SourcePlan
    let index: TreeIndex
    let log: ArchivedLog

    /// - Returns: the item's part of the base's index, the cuts of the streams that tell of it, and its paths.
    /// - Throws: `.usage` when the source cannot be restored in parts, `.targetUnreachable` when nothing is known of the item.
    func select(_ item: String, for target: any RestoreTarget) async throws -> (index: TreeIndex, cuts: [StreamCut], paths: Set<String>) {
        guard let partial = target as? any PartialRestoreTarget else {
            throw ArchiveError(.usage, "'\(plan.source)' can only be restored as a whole.", remedy: "Leave --repository out, or name a Gitaly storage with --into.")
        }
        let files = Dictionary(index.entries.filter { $0.kind == .file }.map { ($0.displayPath, $0) }, uniquingKeysWith: { _, b in b })
        var paths: Set<String> = [item]
        while true {
            let more = try await partial.companions(of: paths, cuts: plan.cuts, spans: plan.spans, log: log) { path in
                guard let entry = files[path] else { return nil }
                return try await content(of: entry)
            }
            if more == paths { break }
            paths = more
        }
        // Streams with a record about one of the paths.
        var streams: Set<String> = []
        for piece in log.pieces {
            try Task.checkCancellation()
            let index = try await log.index(of: piece)
            for event in index.events where paths.contains(event.subject) { streams.insert(index.spans[event.span].stream) }
        }
        let part = index.entries.filter { entry in
            paths.contains { path in isWithin(entry.path, path.utf8) || entry.kind == .directory && isWithin(Array(path.utf8), entry.path) }
        }
        guard !streams.isEmpty || part.contains(where: { isWithin($0.path, item.utf8) }) else {
            throw ArchiveError(
                .targetUnreachable, "Neither the base \(plan.base.id) of '\(plan.source)' nor its log up to the target knows '\(item)'.",
                remedy: "Write its path below the storage, such as @hashed/6b/86/….git; `tidemark log --repository` finds when one was created or deleted.")
        }
        return (TreeIndex(entries: part, spans: index.spans), plan.cuts.filter { streams.contains($0.stream) }, paths)
    }

    /// Whether `path` is `folder` or lies below it.
    private func isWithin(_ path: [UInt8], _ folder: some Collection<UInt8>) -> Bool {
        path.count >= folder.count && path.starts(with: folder) && (path.count == folder.count || path[folder.count] == UInt8(ascii: "/"))
    }

    private func content(of entry: TreeEntry) async throws -> [UInt8] {
        var bytes: [UInt8] = []
        for part in plan.base.parts where part.offset < entry.offset + entry.size && part.offset + part.length > entry.offset {
            let whole = try await catalog.read(part, of: plan.base, in: plan.incarnation)
            let from = max(entry.offset, part.offset) - part.offset
            let to = min(entry.offset + entry.size, part.offset + part.length) - part.offset
            bytes += whole[Int(from)..<Int(to)]
        }
        return bytes
    }
}
