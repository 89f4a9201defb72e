import ArchiveCore
import Foundation
import Testing

@testable import Runtime

@Suite("Lines of the log")
struct LogTests {
    static let time = Moment(rawValue: 1_764_000_000_000_000_000)

    private func line(_ message: String, subject: String = "main", _ format: Log.Format) -> [UInt8] {
        LogLine(time: Self.time, level: .warning, subject: subject, message: message).bytes(format)
    }

    private func object(_ bytes: [UInt8]) throws -> [String: String] {
        try #require(try JSONSerialization.jsonObject(with: Data(bytes)) as? [String: String])
    }

    @Test("text, and JSON with the same fields")
    func plain() throws {
        #expect(String(decoding: line("a gap", .text), as: UTF8.self) == "\(Self.time) warning main: a gap\n")
        #expect(String(decoding: line("a gap", subject: "", .text), as: UTF8.self) == "\(Self.time) warning a gap\n")
        #expect(try object(line("a gap", .json)) == ["time": "\(Self.time)", "level": "warning", "subject": "main", "message": "a gap"])
        #expect(try object(line("a gap", subject: "", .json)) == ["time": "\(Self.time)", "level": "warning", "message": "a gap"])
    }

    static let hostileTexts = [
        "", "\"", "\\", "\\\"},{", "a\nb\r\nc", "\u{0}\u{1}\u{1F}", "\u{1B}[2J\u{1B}]0;title\u{7}", "\u{7F}\u{85}\u{9B}31m", "\u{2028}\u{2029}", "日本語 🧵 e\u{301}",
        String(decoding: [0xFF, 0xC0, 0x80, 0xED, 0xA0, 0x80, 0x41], as: UTF8.self), "a\u{FEFF}\u{202E}", String(repeating: "\"", count: 100_000),
        String(repeating: "\u{0}", count: 100_000), String(repeating: "é", count: 100_000), String(repeating: "🧵", count: 100_000), "e" + String(repeating: "\u{301}", count: 50_000),
    ]

    @Test("whatever the message is, a line is one line, bounded, and JSON stays JSON", arguments: hostileTexts)
    func hostile(_ text: String) throws {
        for subject in ["main", text] {
            for format in Log.Format.allCases {
                let bytes = line(text, subject: subject, format)
                #expect(bytes.count <= LogLine.limit && bytes.last == 0x0A)
                #expect(bytes.dropLast().allSatisfy { $0 >= 0x20 && $0 != 0x7F })
                #expect(String(validating: bytes, as: UTF8.self) != nil)
            }
            let read = try object(line(text, subject: subject, .json))
            #expect(Set(read.keys).isSubset(of: ["time", "level", "subject", "message"]))
            let message = try #require(read["message"])
            let isWhole = Array(message.unicodeScalars) == Array(text.unicodeScalars)
            #expect(isWhole || (message.unicodeScalars.last == "…" && text.unicodeScalars.starts(with: message.unicodeScalars.dropLast())))
            if text.utf8.count < 500 { #expect(isWhole) }
        }
    }

    @Test("a message is cut where it would be too long, not before", arguments: Log.Format.allCases)
    func limit(_ format: Log.Format) {
        let empty = line("", format).count
        let longest = LogLine.limit - empty
        #expect(line(String(repeating: "x", count: longest), format).count == LogLine.limit)
        #expect(!String(decoding: line(String(repeating: "x", count: longest), format), as: UTF8.self).contains("…"))
        let cut = String(decoding: line(String(repeating: "x", count: longest + 1), format), as: UTF8.self)
        #expect(cut.utf8.count == LogLine.limit && cut.contains("x…"))
    }
}
