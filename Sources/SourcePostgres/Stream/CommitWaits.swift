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

/// Tells when a lone client's next commit is to be expected at once. Pure.
struct LoneCommits {
    /// Seconds within which it comes after the answer to the one before.
    static let soon = 0.001
    /// After how many lone commits in a row the next one is expected to be one.
    private static let habit = 8

    /// Commits since the last answer, and how many times in a row it was a single one.
    private var commits = 0
    private var inARow = 0
    private var lastMessage = 0.0
    private var lastAnswer = 0.0

    /// Log came, with so many commits.
    mutating func received(_ count: Int, at time: Double) {
        commits += count
        lastMessage = time
    }

    /// What came was flushed, and that was told. - Returns: whether the next one is expected.
    mutating func answered(at time: Double) -> Bool {
        if commits > 0 { inARow = commits == 1 ? inARow + 1 : 0 }
        defer { (lastAnswer, commits) = (time, 0) }
        return inARow >= Self.habit && lastMessage - lastAnswer < Self.soon
    }
}
