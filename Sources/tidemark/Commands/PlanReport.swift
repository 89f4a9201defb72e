import ArchiveCore
import Planner
import Restore

/// A plan as `plan` and `restore` show it. Stable: fields are only added.
struct PlanReport: Encodable {
    struct Base: Encodable {
        var id, completed: String
        var bytes, stored: UInt64
    }
    struct Counts: Encodable {
        var commits, drops, pushes, repositoriesCreated, repositoriesDeleted: UInt64
        init(_ totals: LogTotals) {
            commits = totals.commits
            drops = totals.drops
            pushes = totals.pushes
            repositoriesCreated = totals.created
            repositoriesDeleted = totals.deleted
        }
    }
    struct Cut: Encodable {
        var stream: String
        /// The last record that is applied, and the first position behind it.
        var through: String?
        var end: String
        /// Records to replay over the base: for a partition entries, else bytes.
        var length: UInt64
    }
    struct Fence: Encodable {
        var id, anchor, position, time: String
        init(_ fence: FenceRecord) {
            id = fence.id
            anchor = fence.anchor
            position = LSN(rawValue: fence.position).description
            time = "\(fence.anchorTime)"
        }
    }
    struct Precision: Encodable {
        /// `fences`: both sides are fenced; `one fence`; `clocks`: nothing but times decided.
        var decidedBy: String
        var fenceBefore, fenceAfter: Fence?
        var undecided, taken, leftOut: Int
        var heldDeletions: [String]
        /// The anchor's clock less the source's, in milliseconds.
        var clockOffsetLowest, clockOffsetHighest: Double?
        var slackSeconds: Double
    }
    struct Source: Encodable {
        var source, kind, incarnation: String
        var timeline: UInt32
        var base: Base
        var segments, tails, packs: Int
        var bytes: UInt64
        var estimatedSeconds: Double
        var applied: Counts
        var left: Counts?
        var firstLost: [String]
        var lastApplied: String?
        var cuts: [Cut]
        var precision: Precision?
        var warnings: [String]
    }
    /// Of a plan that is stored in the archive.
    var plan: String?
    var target: String
    var moment: String?
    var bytes: UInt64
    var estimatedSeconds: Double
    var sources: [Source]
    var warnings: [String]
    /// What did not come from the primary; of a restore it is told beside its parts.
    var fallbacks: [Fallback] = []

    /// - Parameter lost: what lies right behind each source's cut.
    init(_ joint: JointPlan, target: String, saved: String?, lost: [String: [LogEvent]]) throws {
        plan = saved
        self.target = target
        moment = joint.moment.map { "\($0)" }
        warnings = joint.warnings
        sources = try joint.plans.map { try Source($0, lost: lost[$0.source] ?? []) }
        bytes = sources.reduce(0) { $0 + $1.bytes }
        estimatedSeconds = sources.reduce(0) { $0 + $1.estimatedSeconds }
    }
}

extension PlanReport.Source {
    /// Bytes and entries that a restore gets through in a second, as `integration/bench restore` and `gitaly` measure them on two cores.
    private static let pace = (stored: 60e6, log: 100e6, entries: 3000.0)

