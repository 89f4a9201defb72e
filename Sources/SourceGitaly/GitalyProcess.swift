import DurableIO
import Glibc

/// A Gitaly that runs on this host, as Linux shows it in `/proc`.
struct GitalyProcess: Sendable {
    var id: Int
    /// Whether it was started with `GITALY_KEEP_WAL_LOG_ENTRIES`; `nil`: this account may not see its environment.
    var keepsEntries: Bool?

    /// - Parameter root: where `/proc` is.
    static func all(in root: String = "/proc") -> [GitalyProcess] {
        // Processes come and go while this looks: what cannot be read is not there any more, or not ours to see.
        guard let names = try? Files.names(in: root) else { return [] }
        return names.compactMap(Int.init).sorted().compactMap { id in
            guard let comm = try? Files.read("\(root)/\(id)/comm", limit: 64), comm == Array("gitaly\n".utf8) else { return nil }
            let environment = try? Files.read("\(root)/\(id)/environ", limit: 4 << 20)
            return GitalyProcess(id: id, keepsEntries: environment.flatMap(keeps))
        }
    }

    /// Whatever its value is, also an empty one, the variable counts.
    ///
    /// - Parameter environment: `NAME=value`, each ended by a zero; up to `limit` bytes of it were read.
    /// - Returns: `nil` when it may stand in what was not read.
    static func keeps(_ environment: [UInt8]) -> Bool? {
        if environment.split(separator: 0).contains(where: { $0.starts(with: Array("GITALY_KEEP_WAL_LOG_ENTRIES=".utf8)) }) { return true }
        return environment.count < limit ? false : nil
    }

    /// What is read of a file whose size Linux does not tell.
    private static let limit = 1 << 16
}
