import ArchiveCore
import Catalog
import Planner
import Restore
import Source

struct ListResult: Encodable {
    struct Base: Encodable {
        var source, id, kind, incarnation: String
        var started, completed: String
        var files: Int
        var bytes, stored: UInt64
        var warnings: [String]
    }
    struct Log: Encodable {
        var source, kind, incarnation: String
        var pieces: Int
        var stored: UInt64
        var first, last: String?
        var records: Int
        var firstTime, lastTime: String?
        var watermark: String?
        var gaps: [String]
    }
    var bases: [Base]
    var logs: [Log]
    /// Of an archive that has copies, how far each of them is.
    var copies: [CopyStatus] = []
    /// What did not come from the primary.
    var fallbacks: [Fallback] = []
}

let listCommand = Command(
    "list", "Bases and logs, with their times.", options: Shared.place + [Shared.source], example: "tidemark list --archive file:///srv/tidemark"
) { arguments in
    let place = try ArchivePlace(arguments)
    let (catalog, fallbacks) = try await place.openReading()
    defer { fallbacks.warn() }
    var result = ListResult(bases: [], logs: [])
    let wanted = arguments.all("source")
    for source in try await catalog.sources() where wanted.isEmpty || wanted.contains(source) {
        for incarnation in try await catalog.incarnations(of: source) {
            for base in try await catalog.bases(of: incarnation) {
                result.bases.append(
                    .init(
                        source: source, id: base.id, kind: base.kind, incarnation: incarnation.id, started: "\(base.started)",
                        completed: "\(base.completed)", files: base.files, bytes: base.bytes,
                        stored: base.parts.reduce(0) { $0 + $1.storedLength }, warnings: base.warnings))
            }
            result.logs.append(try await log(of: incarnation, in: catalog))
        }
    }
    for copy in try place.copies() { result.copies.append(await CopyStatus.of(copy, beside: catalog).status) }
    result.fallbacks = fallbacks.json
    if arguments.has("json") {
        try Output.json(result)
        return 0
    }
    if result.bases.isEmpty { Output.line("no bases yet; take one with tidemark backup") } else {
        Output.line("bases")
        Output.line(
            Output.table(
                [["source", "id", "completed (UTC)", "files", "bytes", "stored", "warnings"]]
                    + result.bases.map {
                        [$0.source, $0.id, $0.completed, "\($0.files)", Output.bytes($0.bytes), Output.bytes($0.stored), "\($0.warnings.count)"]
                    }, indent: "  "))
        for base in result.bases { for warning in base.warnings { Output.line("  warning: \(base.source) \(base.id): \(warning)") } }
    }
    if result.logs.isEmpty { Output.line("no log yet; start tidemark agent") } else {
        Output.line("logs")
        Output.line(
            Output.table(
                [["source", "incarnation", "pieces", "stored", "records", "from (UTC)", "complete to (UTC)"]]
                    + result.logs.map {
                        [$0.source, $0.incarnation, "\($0.pieces)", Output.bytes($0.stored), "\($0.records)", $0.firstTime ?? "-", $0.watermark ?? "-"]
                    }, indent: "  "))
        for log in result.logs { for gap in log.gaps { Output.line("  gap: \(log.source): \(gap)") } }
    }
    if !result.copies.isEmpty {
        Output.line("copies")
        for copy in result.copies {
            Output.line("  \(copy.archive)\(copy.problem.map { ": \($0)" } ?? "")")
            Output.line(
                Output.table(
                    copy.logs.map { ["\($0.source)", $0.incarnation, "complete to \($0.watermark ?? "-")", $0.behindSeconds.map { "\(Output.oneDecimal($0)) s behind" } ?? "" ] },
                    indent: "    "))
        }
    }
    return 0
}

private func log(of incarnation: IncarnationRecord, in catalog: Catalog) async throws -> ListResult.Log {
    var log = ListResult.Log(
        source: incarnation.source, kind: incarnation.kind, incarnation: incarnation.id, pieces: 0, stored: 0, first: nil, last: nil, records: 0,
        firstTime: nil, lastTime: nil, watermark: nil,
        gaps: try await catalog.gaps(of: incarnation).map { "stream \($0.stream), \($0.start) to \($0.end): \($0.cause)" })
    var times: ClosedRange<Moment>?
    // Every branch by itself: none of them is a detour here.
    for branch in try await catalog.archivedBranches(of: incarnation) {
        guard let path = BranchPath(from: branch, to: branch, by: []) else { continue }
        var cursor = LogCursor(catalog: catalog, incarnation: incarnation, path: path, from: nil)
        while let piece = try await cursor.next() {
            log.pieces += 1
            log.stored += piece.storedLength
            log.records += Int(clamping: piece.totals.commits)
            log.first = log.first ?? piece.name.name
            log.last = piece.name.name
            if let some = piece.times { times = times.map { min($0.lowerBound, some.lowerBound)...max($0.upperBound, some.upperBound) } ?? some }
        }
    }
    log.firstTime = times.map { "\($0.lowerBound)" }
    log.lastTime = times.map { "\($0.upperBound)" }
    log.watermark = try await catalog.watermark(of: incarnation).map { "\($0)" }
    return log
}

