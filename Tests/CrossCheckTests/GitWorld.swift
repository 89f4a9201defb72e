import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Testing

/// Real repositories in a storage of their own, made with Git.
final class GitWorld: Sendable {
    let directory: TemporaryDirectory
    var storage: String { directory.path + "/storage" }

    init() throws {
        directory = try TemporaryDirectory()
        try Files.makeDirectory(storage, mode: 0o755)
    }

    @discardableResult
    func git(_ repository: String, _ words: String..., input: String = "") throws -> String {
        let file = "\(directory.path)/input-\(UInt64.random(in: 0 ... .max))"
        try Files.writeDurably(Array(input.utf8), to: file)
        defer { unlink(file) }
        var environment = ["PATH=/usr/bin:/bin", "HOME=\(directory.path)", "GIT_CONFIG_NOSYSTEM=1"]
        environment += ["AUTHOR", "COMMITTER"].flatMap { ["GIT_\($0)_NAME=T", "GIT_\($0)_EMAIL=t@example.org", "GIT_\($0)_DATE=2026-01-01T00:00:00Z"] }
        environment += ["GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"]
        let result = try Subprocess(
            ["sh", "-c", "f=$1; shift; exec git \"$@\" <\"$f\"", "sh", file] + (repository.isEmpty ? [] : ["--git-dir=\(storage)/\(repository)"]) + words,
            environment: environment
        ).runBlocking()
        guard result.status == 0 else { throw ArchiveError(.inputOutput, "git \(words): \(result.errors)") }
        return result.output.split(separator: "\n").first.map(String.init) ?? ""
    }

    /// Makes a bare repository and gives its path back.
    @discardableResult
    func make(_ path: String, _ options: String...) throws -> String {
        try Files.makeDirectory(Files.parent(of: "\(storage)/\(path)"), mode: 0o755)
        var words = ["git", "init", "-q", "--bare", "-b", "main"] + options
        words.append("\(storage)/\(path)")
        let result = try Subprocess(words).runBlocking()
        guard result.status == 0 else { throw ArchiveError(.inputOutput, "git init: \(result.errors)") }
        return path
    }

    /// Adds a commit to `main` and gives its id back. It lies loose.
    @discardableResult
    func commit(_ path: String, _ text: String, on reference: String = "refs/heads/main", parent: String? = nil) throws -> String {
        let blob = try git(path, "hash-object", "-w", "--stdin", input: text)
        let tree = try git(path, "mktree", input: "100644 blob \(blob)\tfile\n")
        let commit = try parent.map { try git(path, "commit-tree", tree, "-p", $0, "-m", text) } ?? git(path, "commit-tree", tree, "-m", text)
        try git(path, "update-ref", reference, commit)
        return commit
    }

    func pack(_ path: String) throws { try git(path, "repack", "-a", "-d", "-q") }

    /// Takes a loose object away.
    func remove(_ id: String, from path: String) throws {
        let file = "\(storage)/\(path)/objects/\(id.prefix(2))/\(id.dropFirst(2))"
        try #require(unlink(file) == 0, "\(file) is not a loose object")
    }
}
