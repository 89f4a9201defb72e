import ArchiveCore
import Catalog
import Planner
import Restore
import Source

/// What can be restored, as `tidemark window` shows it. Stable: fields are only added.
struct WindowResult: Encodable {
    struct Interval: Encodable {
        var from, to: String
        init(_ range: ClosedRange<Moment>) {
            from = "\(range.lowerBound)"
            to = "\(range.upperBound)"
        }
    }
    struct Hole: Encodable {
        var stream, position: String
        /// The last time before it that can be restored, and the first after it.
        var lastBefore, firstAfter: String?
        var cause: String?
    }
    struct History: Encodable {
        var incarnation: String
        var timeline: UInt32?
        /// Whether it is the incarnation and timeline that a restore takes unless told otherwise.
        var newest: Bool
        var intervals: [Interval]
        var holes: [Hole]
        var unusableBases: [String]
        var watermark: String?
    }
    struct Source: Encodable {
        var name: String
        var intervals: [Interval]
        var watermark: String?
        var gaps: [String]
        var histories: [History]
        /// What to do when nothing can be restored.
        var remedy: String?
    }
    struct Clock: Encodable {
        var source: String
        /// The source whose clock counts, less this one's, in milliseconds, by the newest fence; missing without one.
        var anchor: String?
        var lowest, highest: Double?
    }
    struct Together: Encodable {
        var intervals: [Interval]
        /// How the times of sources with another clock were brought to the common one.
        var clocks: [Clock]
    }
    var sources: [Source]
    var together: Together
    /// What did not come from the primary.
    var fallbacks: [Fallback] = []
}

extension WindowResult {
    /// One source's part of the archive.
    struct Found {
        var name: String
        var windows: [BranchWindow]
        var gaps: [GapRecord]
        /// Whether its clock is the one that targets are in.
        var isAnchor: Bool
        var hasBases: Bool

        var newest: [BranchWindow] { windows.filter(\.isNewest) }
        var ranges: [ClosedRange<Moment>] { RecoveryWindow.union(newest.flatMap(\.ranges)) }
        var anchored: [ClosedRange<Moment>] { RecoveryWindow.union(newest.flatMap(\.anchored)) }

        /// What to do when nothing can be restored; `nil` when something can.
        var remedy: String? {
            guard ranges.isEmpty else { return nil }
            if !hasBases { return "there is no base: take one with tidemark backup --source \(name)" }
            if newest.contains(where: { !$0.holes.isEmpty }) { return "the log behind every base has a hole: take a new base with tidemark backup --source \(name)" }
            return "the log of the base is not all archived yet: start tidemark agent, or wait for it"
        }
    }

    /// The times that all sources have, by the clock of the one with the commits.
    static func together(_ found: [Found]) -> [ClosedRange<Moment>] {
        guard let first = found.first else { return [] }
        return found.count == 1 ? first.ranges : found.dropFirst().reduce(first.anchored) { RecoveryWindow.intersection($0, $1.anchored) }
    }

    init(_ found: [Found]) {
        sources = found.map { source in
            Source(
                name: source.name, intervals: source.ranges.map { Interval($0) }, watermark: source.newest.compactMap(\.watermark).max().map { "\($0)" },
                gaps: source.gaps.map { "stream \($0.stream), \($0.start) to \($0.end): \($0.cause)" },
                histories: source.windows.map { window in
                    History(
                        incarnation: window.incarnation.id, timeline: window.branch > 0 ? window.branch : nil,
                        newest: window.isNewest && window.incarnation.id == source.windows.last?.incarnation.id,
                        intervals: window.ranges.map { Interval($0) },
                        holes: window.holes.map {
                            Hole(stream: $0.stream, position: $0.position, lastBefore: $0.last.map { "\($0)" }, firstAfter: $0.next.map { "\($0)" }, cause: $0.cause)
                        }, unusableBases: window.unusable, watermark: window.watermark.map { "\($0)" })
                }, remedy: source.remedy)
        }
        together = Together(
            intervals: Self.together(found).map { Interval($0) },
            clocks: found.count < 2 ? [] : found.filter { !$0.isAnchor }.map { source in
                let fence = source.newest.last?.fence
                return Clock(
                    source: source.name, anchor: fence?.anchor, lowest: fence.map { Double($0.offset.lowerBound) / 1e6 },
                    highest: fence.map { Double($0.offset.upperBound) / 1e6 })
            })
    }

