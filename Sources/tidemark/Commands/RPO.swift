import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Lag
import Runtime

let rpoCommand = Command(
    "rpo", "How much could have been lost, now and over a period.",
    options: Shared.place + [
        Shared.source,
        Option("since", "TIME", help: "The period's beginning: 7d for that long ago, or RFC 3339 with an offset; default: 7d."),
        Option("until", "TIME", help: "The period's end; default: now."),
        Option("objective", "DURATION", help: "Judge by this objective; default: that of the agents' configuration, as they recorded it."),
        Option("html", "FILE", help: "Write the report as one page for a browser or a printer; a file of that name is replaced."),
    ], example: "tidemark rpo --since 7d --html /tmp/rpo.html"
) { arguments in
    guard !(arguments.has("json") && arguments.has("html")) else { throw ArchiveError(.usage, "--json and --html were both given.", remedy: "Give one of them.") }
    let created = now()
    let to = try arguments["until"].map { text throws(ArchiveError) in try periodEnd(text, now: created) } ?? created
    guard to <= created else { throw ArchiveError(.usage, "The period ends in the future.", remedy: "Give an --until that is over, or none.") }
    let from = try periodEnd(arguments["since"] ?? "7d", now: created)
    guard from < to else { throw ArchiveError(.usage, "The period ends before it begins.", remedy: "Give a --since that is earlier than --until.") }
    var objective: Double?
    if let text = arguments["objective"] {
        guard let seconds = TargetTime.duration(text), (0.1...31_536_000).contains(seconds) else {
            throw ArchiveError(.usage, "--objective takes a duration from 100ms to 365d, such as 5s, not '\(text)'.")
        }
        objective = seconds
    }
    let place = try ArchivePlace(arguments)
    let (catalog, fallbacks) = try await place.openReading()
    defer { fallbacks.warn() }
    let known = try await catalog.sources()
    let wanted = arguments.all("source")
    for name in wanted where !known.contains(name) {
        throw ArchiveError(
            .usage, "The archive has no source '\(name)'.", remedy: known.isEmpty ? "It has none at all yet; start tidemark agent." : "It has: \(known.joined(separator: ", ")).")
    }
    var subjects: [RPOReport.Subject] = []
    for source in known where wanted.isEmpty || wanted.contains(source) { subjects.append(try await subject(source, from: from, to: to, now: created, in: catalog)) }
    guard !subjects.isEmpty else {
        throw ArchiveError(.usage, "The archive at \(catalog.store.description) has no source yet.", remedy: "Start `tidemark agent`; it records what it measures.")
    }
    let report = RPOReport.make(archive: catalog.store.description, subjects: subjects, from: from, to: to, now: created, objective: objective)
    if arguments.has("json") { try Output.json(report) } else if let path = arguments["html"] {
        try await blocking { try Files.writeDurably(Array(RPOPage(report).render().utf8), to: path, mode: 0o644) }
        Output.note("written to \(path)")
    } else {
        Output.put(RPOText(width: terminalWidth(), isUnicode: isUnicode()).render(report), to: 1)
    }
    return 0
}

/// `7d` or `-7d` for that long ago, or a time with its offset.
private func periodEnd(_ text: String, now: Moment) throws(ArchiveError) -> Moment {
    if let seconds = TargetTime.duration(text.hasPrefix("-") ? text.dropFirst() : text[...]) {
        guard seconds <= 3_153_600_000 else { throw ArchiveError(.usage, "'\(text)' is more than a hundred years.") }
        return now.adding(seconds: -seconds)
    }
    return try TargetTime.parse(text, zone: nil, now: now)
}

/// What is known of a source as of `to`.
private func subject(_ source: String, from: Moment, to: Moment, now: Moment, in catalog: Catalog) async throws -> RPOReport.Subject {
    let incarnations = try await catalog.incarnations(of: source)
    var subject = RPOReport.Subject(
        source: source, kind: incarnations.last?.kind ?? "", rows: try await catalog.lagRows(of: source, from: from, to: to),
        newest: try await catalog.newestLagRow(of: source, before: to), archivedUpTo: nil, verifiedUpTo: nil)
    if let newest = incarnations.last {
        // The watermark tells of the present; of times before only the rows do.
        if to == now { subject.archivedUpTo = try await catalog.watermark(of: newest) }
        subject.verifiedUpTo = try await catalog.verifiedUpTo(of: newest)
    }
    return subject
}

/// Columns; 100 where nobody looks.
private func terminalWidth() -> Int {
    var size = winsize()
    return ioctl(1, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 100
}

private func isUnicode() -> Bool {
    for name in ["LC_ALL", "LC_CTYPE", "LANG"] {
        guard let value = getenv(name).map({ String(cString: $0) }), !value.isEmpty else { continue }
        return value.lowercased().replacing("-", with: "").hasSuffix("utf8")
    }
    return false
}
