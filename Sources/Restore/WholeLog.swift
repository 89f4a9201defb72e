import ArchiveCore
import Catalog
import Planner
import Source

extension PlanLoader {
    /// All archived log of a plan's source from its base's first piece on, also what lies after the plan's cut.
    public func wholeLog(of plan: SourcePlan, kinds: [any ComponentKind]) async throws -> any LogReader {
        let view = try await view(of: plan.incarnation, from: plan.base, kinds: kinds)
        return ArchivedLog(
            catalog: catalog, incarnation: plan.incarnation, pieces: view.pieces.map { ArchivedPiece(name: $0.name, index: $0.index) },
            branches: view.branches)
    }
}
