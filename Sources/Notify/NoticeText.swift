import ArchiveCore
import Foundation
import Sidecar

/// Notices as text, for each kind of recipient. Pure.
public enum NoticeText {
    /// One line: what, and where.
    public static func title(_ notice: Notice, from origin: Origin) -> String {
        let still = notice.repeats > 0 ? "still " : ""
        return "[tidemark] \(still)\(notice.event.kind.rawValue)\(notice.event.source.map { ": \($0)" } ?? "") (\(origin.host))"
    }

    /// How many others it stands for; empty: none.
    static func others(_ notice: Notice) -> [String] {
        var lines: [String] = []
        if notice.repeats > 0 { lines.append("The same was told \(notice.repeats) more time\(notice.repeats == 1 ? "" : "s") since the last message.") }
        let count = notice.leftOut.values.reduce(0, +)
        if count > 0 {
            let kinds = notice.leftOut.sorted { $0.key.rawValue < $1.key.rawValue }.map { "\($0.value) \($0.key.rawValue)" }.joined(separator: ", ")
            lines.append("\(count) more \(count == 1 ? "was" : "were") left out: \(kinds).")
        }
        return lines
    }

    public static func plain(_ notice: Notice, from origin: Origin) -> String {
        var lines = [notice.event.message]
        if let remedy = notice.event.remedy { lines += ["", "What to do: \(remedy)"] }
        let others = others(notice)
        if !others.isEmpty { lines += [""] + others }
        lines += ["", "Time:    \(notice.event.time)", "Host:    \(origin.host)", "Archive: \(origin.archive)"]
        if let source = notice.event.source { lines.append("Source:  \(source)") }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Fields may be added and are never renamed; docs/notifications.md lists them.
    private struct Document: Encodable {
        var kind, time: String
        var source: String?
        var message: String
        var remedy: String?
        var repeats: Int
        var leftOut: Int
        var host, archive, version: String

        private enum CodingKeys: String, CodingKey {
            case kind, time, source, message, remedy, repeats, host, archive, version
            case leftOut = "left_out"
        }
    }

    public static func json(_ notice: Notice, from origin: Origin) -> [UInt8] {
        let event = notice.event
        return encoded(
            Document(
                kind: event.kind.rawValue, time: "\(event.time)", source: event.source, message: event.message, remedy: event.remedy, repeats: notice.repeats,
                leftOut: notice.leftOut.values.reduce(0, +), host: origin.host, archive: origin.archive, version: origin.version))
    }

    /// What Slack, and those that imitate it, take at an incoming webhook: `text` in mrkdwn, where `&`, `<` and `>` are escaped.
    public static func slack(_ notice: Notice, from origin: Origin) -> [UInt8] {
        func escaped(_ text: String) -> String { text.replacing("&", with: "&amp;").replacing("<", with: "&lt;").replacing(">", with: "&gt;") }
        var lines = ["*\(escaped(title(notice, from: origin)))*", escaped(notice.event.message)]
        if let remedy = notice.event.remedy { lines.append("_What to do:_ \(escaped(remedy))") }
        lines += others(notice).map(escaped)
        lines.append("\(notice.event.time) · \(escaped(origin.archive))")
        return encoded(["text": lines.joined(separator: "\n")])
    }

    /// `NAME=value` for a command, beside its own environment.
    public static func environment(_ notice: Notice, from origin: Origin) -> [String] {
        let event = notice.event
        let pairs = [
            ("KIND", event.kind.rawValue), ("TIME", "\(event.time)"), ("SOURCE", event.source ?? ""), ("MESSAGE", event.message), ("REMEDY", event.remedy ?? ""),
            ("REPEATS", "\(notice.repeats)"), ("LEFT_OUT", "\(notice.leftOut.values.reduce(0, +))"), ("HOST", origin.host), ("ARCHIVE", origin.archive),
        ]
        // A NUL would end the value, and more than this the system may not take.
        return pairs.map { "TIDEMARK_EVENT_\($0)=\(String(String.UnicodeScalarView($1.unicodeScalars.filter { $0 != "\0" }.prefix(8000))))" }
    }

    private static func encoded(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do { return Array(try encoder.encode(value)) } catch { preconditionFailure("strings and numbers can be encoded: \(error)") }
    }
}
