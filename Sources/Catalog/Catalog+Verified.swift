import ArchiveCore
import Pack
import Store

/// What was verified, below `verified/<source>/<incarnation>/`: named as watermarks are, the newest alone.
extension Catalog {
    private struct Verified: Codable {
        /// Everything committed up to here.
        var upTo: Moment
        var verified: Moment
        /// Whether the content was read, or names and records only.
        var contents: Bool
    }

    private func verifiedPrefix(_ i: IncarnationRecord) -> String { "verified/\(i.source)/\(i.id)/" }

    /// Records that a verification found everything whole that was committed up to `time`, in place of older such records.
    public func recordVerified(upTo time: Moment, contents: Bool, at now: Moment, of i: IncarnationRecord) async throws {
        let older = try await store.listAll(prefix: verifiedPrefix(i)).map(\.key)
        let digits = String(max(0, time.rawValue))
        let key = ObjectKey(known: verifiedPrefix(i) + String(repeating: "0", count: 20 - digits.utf8.count) + digits + (contents ? "-contents" : "") + ".json")
        do { try await store.put(try Self.encode(Verified(upTo: time, verified: now, contents: contents)), at: key) } catch let error as ArchiveError
            where error.code == .objectExists
        {
            // Verified up to there before.
        }
        try await store.remove(older.filter { $0.path < key.path && (contents || !$0.path.hasSuffix("-contents.json")) })
    }

    /// Everything committed up to this time was verified.
    ///
    /// - Parameter contents: only where the content was read.
    public func verifiedUpTo(of i: IncarnationRecord, contents: Bool = false) async throws -> Moment? {
        let prefix = verifiedPrefix(i)
        let names = try await store.listAll(prefix: prefix).map { $0.key.path.dropFirst(prefix.utf8.count) }
        return names.filter { !contents || $0.hasSuffix("-contents.json") }.compactMap { Int64($0.prefix(20)) }.max().map { Moment(rawValue: $0) }
    }
}