    /// Lines for people.
    static func lines(_ found: [Found]) -> [String] {
        var lines: [String] = []
        func show(_ range: ClosedRange<Moment>, _ indent: String) {
            lines.append("\(indent)from \(Output.time(range.lowerBound))")
            lines.append("\(indent)  to \(Output.time(range.upperBound))")
        }
        for source in found {
            lines.append("\(source.name):")
            if let remedy = source.remedy { lines.append("  nothing can be restored; \(remedy)") }
            let isOne = source.windows.count == 1
            var told: [GapRecord] = []
            for window in source.windows {
                let indent = isOne ? "  " : "    "
                if !isOne {
                    let timeline = window.branch > 0 ? ", timeline \(window.branch)" : ""
                    lines.append("  \(window.incarnation.id)\(timeline)\(window.isNewest ? "" : " (left; restore it with --timeline \(window.branch))"):")
                    if window.ranges.isEmpty { lines.append("\(indent)nothing") }
                }
                for range in window.ranges { show(range, indent) }
                for hole in window.holes {
                    told += source.gaps.filter { $0.stream == hole.stream && $0.start <= hole.offset && $0.end > hole.offset }
                    lines.append("\(indent)hole: stream \(hole.stream) at \(hole.position)\(hole.cause.map { ": \($0)" } ?? ", of no recorded cause")")
                    if let last = hole.last { lines.append("\(indent)  the last time before it: \(Output.time(last))") }
                    lines.append("\(indent)  " + (hole.next.map { "the first time after it: \(Output.time($0))" } ?? "nothing after it can be restored: take a new base"))
                }
                for base in window.unusable where window.holes.isEmpty { lines.append("\(indent)base \(base): its log is not all archived yet") }
            }
            for gap in source.gaps where !told.contains(gap) {
                lines.append("  gap: stream \(gap.stream), \(gap.start) to \(gap.end), noticed \(Output.time(gap.noticed)): \(gap.cause)")
            }
        }
        guard found.count > 1 else { return lines }
        lines.append("together:")
        let together = together(found)
        if together.isEmpty { lines.append("  no time can be restored for all of them") }
        for range in together { show(range, "  ") }
        for source in found where !source.isAnchor {
            if let fence = source.newest.last?.fence {
                let bounds = [fence.offset.lowerBound, fence.offset.upperBound].map { Output.oneDecimal(abs(Double($0) / 1e6)).withSign($0 < 0) }
                lines.append("  by the clock of '\(fence.anchor)', from which that of '\(source.name)' differs by \(bounds[0]) to \(bounds[1]) ms: its bounds were moved inwards")
            } else {
                lines.append("  '\(source.name)' by its own clock: it has no fences that would compare it")
            }
        }
        return lines
    }
}

extension String {
    fileprivate func withSign(_ isNegative: Bool) -> String { isNegative ? "-" + self : self }
}

let windowCommand = Command(
    "window", "The times that can be restored, for each source and together, with gaps.", options: Shared.place + [Shared.source],
    example: "tidemark window --json"
) { arguments in
    let place = try ArchivePlace(arguments)
    return try await interruptible {
        let (catalog, fallbacks) = try await place.openReading()
        defer { fallbacks.warn() }
        let loader = PlanLoader(catalog: catalog, kinds: Registry.kinds)
        let wanted = arguments.all("source")
        let known = try await catalog.sources()
        var found: [WindowResult.Found] = []
        for source in wanted.isEmpty ? known : wanted {
            var gaps: [GapRecord] = []
            var hasBases = false
            let incarnations = try await loader.incarnations(of: source)
            for incarnation in incarnations {
                gaps += try await catalog.gaps(of: incarnation)
                if !hasBases { hasBases = try await !catalog.bases(of: incarnation).isEmpty }
            }
            found.append(
                .init(
                    name: source, windows: try await loader.windows(of: source), gaps: gaps,
                    isAnchor: try incarnations.last.map { try Registry.kind($0.kind).carriesFences } ?? false, hasBases: hasBases))
        }
        if arguments.has("json") {
            var result = WindowResult(found)
            result.fallbacks = fallbacks.json
            try Output.json(result)
        } else {
            for line in WindowResult.lines(found) { Output.line(line) }
        }
        return 0
    }
}
