import ArchiveCore
import Runtime

/// Reads an agent's configuration again, when SIGHUP asks for it. What is wrong with the file never touches what runs.
struct AgentReload: Sendable {
    let context: AgentContext
    let path: String
    /// What the command line says, whatever the file does.
    let logFormat: Log.Format?
    let manager: ServiceManager?

    /// May block for as long as the file's disk does.
    func callAsFunction() {
        tell("RELOADING=1\nMONOTONIC_USEC=\(monotonicMicroseconds())")
        defer { tell("READY=1") }
        let read: Configuration
        do { read = try Configuration.load(path) } catch {
            let text = "\(error)"
            Log().error("\(text) The configuration stays what it was.")
            context.board.update { $0.lastReloadError = text }
            return
        }
        let change = ConfigurationChange(from: context.configuration, to: read)
        context.configuration = change.result
        context.place.bandwidth?.update(change.result.bandwidth)
        Log.format = logFormat ?? change.result.logFormat
        context.board.update {
            $0.objective = change.result.objective
            $0.configurationLoaded = now()
            $0.lastReloadError = nil
        }
        let report = change.report
        Log().info(report.information)
        if let warning = report.warning { Log().warning(warning) }
    }

    private func tell(_ assignments: String) {
        do { try manager?.notify(assignments) } catch { Log().warning("\(error)") }
    }
}
