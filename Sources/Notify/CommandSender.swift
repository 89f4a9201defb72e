import ArchiveCore
import Glibc
import Runtime

/// Runs a program for a notice: it as JSON on standard input, and as `TIDEMARK_EVENT_…` in the environment. Blocks: for threads only.
enum CommandSender {
    /// Bytes of its output that are kept, of each stream.
    static let output = 4096

    /// - Parameters:
    ///   - seconds: after which it and all that it started is killed.
    /// - Throws: `.notificationFailed` with the end of what it printed, `.notificationRefused` when it cannot be started.
    static func send(_ notice: Notice, from origin: Origin, command: [String], seconds: Double) throws(ArchiveError) {
        var process = Subprocess(command, environment: environment() + NoticeText.environment(notice, from: origin))
        process.input = NoticeText.json(notice, from: origin) + [0x0A]
        process.limit = seconds
        process.keep = output
        let result: Subprocess.Result
        do { result = try process.runBlocking() } catch {
            throw ArchiveError(.notificationRefused, "The command '\(command[0])' could not be run.", remedy: "Correct 'command' under 'notify'.", cause: error)
        }
        // Also where something in the background kept its output open.
        if result.status == 0 { return }
        guard !result.wasTooSlow else {
            throw ArchiveError(.notificationFailed, "The command '\(command[0])' was killed: it took longer than \(Int(seconds)) s.", remedy: "Let it end sooner.")
        }
        let printed = (result.errors.isEmpty ? result.output : result.errors).split(whereSeparator: \.isNewline).suffix(3).joined(separator: " | ")
        throw ArchiveError(
            .notificationFailed, "The command '\(command[0])' ended with status \(result.status)\(printed.isEmpty ? "" : ": \(printed.suffix(500))").",
            remedy: "It is given the event on standard input: try it by hand.")
    }

    /// Our own, without earlier events.
    private static func environment() -> [String] {
        var list: [String] = []
        var next = Glibc.environ
        while let text = next.pointee {
            let pair = String(cString: text)
            if !pair.hasPrefix("TIDEMARK_EVENT_") { list.append(pair) }
            next += 1
        }
        return list
    }
}
