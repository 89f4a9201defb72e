import DurableIO
import Glibc

/// A directory for one test, removed with everything in it when the last reference goes.
public final class TemporaryDirectory: Sendable {
    public let path: String

    /// Made below `TMPDIR` or `/tmp`.
    public init() throws {
        let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        path = "\(parent)/tidemark-test-\(UInt64.random(in: .min ... .max))"
        try Files.makeDirectory(path, mode: 0o755)
    }

    deinit { do { try Files.removeTree(path) } catch { print("left behind: \(path): \(error)") } }
}
