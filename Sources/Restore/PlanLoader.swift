import ArchiveCore
import Catalog
import Planner
import Source

/// Reads from the archive what the planner needs, and asks it base by base, newest first.
public struct PlanLoader: Sendable {
    let catalog: Catalog

    public init(catalog: Catalog) { self.catalog = catalog }

    /// - Throws: `.targetUnreachable` with the nearest times that can be reached, when no base serves the target.
    public func plan(source: String, target: RecoveryTarget, kinds: [any ComponentKind]) async throws -> SourcePlan {
        let incarnations = try await catalog.incarnations(of: source)
        guard !incarnations.isEmpty else {
            let known = try await catalog.sources()
            throw ArchiveError(
                .targetUnreachable, "The archive has no source '\(source)'.",
                remedy: known.isEmpty ? "Start `tidemark agent` first." : "It has: \(known.joined(separator: ", ")).")
        }
        var refusals: [PlanRefusal] = []
        var withoutBase: [String] = []
        for incarnation in incarnations.reversed() {
            let bases = try await catalog.bases(of: incarnation)
            if bases.isEmpty { withoutBase.append(incarnation.id) }
            for base in bases.reversed() {
                if case .time(let time) = target, base.completed > time {
                    refusals.append(
                        PlanRefusal(
                            kind: .beforeBase, reason: "it lies before the end of the base \(base.id) at \(base.completed)",
                            earliest: base.completed, latest: nil))
                    continue
                }
                let index = try await catalog.treeIndex(of: base, in: incarnation)
                let view = try await self.view(of: incarnation, from: base, kinds: kinds)
                do { return try Planner.plan(base: base, spans: index.spans, view: view, target: target) } catch {
                    refusals.append(error)
                }
            }
        }
        throw refused(source, target, refusals, withoutBase)
    }

    /// The log that a restore from `base` may read.
    public func view(of incarnation: IncarnationRecord, from base: BaseRecord?, kinds: [any ComponentKind]) async throws -> LogView {
        guard let kind = kinds.first(where: { $0.kind == incarnation.kind }) else {
            throw ArchiveError(
                .sourceUnsupported, "'\(incarnation.source)' is of the kind '\(incarnation.kind)', which this tidemark does not know.",
                remedy: "Use the tidemark that archived it.")
        }
        let first = base.flatMap { base in base.firstPiece.map { PieceName(branch: base.branch, name: $0) } }
        return LogView(
            source: incarnation.source, incarnation: incarnation, pieces: try await catalog.indexedPieces(of: incarnation, from: first), branches: try await catalog.branches(of: incarnation),
            gaps: try await catalog.gaps(of: incarnation), watermark: try await catalog.watermark(of: incarnation),
            streamsMayBeginEmpty: kind.streamsMayBeginEmpty, firstOffset: kind.firstOffset, describe: { kind.describe(offset: $0) })
    }

    private func refused(
        _ source: String, _ target: RecoveryTarget, _ refusals: [PlanRefusal], _ withoutBase: [String]
    ) -> ArchiveError {
        let wanted = if case .time(let time) = target { "\(time)" } else { "the latest time" }
        guard let refusal = refusals.first(where: { $0.kind != .beforeBase }) ?? refusals.last else {
            return ArchiveError(
                .targetUnreachable, "'\(source)' cannot be restored: the archive has no complete base of it.",
                remedy: "Take one with `tidemark backup --source \(source)`.")
        }
        let earliest = refusals.compactMap(\.earliest).min()
        let latest = refusals.compactMap(\.latest).max()
        var remedy: [String] = []
        if case .time(let time) = target {
            if let latest, latest < time { remedy.append("The nearest earlier time is \(latest).") }
            if let earliest, earliest > time { remedy.append("The nearest later time is \(earliest).") }
        }
        return ArchiveError(
            .targetUnreachable, "'\(source)' cannot be restored to \(wanted): \(refusal.reason).",
            remedy: remedy.isEmpty ? "`tidemark window` lists what can be reached." : remedy.joined(separator: " "))
    }
}
