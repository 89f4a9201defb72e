import ArchiveCore
import DurableIO
import Glibc
import Runtime

/// Git itself, for what libgit2 does not read: SHA-256 and reftable. Nothing of the machine's or the user's configuration counts, no
/// hook runs, nothing is fetched.
struct GitProgram: Sendable {
    let repository: String

    private static let environment: [String] = {
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        let settings = [("safe.directory", "*"), ("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false"), ("protocol.allow", "never")]
        return [
            "PATH=\(path)", "LC_ALL=C", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
            "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_CONFIG_COUNT=\(settings.count)",
        ] + settings.enumerated().flatMap { ["GIT_CONFIG_KEY_\($0)=\($1.0)", "GIT_CONFIG_VALUE_\($0)=\($1.1)"] }
    }()

    /// - Throws: `.inputOutput` with Git's own words when it cannot read the repository.
    func states(of ids: [String]) throws -> [ObjectState] {
        guard !ids.isEmpty else { return [] }
        // Git reads the ids from a file: a child has no other input.
        let input = "/tmp/tidemark-ids-\(hex(UInt64.random(in: 0...UInt64.max), 16))"
        defer { unlink(input) }
        let file = try Descriptor(input, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        try file.write(Array((ids.joined(separator: "\n") + "\n").utf8))
        var child = Subprocess(
            ["sh", "-c", "exec git --git-dir=\"$1\" cat-file --batch-check <\"$2\"", "sh", repository, input], environment: Self.environment)
        child.keep = ids.count * 256 + 65_536
        let result = try child.runBlocking()
        let lines = result.output.split(separator: "\n")
        guard result.status == 0, lines.count == ids.count else { throw failure(result) }
        return lines.map { line in line.hasSuffix(" missing") ? .missing : line.split(separator: " ").count == 3 ? .present : .damaged(String(line)) }
    }

    func state(of reference: String, id: String) -> ReferenceState {
        do {
            let tip = try run("rev-parse", "--verify", "--quiet", "--end-of-options", reference)
            if tip.status == 1 { return .missing }
            guard tip.status == 0 else { throw failure(tip) }
            if tip.output.hasPrefix(id) { return .holds }
            let below = try run("merge-base", "--is-ancestor", id, "\(reference)^{commit}")
            return below.status == 0 ? .holds : .other
        } catch { return .unknown("\(error)") }
    }

    private func run(_ words: String...) throws -> Subprocess.Result {
        try Subprocess(["git", "--git-dir=\(repository)"] + words, environment: Self.environment).runBlocking()
    }

    private func failure(_ result: Subprocess.Result) -> ArchiveError {
        let words = result.errors.split(separator: "\n").joined(separator: "; ")
        return ArchiveError(.inputOutput, "git ended with \(result.status): \(words.isEmpty ? "no reason given" : words)")
    }
}
