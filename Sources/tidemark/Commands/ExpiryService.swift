import ArchiveCore
import Catalog
import Runtime
import Sidecar
import Store
import Synchronization

/// Expires what the configuration lets go: a while after the agent started, after each new base, and once a day.
struct ExpiryService: AgentService {
    let name = "expire"
    let context: AgentContext

    /// Seconds from the agent's start to the first time, so that a mistake in the configuration can still be undone; between two looks for
    /// new bases; and after which it is time again.
    private static let (first, look, daily) = (600.0, 300.0, 86_400.0)

    /// Agents of the same archive see to their own sources only.
    func run() async throws {
        let output = Log(name)
        var known = try await bases(output)
        var last = now().adding(seconds: Self.first - Self.daily)
        var isFailing = false
        while true {
            try await Task.sleep(for: .seconds(Self.look))
            let found = try await bases(output) ?? known
            guard found != known || now() - last >= Self.daily else { continue }
            known = found
            last = now()
            let policies = Expiry.policies(context.configuration.sources)
            guard !policies.isEmpty else { continue }
            do {
                let places = try await Expiry.run(context.configuration, policies: policies, apply: true) { _, _ in }
                for report in places.flatMap(\.reports) where !report.removesNothing {
                    output.info("\(report.plan.source): removed \(report.total.objects) objects, \(Output.bytes(report.total.bytes)), from \(report.place): what lies before \(report.plan.start)")
                }
                if let failed = places.first(where: { $0.error != nil }), let error = failed.error { throw error }
                if isFailing { context.post(AgentEvent(.recovered, at: now(), "What retention lets go is removed again.")) }
                isFailing = false
            } catch let error as ArchiveError {
                output.error("\(error)")
                // Once, not every day.
                if !isFailing { context.post(AgentEvent(.failure, at: now(), "Expiry failed: \(error.message)", remedy: error.remedy)) }
                isFailing = true
                // Tried again in an hour.
                last = now().adding(seconds: 3600 - Self.daily)
            }
        }
    }

    /// Ids of the newest complete bases of all sources that have a policy; `nil`: the archive cannot be asked now.
    private func bases(_ output: Log) async throws -> Set<String>? {
        var found: Set<String> = []
        do {
            for source in context.configuration.sources where source.keep != nil {
                for incarnation in try await context.catalog.incarnations(of: source.name) {
                    guard let id = try await context.catalog.baseIdentifiers(of: incarnation).last, try await context.catalog.base(id, of: incarnation) != nil else { continue }
                    found.insert(id)
                }
            }
        } catch let error as ArchiveError {
            output.warning("new bases could not be looked for: \(error.message)")
            return nil
        }
        return found
    }
}
