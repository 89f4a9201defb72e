import ArchiveCore
import Runtime
import Sidecar

/// Tells the service manager that the agent is ready, and from then on that it works: at half the watchdog's time, and only when every
/// part that ships answers. Where one of them, or the pool of threads that all of them run on, hangs, nothing is told and the manager restarts the agent.
struct ServiceLiveness: AgentService {
    let name = "systemd"
    /// What is in hand when the agent is stopped may take longer than the watchdog waits.
    let endsLast = true
    let manager: ServiceManager
    let context: AgentContext

    /// Seconds between two lines of status where there is no watchdog.
    private static let pace = 10.0

    func run() async throws {
        var isTold = false
        var announcement = "READY=1\n"
        while true {
            for shipment in context.shipments { await shipment.keeper.answer() }
            let text = announcement + (manager.watchdog == nil ? "" : "WATCHDOG=1\n") + "STATUS=" + Self.status(context.board.snapshot)
            do {
                try await blocking { [manager] in try manager.notify(text) }
                announcement = ""
                isTold = false
            } catch {
                // Once, not with every beat.
                if !isTold { Log(name).warning("\(error)") }
                isTold = true
            }
            try await Task.sleep(for: .seconds(min(Self.pace, (manager.watchdog ?? .infinity) / 2)))
        }
    }

    /// One line of what the agent does, for `systemctl status`.
    static func status(_ snapshot: StatusBoard.Snapshot) -> String {
        let sources = snapshot.sources.map { source in
            let behind = source.backlog[.archived]?.seconds ?? 0
            let lag = source.state == .archiving && behind >= 1 ? ", \(Int(behind)) s behind" : ""
            return "\(source.name) \(source.state.rawValue)\(lag)\(source.isObjectiveMissed ? ", objective missed" : "")"
        }
        let error = snapshot.lastReloadError == nil ? "" : "; the configuration could not be read again"
        return (sources.joined(separator: "; ") + error).replacing("\n", with: " ")
    }
}
