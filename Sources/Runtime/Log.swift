import ArchiveCore
import Glibc

/// Lines for the operator on standard error, one `write` each.
public struct Log: Sendable {
    public enum Level: String, Sendable { case info, warning, error }

    /// What every line of this log begins with, such as a source's name; may be empty.
    public let subject: String

    public init(_ subject: String = "") { self.subject = subject }

    public func info(_ message: String) { line(.info, message) }
    public func warning(_ message: String) { line(.warning, message) }
    public func error(_ message: String) { line(.error, message) }

    private func line(_ level: Level, _ message: String) {
        let text = "\(now()) \(level.rawValue) \(subject.isEmpty ? "" : subject + ": ")\(message.replacing("\n", with: " "))\n"
        var bytes = Array(text.utf8)
        _ = write(2, &bytes, bytes.count)
    }
}