    init(_ plan: SourcePlan, lost: [LogEvent]) throws {
        let kind = try Registry.kind(plan.incarnation.kind)
        source = plan.source
        self.kind = plan.incarnation.kind
        incarnation = plan.incarnation.id
        timeline = plan.branch
        let stored = plan.base.parts.reduce(0) { $0 + $1.storedLength }
        base = .init(id: plan.base.id, completed: "\(plan.base.completed)", bytes: plan.base.bytes, stored: stored)
        segments = plan.pieces.count { $0.name.part == nil && $0.name.suffix == "zst" }
        tails = plan.pieces.count { $0.name.part != nil }
        packs = plan.pieces.count { $0.name.suffix == "tar.zst" }
        bytes = plan.bytes
        applied = .init(plan.applied)
        left = plan.left.map { .init($0) }
        lastApplied = plan.lastApplied.map { "\($0)" }
        let starts = Dictionary(plan.spans.map { ($0.stream, $0.start) }, uniquingKeysWith: { a, _ in a })
        cuts = plan.cuts.map { cut in
            let start = starts[cut.stream] ?? kind.firstOffset
            return .init(
                stream: cut.stream, through: cut.through.map { kind.describe(offset: $0) }, end: kind.describe(offset: cut.end),
                length: cut.end > start ? cut.end - start : 0)
        }
        let length = Double(cuts.reduce(0) { $0 + $1.length })
        estimatedSeconds = 1 + Double(stored) / Self.pace.stored + length / (kind.streamsMayBeginEmpty ? Self.pace.entries : Self.pace.log)
        firstLost = lost.map { event in
            if event.flags.contains(.drops) { return "\(event.time): transaction \(event.number) dropped \(event.details.first ?? "some") relations" }
            return "\(event.time): \(event.subject.isEmpty ? "a repository, the name of which is encrypted," : event.subject) \(event.flags.contains(.deleted) ? "deleted" : "created")"
        }
        precision = plan.precision.map { p in
            .init(
                decidedBy: p.before != nil && p.after != nil ? "fences" : p.before != nil || p.after != nil ? "one fence" : "clocks",
                fenceBefore: p.before.map { .init($0) }, fenceAfter: p.after.map { .init($0) }, undecided: p.undecided, taken: p.taken, leftOut: p.left,
                heldDeletions: p.heldDeletions, clockOffsetLowest: p.offset.map { Double($0.lowerBound) / 1e6 },
                clockOffsetHighest: p.offset.map { Double($0.upperBound) / 1e6 }, slackSeconds: Double(p.slack) / 1e9)
        }
        warnings = plan.warnings
    }

    /// Lines for people; the first begins with the source's name.
    var lines: [String] {
        var lines = ["\(source): base \(base.id) of \(base.completed), \(Output.bytes(base.stored)); log: \(logText), \(Output.bytes(bytes - base.stored))"]
        let cut = cuts.count == 1 && timeline > 0 ? "cut after \(cuts[0].through ?? cuts[0].end) on timeline \(timeline)" : "cut in \(cuts.count) partitions, \(cuts.reduce(0) { $0 + $1.length }) entries to replay"
        lines.append("  \(cut): \(applied.commits) commits\(lastApplied.map { ", the last of \($0)" } ?? "")")
        if let left, left.commits > 0 {
            var parts = ["\(left.commits) commits"]
            if left.drops > 0 { parts.append("\(left.drops) of them drop relations") }
            if left.pushes > 0 { parts.append("\(left.pushes) pushes") }
            if left.repositoriesCreated > 0 { parts.append("\(left.repositoriesCreated) repositories created") }
            if left.repositoriesDeleted > 0 { parts.append("\(left.repositoriesDeleted) repositories deleted") }
            lines.append("  after the cut and lost: \(parts.joined(separator: ", "))")
        } else if left != nil { lines.append("  nothing archived lies after the cut") }
        for lost in firstLost.prefix(5) { lines.append("    \(lost)") }
        if firstLost.count > 5 { lines.append("    … and others; `tidemark log` lists them") }
        if let precision { lines += precision.lines }
        lines += warnings.map { "  warning: \($0)" }
        return lines
    }

    private var logText: String {
        var parts: [String] = []
        if segments > 0 { parts.append("\(segments) segments") }
        if tails > 0 { parts.append("\(tails) tails") }
        if packs > 0 { parts.append("\(packs) packs") }
        return parts.isEmpty ? "none" : parts.joined(separator: ", ")
    }
}

extension PlanReport.Precision {
    var lines: [String] {
        var line: String
        switch decidedBy {
        case "fences": line = "between fence \(fenceBefore?.position ?? "") and fence \(fenceAfter?.position ?? "")"
        case "one fence": line = fenceBefore.map { "after fence \($0.position), with none behind it" } ?? "before fence \(fenceAfter?.position ?? ""), with none in front of it"
        default: line = "no fence: decided by clocks alone"
        }
        line += undecided == 0 ? "; every entry is decided" : "; \(undecided) entries decided by their time: \(taken) in, \(leftOut) out"
        if let low = clockOffsetLowest, let high = clockOffsetHighest {
            func text(_ ms: Double) -> String { "\((ms * 10).rounded() / 10)" }
            line += "; the clocks differ by \(text(low)) to \(text(high)) ms"
        }
        return ["  precision: \(line)"] + heldDeletions.map { "    a deletion that may lie after the cut is not applied: \($0)" }
    }
}
