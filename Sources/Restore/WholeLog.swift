import ArchiveCore
import Catalog
import Planner
import Source

extension PlanLoader {
    /// Seconds behind a plan's cut that `log(around:)` goes on for.
    public static let lookAhead = 86_400.0

    /// The archived log of a plan's source from its base's first piece to a day behind the cut.
    ///
    /// - Parameter moment: what the plan was made for; an idle source's last record may lie long before it.
    public func log(around plan: SourcePlan, moment: Moment?) async throws -> any LogReader {
        guard let path = BranchPath(from: plan.base.branch, to: plan.branch, by: plan.branches) else {
            return ArchivedLog(catalog: catalog, incarnation: plan.incarnation, pieces: [], branches: plan.branches)
        }
        var cursor = LogCursor(catalog: catalog, incarnation: plan.incarnation, path: path, from: plan.base.firstPiece)
        let last = plan.lastApplied ?? plan.base.completed
        let end = max(last, moment ?? last).adding(seconds: Self.lookAhead)
        var pieces: [ArchivedPiece] = []
        while let piece = try await cursor.next() {
            try Task.checkCancellation()
            if let first = piece.times?.lowerBound, first > end { break }
            pieces.append(ArchivedPiece(name: piece.name, storedLength: piece.storedLength))
        }
        return ArchivedLog(catalog: catalog, incarnation: plan.incarnation, pieces: pieces, branches: plan.branches)
    }
}
