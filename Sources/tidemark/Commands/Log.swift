import ArchiveCore
import Catalog
import Glibc
import Planner
import Restore
import Runtime

/// Events as `tidemark log` shows them. Stable: fields are only added.
struct TimelineReport: Encodable {
    struct Offset: Encodable { var lowest, highest: Double }
    struct Event: Encodable {
        var time, source, kind, incarnation: String
        /// By the source's own clock, where it was corrected; and by how many milliseconds the clocks may differ.
        var ownTime: String?
        var clockOffset: Offset?
        var timeline: UInt32?
        var position: String
        var partition: String?
        var xid: UInt64?
        var subject: String?
        var details: [String]
        var detailCount: Int
        var flags: [String]
        /// Whether the source's present history does not have it.
        var left: Bool
        /// Options for `restore` and `plan`.
        var target: String

        init(_ event: TimelineEvent) {
            time = "\(event.time)"
            source = event.source
            kind = event.kind.rawValue
            incarnation = event.incarnation
            if event.offset != nil, event.kind != .fence { ownTime = "\(event.ownTime)" }
            clockOffset = event.offset.map { Offset(lowest: Double($0.lowerBound) / 1e6, highest: Double($0.upperBound) / 1e6) }
            if event.branch > 0 { timeline = event.branch }
            position = event.position
            if event.branch == 0, event.kind != .fence { partition = event.stream }
            if event.number > 0 { xid = event.number }
            if !event.subject.isEmpty { subject = event.subject }
            details = event.details
            detailCount = event.detailCount
            let names: [(LogEvent.Flags, String)] = [
                (.drops, "drops"), (.created, "created"), (.deleted, "deleted"), (.housekeeping, "housekeeping"), (.empty, "empty"),
                (.storageLink, "storage-link"), (.unresolvedLink, "unresolved-link"),
            ]
            flags = names.filter { event.flags.contains($0.0) }.map(\.1)
            left = event.isLeft
            target = TargetOptions.options(event.target)
        }
    }
    /// The period; `until` is missing where it is the end of the archive.
    var since, until: String?
    var events: [Event]
    /// Whether there are more than `--limit` lets through, and the time of the first of those.
    var more: Bool
    var next: String?
}

extension TargetOptions {
    /// A target as options of `restore` and `plan`, to be pasted behind them.
    static func options(_ request: PlanRequest) -> String {
        var text =
            switch request.target {
            case .time(let time): "--to-time \(time)"
            case .latest: "--latest"
            case .position(let position): "--to-lsn \(LSN(rawValue: position))"
            case .transaction(let number): "--to-xid \(number)"
            case .name(let name): "--to-name '\(name.replacing("'", with: "'\\''"))'"
            case .fence(let id): "--to-fence \(id)"
            }
        if request.exclusive { text += " --exclusive" }
        if let branch = request.branch { text += " --timeline \(branch)" }
        return text
    }
}

/// One event as a line for people.
struct TimelineLine {
    let event: TimelineEvent
    /// Details that are shown of one event.
    private static let shown = 3

    /// Whether something is gone after it.
    var isLoss: Bool { event.kind == .delete || event.flags.contains(.drops) }

    /// What happened. Nothing in it moves the cursor, whatever name somebody gave to a reference.
    var text: String {
        var text: String
        switch event.kind {
        case .commit:
            text = event.number > 0 ? "commit of transaction \(event.number)" : "commit"
            if event.flags.contains(.drops) {
                text = "DROP: transaction \(event.number) dropped \(event.detailCount) relations" + list(event.details)
            }
        case .abort: text = "rollback of transaction \(event.number)"
        case .prepare: text = "transaction \(event.number) prepared for a later commit"
        case .restorePoint: text = "restore point '\(event.subject)'"
        case .push: text = "push to \(event.subject)" + list(event.details.map(Self.reference))
        case .create: text = "repository \(event.subject) created" + list(event.details.map(Self.reference))
        case .delete: text = "DELETE: repository \(event.subject)"
        case .housekeeping: text = "housekeeping of \(event.subject)"
        case .entry: text = "entry \(event.position) of partition \(event.stream)\(event.flags.contains(.empty) ? ", which changes nothing" : " in \(event.subject)")"
        case .fence: text = "fence at \(event.position) of \(event.details.first ?? "")"
        }
        if event.isLeft { text += event.branch > 0 ? " (on timeline \(event.branch), which was left)" : " (of an earlier history, \(event.incarnation))" }
        return Output.plain(text)
    }

