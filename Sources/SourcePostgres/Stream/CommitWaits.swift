import ArchiveCore
import Runtime
import Synchronization

/// Knows whether commits wait for a receiver, which the server's configuration may change at any moment: it is asked beside the
/// receiving, over a connection of its own, now and again.
final class CommitWaits: Sendable {
    /// Seconds after which an answer is old, and after which the server is asked again when it gave none.
    private static let freshness = 10.0
    private static let patience = 600.0
    private static let limit = 5.0
    static let application = "tidemark waits"

    private let state = Mutex((isKnown: false, isAsking: false, next: -Double.infinity))
    private let ask: @Sendable () throws -> Bool

    /// - Parameter process: of the server, which sends to the receiver.
    convenience init(conninfo: String, process: Int32) {
        self.init {
            let connection = try Connection(conninfo: conninfo, purpose: .sql, application: Self.application, database: "postgres", timeout: Self.limit)
            let query = "SELECT 1 FROM pg_catalog.pg_stat_replication WHERE pid = \(process) AND sync_state IN ('sync', 'quorum')"
            return try !connection.query(query, timeout: Self.limit).isEmpty
        }
    }

    /// - Parameter ask: blocks; a failure counts as "no".
    init(ask: @escaping @Sendable () throws -> Bool) { self.ask = ask }

    /// What is known; at once.
    ///
    /// - Parameter time: see `monotonic`.
    func isKnown(at time: Double) -> Bool {
        let (isKnown, isDue) = state.withLock { state in
            let isDue = !state.isAsking && time >= state.next
            if isDue { state.isAsking = true }
            return (state.isKnown, isDue)
        }
        if isDue {
            startThread { [self] in
                let answer = Result { try ask() }
                state.withLock { state in
                    state.isAsking = false
                    switch answer {
                    case .success(let isTrue): (state.isKnown, state.next) = (isTrue, monotonic() + Self.freshness)
                    // Whoever may not ask goes without: nothing depends on it but speed.
                    case .failure: (state.isKnown, state.next) = (false, monotonic() + Self.patience)
                    }
                }
            }
        }
        return isKnown
    }
}
