import ArchiveCore
import Glibc
import Synchronization

/// Lines for the operator on standard error, one `write` each.
public struct Log: Sendable {
    public enum Level: String, Sendable { case info, warning, error }
    public enum Format: String, Sendable, CaseIterable {
        case text
        /// One JSON object a line.
        case json
    }

    private static let isJSON = Atomic(false)

    /// How this process writes all of its lines; text at first.
    public static var format: Format {
        get { isJSON.load(ordering: .relaxed) ? .json : .text }
        set { isJSON.store(newValue == .json, ordering: .relaxed) }
    }

    /// What every line of this log begins with, such as a source's name; may be empty.
    public let subject: String

    public init(_ subject: String = "") { self.subject = subject }

    public func info(_ message: String) { line(.info, message) }
    public func warning(_ message: String) { line(.warning, message) }
    public func error(_ message: String) { line(.error, message) }

    private func line(_ level: Level, _ message: String) {
        var bytes = LogLine(time: now(), level: level, subject: subject, message: message).bytes(Self.format)
        _ = write(2, &bytes, bytes.count)
    }
}

/// One line of a log.
struct LogLine: Sendable {
    /// The longest line, in bytes: what is written to a pipe at once (`PIPE_BUF`), so that lines of several threads or processes never mix.
    static let limit = 4096

    var time: Moment
    var level: Log.Level
    var subject: String
    var message: String

    /// With its line feed, at most `limit` bytes; a message that is longer ends in `…`.
    func bytes(_ format: Log.Format) -> [UInt8] {
        let subject = Self.cut(subject, to: 256, format)
        let head =
            switch format {
            case .text: "\(time) \(level.rawValue) \(subject.isEmpty ? "" : subject + ": ")"
            case .json: "{\"time\":\"\(time)\",\"level\":\"\(level.rawValue)\",\(subject.isEmpty ? "" : "\"subject\":\"\(subject)\",")\"message\":\""
            }
        let tail = format == .json ? "\"}\n" : "\n"
        return Array((head + Self.cut(message, to: Self.limit - head.utf8.count - tail.utf8.count, format) + tail).utf8)
    }

    /// `text` as it is written, in at most `limit` bytes.
    private static func cut(_ text: String, to limit: Int, _ format: Log.Format) -> String {
        let mark = "…"
        var result = ""
        var size = 0
        // The longest beginning that leaves room for the mark.
        var safe = result.endIndex
        for scalar in text.unicodeScalars {
            let piece = written(scalar, format)
            size += piece.utf8.count
            guard size <= limit else { return String(result[..<safe]) + mark }
            result += piece
            if size <= limit - mark.utf8.count { safe = result.endIndex }
        }
        return result
    }

    /// Control characters would end the line or move the reader's terminal: a space in text, escaped in JSON (RFC 8259, section 7).
    private static func written(_ scalar: Unicode.Scalar, _ format: Log.Format) -> String {
        let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || scalar.value == 0x2028 || scalar.value == 0x2029
        switch (format, scalar) {
        case (.json, "\""): return "\\\""
        case (.json, "\\"): return "\\\\"
        case (.json, "\n"): return "\\n"
        case (.json, _) where isControl:
            let digits = String(scalar.value, radix: 16)
            return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        case (.text, _) where isControl: return " "
        default: return String(Character(scalar))
        }
    }
}
