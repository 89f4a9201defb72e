import ArchiveCore
import Lag

/// Rows of one source that the archive does not have yet, ascending: a bounded number, put together where it is exceeded.
struct PendingRows {
    /// Rows above which they are put together.
    static let comfortable = 60
    /// Rows that are kept at most, where breaks between them keep them apart.
    static let most = 600

    private(set) var rows: [LagRow] = []
    private var isFailing = false

    /// - Returns: how many rows were given up, the oldest first.
    mutating func add(_ more: [LagRow]) -> Int {
        rows += more
        for seconds: Int64 in [600, 3600, 86_400] where rows.count > Self.comfortable { rows = rows.joined(within: seconds) }
        let surplus = max(0, rows.count - Self.most)
        rows.removeFirst(surplus)
        return surplus
    }

    /// Stores rows, oldest first, up to the first that cannot be stored: it and the rest are kept.
    ///
    /// - Returns: the failure, where nothing failed before it.
    mutating func store(_ store: (LagRow) async throws -> Void) async -> (any Error)? {
        while let row = rows.first {
            do { try await store(row) } catch {
                defer { isFailing = true }
                return isFailing ? nil : error
            }
            rows.removeFirst()
            isFailing = false
        }
        return nil
    }
}
