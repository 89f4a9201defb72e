import ArchiveCore
import Sidecar

/// Whether an agent does its work. Pure.
public enum Readiness {
    /// Why it is not ready, a line each; empty: it is.
    public static func reasons(_ snapshot: StatusBoard.Snapshot) -> [String] {
        var reasons: [String] = []
        if let problem = snapshot.archiveProblem { reasons.append("archive: \(oneLine(problem))") }
        for source in snapshot.sources {
            let error = source.lastError.map { ": \(oneLine($0))" } ?? ""
            switch source.state {
            case .archiving: break
            case .starting: reasons.append("\(source.name): not connected yet\(error)")
            case .retrying: reasons.append("\(source.name): failed, and is tried again\(error)")
            case .refused: reasons.append("\(source.name): refused, and not tried again\(error)")
            case .stopped: reasons.append("\(source.name): stopped\(error)")
            }
        }
        return reasons
    }

    /// What works with less than it should, a line each, beside what keeps it from being ready.
    public static func warnings(_ snapshot: StatusBoard.Snapshot) -> [String] {
        snapshot.sources.flatMap { source in
            var warnings: [String] = []
            if source.isObjectiveMissed { warnings.append("\(source.name): further behind than the objective of \(snapshot.objective) s") }
            if source.bases.failures > 0 {
                warnings.append("\(source.name): \(source.bases.failures) bases failed since the last: \(oneLine(source.bases.lastFailure ?? "see the log"))")
            }
            if let slot = source.slot, slot.state == "lost" || slot.state == "unreserved" { warnings.append("\(source.name): slot \(slot.name) is \(slot.state)") }
            return warnings
        } + (snapshot.lastReloadError.map { ["configuration: not reloaded: \(oneLine($0))"] } ?? [])
    }

    private static func oneLine(_ text: String) -> String { String(text.map { $0.isWhitespace ? " " : $0 }.prefix(1000)) }
}
