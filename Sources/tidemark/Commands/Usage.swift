import ArchiveCore
import Catalog
import Glibc
import Restore
import Retention
import Runtime

/// How commands that read bases keep them from being expired meanwhile.
enum Usage {
    /// Seconds for which a restore that only prepares keeps what the recovery will read.
    static let recoverySeconds = 7.0 * 86_400
    /// Times that something is planned when an expiry takes away what was planned with.
    private static let attempts = 3

    /// Plans, and protects what the plan needs; plans again where an expiry was faster.
    static func protecting<Plan>(
        _ what: String, in catalog: Catalog, bases: (Plan) -> [BaseReference], _ plan: () async throws -> Plan
    ) async throws -> (Plan, UseKeeper?) {
        for attempt in 1... {
            let planned = try await plan()
            do {
                let use = try await UseKeeper.begin(
                    what, bases: bases(planned), in: catalog, owner: .current, clock: { now() }, note: { Output.note("note: \($0)") })
                return (planned, use)
            } catch let error as ArchiveError where error.code == .targetUnreachable && attempt < attempts {
                Output.note("note: \(error.message) Planning again.")
            }
        }
        preconditionFailure("the last attempt returns or throws")
    }

    /// Ends a use with the body, whatever becomes of it.
    ///
    /// - Parameter seconds: for which what was used still stays when the body succeeded.
    static func ending<T>(_ use: UseKeeper?, keepingFor seconds: Double?, _ body: () async throws -> T) async throws -> T {
        let result: T
        do { result = try await body() } catch {
            await use?.end()
            throw error
        }
        await use?.end(keepingFor: seconds)
        return result
    }
}

extension JointPlan {
    /// What a restore of it begins with.
    var bases: [BaseReference] { plans.map { BaseReference(source: $0.source, incarnation: $0.incarnation.id, base: $0.base.id) } }
}
