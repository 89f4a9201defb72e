import ArchiveCore
import Catalog
import Planner
import Source

extension PlanLoader {
    /// All archived log of a plan's source from its base's first piece on, also what lies after the plan's cut. Indexes are read when
    /// they are asked for.
    public func wholeLog(of plan: SourcePlan) async throws -> any LogReader {
        let branches = try await catalog.branches(of: plan.incarnation)
        let newest = max(branches.map(\.branch).max() ?? plan.base.branch, plan.base.branch)
        var pieces: [ArchivedPiece] = []
        if let path = BranchPath(from: plan.base.branch, to: newest, by: branches) {
            var cursor = LogCursor(catalog: catalog, incarnation: plan.incarnation, path: path, from: plan.base.firstPiece)
            while let piece = try await cursor.next() { pieces.append(ArchivedPiece(name: piece.name, storedLength: piece.storedLength)) }
        }
        return ArchivedLog(catalog: catalog, incarnation: plan.incarnation, pieces: pieces, branches: branches)
    }
}