    private func list(_ details: [String]) -> String {
        guard !details.isEmpty else { return "" }
        let more = event.detailCount - min(details.count, Self.shown)
        return ": " + details.prefix(Self.shown).joined(separator: ", ") + (more > 0 ? " and \(more) more" : "")
    }

    /// `name new-id` with a short id.
    private static func reference(_ detail: String) -> String {
        let parts = detail.split(separator: " ", maxSplits: 1)
        guard parts.count == 2 else { return detail }
        let isID = parts[1].utf8.count >= 40 && parts[1].allSatisfy(\.isHexDigit)
        if isID, parts[1].allSatisfy({ $0 == "0" }) { return "\(parts[0]) deleted" }
        return isID ? "\(parts[0]) \(parts[1].prefix(12))" : "\(parts[0]) -> \(parts[1])"
    }
}

extension Output {
    /// Text without control characters, which a terminal would obey.
    static func plain(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "\u{FFFD}" : $0 }))
    }

    /// Whether what is written to a descriptor may be coloured: it is a terminal, and nobody asked for plain text.
    static func isColoured(_ descriptor: Int32) -> Bool {
        if let wish = getenv("NO_COLOR"), wish.pointee != 0 { return false }
        return isatty(descriptor) == 1 && getenv("TERM").map { String(cString: $0) } != "dumb"
    }

    static func bold(_ text: String) -> String { "\u{1B}[1;31m\(text)\u{1B}[0m" }
}

/// What `log` was asked for.
struct TimelineOptions {
    static let all = [
        Option("since", "TIME", help: "Begin at this moment, like --to-time of restore: RFC 3339, -2h, or a local time with --zone. Default: one hour before the end of the archive, or of --until; with --xid its beginning."),
        Option("until", "TIME", help: "End at this moment; default: the end of the archive."),
        Option("zone", "ZONE", help: "The zone of times without an offset, such as Europe/Berlin."),
        Option("repository", "PATH", help: "Only this repository: its path in the storage, a folder above it, or a pattern with * and ?."),
        Option("ref", "NAME", help: "Only pushes that change this reference: its name, its last parts (main), or a pattern such as refs/heads/*."),
        Option("xid", "XID", help: "Only this transaction."),
        Option("drops", help: "Only dropped relations and deleted repositories."),
        Option("all", help: "Also rollbacks, housekeeping, entries that change nothing, and fences."),
        Option("limit", "N", help: "Show at most so many events, the first of the period; default: 1000."),
    ]
    static let maximumLimit = 100_000
    static let defaultPeriod: Int64 = 3_600_000_000_000

    var query: TimelineQuery
    var limit: Int

