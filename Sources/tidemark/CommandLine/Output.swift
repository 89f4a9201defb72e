import ArchiveCore
import Foundation
import Glibc
import Runtime
import Synchronization

/// Results go to standard output; everything else goes to standard error.
enum Output {
    static func line(_ text: String) { put(text + "\n", to: 1) }

    static func json(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        put(try encoder.encode(value) + [0x0A], to: 1)
    }

    static func note(_ text: String) { put(text + "\n", to: 2) }

    static func put(_ text: String, to descriptor: Int32) { put(Array(text.utf8), to: descriptor) }

    static func put(_ bytes: some ContiguousBytes, to descriptor: Int32) {
        bytes.withUnsafeBytes { all in
            var rest = all[...]
            while !rest.isEmpty {
                let n = write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if n < 0 {
                    if errno == EINTR { continue }
                    return  // nobody reads any more
                }
                rest = rest.dropFirst(n)
            }
        }
    }

    /// `error:`, `why:` and `next:` lines for people, or one JSON object.
    static func report(_ error: ArchiveError, json: Bool) {
        if json {
            struct Report: Encodable {
                struct Body: Encodable { var code, message: String; var cause, remedy: String? }
                var error: Body
            }
            do {
                try Output.json(
                    Report(error: .init(code: error.code.name, message: error.message, cause: error.cause.map { "\($0)" }, remedy: error.remedy)))
            } catch { note("error: \(error)") }
            return
        }
        note("error: \(error.message)")
        if let cause = error.cause { note("  why: \(cause)") }
        if let remedy = error.remedy { note("  next: \(remedy)") }
    }

    /// Columns of equal width, two spaces apart.
    static func table(_ rows: [[String]], indent: String = "") -> String {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { c in rows.map { c < $0.count ? $0[c].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = indent
            for (c, cell) in row.enumerated() {
                line += cell
                if c < row.count - 1 { line += String(repeating: " ", count: widths[c] - cell.count + 2) }
            }
            return line
        }.joined(separator: "\n")
    }

    static func bytes(_ count: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(count) B" : "\(oneDecimal(value)) \(units[unit])"
    }

    static func oneDecimal(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }

    /// A time in UTC, and in the machine's zone where that differs.
    static func time(_ moment: Moment) -> String {
        var seconds = time_t(moment.rawValue / 1_000_000_000)
        var parts = tm()
        guard localtime_r(&seconds, &parts) != nil, parts.tm_gmtoff != 0 else { return "\(moment)" }
        let local = "\(Moment(rawValue: moment.rawValue + Int64(parts.tm_gmtoff) * 1_000_000_000))".dropLast()
        let minutes = abs(parts.tm_gmtoff) / 60
        func two(_ n: Int) -> String { n < 10 ? "0\(n)" : "\(n)" }
        return "\(moment) (local \(local)\(parts.tm_gmtoff < 0 ? "-" : "+")\(two(minutes / 60)):\(two(minutes % 60)))"
    }
}

/// Progress of one long task: a line that is rewritten on a terminal, else a plain line every ten seconds.
final class Progress: Sendable {
    private let isTerminal = isatty(2) == 1
    private let last = Mutex<(shown: Moment, open: Bool)>((Moment(rawValue: 0), false))

    func show(_ what: String, _ done: UInt64, _ total: UInt64?) {
        let time = now()
        let due = last.withLock { last in
            guard time - last.shown >= (isTerminal ? 0.1 : 10) else { return false }
            last = (time, isTerminal)
            return true
        }
        guard due else { return }
        let isBytes = (total ?? done) > 1 << 20
        func text(_ n: UInt64) -> String { isBytes ? Output.bytes(n) : "\(n)" }
        var line = "\(what): \(text(done))"
        if let total, total > 0 { line += " of \(text(total)) (\(min(100, done * 100 / total)) %)" }
        if isTerminal { Output.put("\r\u{1B}[K\(line)", to: 2) } else { Output.note(line) }
    }

    /// Ends the line that was being rewritten.
    func end() { if last.withLock({ $0.open }) { Output.put("\r\u{1B}[K", to: 2) } }
}