    /// - Throws: `.usage` for what cannot be read, and for filters that no event can pass together.
    init(_ arguments: Arguments) throws(ArchiveError) {
        func time(_ name: String) throws(ArchiveError) -> Moment? {
            guard let text = arguments[name] else { return nil }
            return try TargetTime.parse(text, zone: text.hasPrefix("-") || Moment(text) != nil ? nil : arguments["zone"])
        }
        query = TimelineQuery(sources: arguments.all("source"), since: try time("since"), until: try time("until"))
        if arguments.has("zone"), query.since == nil, query.until == nil { throw ArchiveError(.usage, "--zone goes with --since and --until only.") }
        if let since = query.since, let until = query.until, since > until {
            throw ArchiveError(.usage, "--since \(since) is later than --until \(until).")
        }
        query.repository = arguments["repository"].map { NamePattern($0) }
        query.reference = arguments["ref"].map { NamePattern($0) }
        query.onlyDrops = arguments.has("drops")
        query.includesHidden = arguments.has("all")
        if let text = arguments["xid"] {
            guard let xid = UInt32(text), xid > 2 else { throw ArchiveError(.usage, "--xid takes a transaction id, a number from 3 to 4294967295, not '\(text)'.") }
            query.transaction = UInt64(xid)
        }
        for (a, b) in [("xid", "repository"), ("xid", "ref"), ("drops", "ref")] where arguments.has(a) && arguments.has(b) {
            throw ArchiveError(.usage, "--\(a) and --\(b) were both given, but no event is about both.", remedy: "Give one of them.")
        }
        limit = 1000
        if let text = arguments["limit"] {
            guard let number = Int(text), (1...Self.maximumLimit).contains(number) else {
                throw ArchiveError(.usage, "--limit takes a number from 1 to \(Self.maximumLimit), not '\(text)'.")
            }
            limit = number
        }
    }

    /// Fills in the beginning that was not given. - Returns: what to say about it; `nil` when there is nothing to say.
    mutating func complete(end: Moment?) -> String? {
        guard query.since == nil, query.transaction == nil, let until = query.until ?? end else { return nil }
        query.since = until.adding(nanoseconds: -Self.defaultPeriod)
        return query.until == nil ? "the last hour of the archive; --since shows more" : "the hour before; --since shows more"
    }
}

let logCommand = Command(
    "log", "What happened when: commits, drops, pushes, deletions; each with the target just before it.",
    options: Shared.place + [IdentityFile.option, Shared.source] + TimelineOptions.all,
    example: "tidemark log --drops --since 2026-11-24T11:00:00Z --until 2026-11-24T13:00:00Z"
) { arguments in
    let options = try TimelineOptions(arguments)
    let place = try ArchivePlace(arguments)
    return try await interruptible {
        var options = options
        let (catalog, fallbacks) = try await place.openReading(withIdentities: true)
        defer { fallbacks.warn() }
        try catalog.checkIdentity(for: "its log")
        let known = try await catalog.sources()
        guard !known.isEmpty else {
            throw ArchiveError(.targetUnreachable, "The archive holds no source yet.", remedy: "Start `tidemark agent`, then take a base with `tidemark backup`.")
        }
        if options.query.sources.isEmpty { options.query.sources = known }
        let loader = PlanLoader(catalog: catalog, kinds: Registry.kinds)
        let note = options.complete(end: try await loader.endOfArchive(of: options.query.sources))
        var timeline = try await loader.timeline(options.query)
        var events: [TimelineEvent] = []
        while events.count < options.limit, let event = try await timeline.next() { events.append(event) }
        let further = events.count == options.limit ? try await timeline.next() : nil
        if arguments.has("json") {
            try Output.json(
                TimelineReport(
                    since: options.query.since.map { "\($0)" }, until: options.query.until.map { "\($0)" }, events: events.map { .init($0) },
                    more: further != nil, next: further.map { "\($0.time)" }))
            return 0
        }
        let from = options.query.since.map { "from \(Output.time($0))" } ?? "from the beginning of the archive"
        Output.line("\(from) to \(options.query.until.map { Output.time($0) } ?? "the end of the archive")\(note.map { " (\($0))" } ?? "")")
        if events.isEmpty {
            Output.line("nothing that was asked for happened")
            return 0
        }
        let isColoured = Output.isColoured(1)
        var rows = [["time", "source", "to just before it", "what happened"]]
        for event in events {
            let line = TimelineLine(event: event)
            rows.append([
                Output.time(event.time), event.source, TargetOptions.options(event.target), line.isLoss && isColoured ? Output.bold(line.text) : line.text,
            ])
        }
        Output.line(Output.table(rows, indent: "  "))
        if let further { Output.note("note: there are more than \(options.limit) events: raise --limit, add a filter, or go on with --since \(further.time)") }
        return 0
    }
}
