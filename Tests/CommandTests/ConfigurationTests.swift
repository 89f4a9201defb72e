import ArchiveCore
import Testing

@testable import tidemark

@Suite("The configuration file")
struct ConfigurationTests {
    private func read(_ text: String, environment: [String: String] = [:]) throws -> Configuration {
        try Configuration(Array(text.utf8), path: "t.yaml") { environment[$0] }
    }

    private let good = """
        archive: file:///srv/tidemark
        tail: 500ms
        listen: 127.0.0.1:9187
        sources:
          - postgres: main
            conninfo: "host=/run password=${SECRET}"
          - gitaly: default
            storage: /srv/git/
            log: spool
            spool: /srv/spool
            fence: main
          - gitaly: other
            storage: /srv/other
            fence: elsewhere
            fence_conninfo: "host=db password=${SECRET}"
            fence_interval: 250ms
        """

    @Test("a whole one is read, with defaults and the environment")
    func whole() throws {
        let c = try read(good, environment: ["SECRET": "x y"])
        #expect(c.archive == "file:///srv/tidemark" && c.tail == 0.5 && c.state == "/var/lib/tidemark")
        guard case .postgres(let conninfo, let slot, _, _) = c.sources[0].kind, case .gitaly(let storage, let log, let spool, let prune, let fence) = c.sources[1].kind,
            case .gitaly(_, _, _, _, let other) = c.sources[2].kind
        else { throw ArchiveError(.configuration, "the sources are of other kinds") }
        #expect(conninfo == "host=/run password=x y" && slot == "tidemark_main")
        #expect(storage == "/srv/git" && log == .spool && spool == "/srv/spool" && prune)
        // The connection of the source that it names, also where that stands in the same file only.
        #expect(fence?.anchor == "main" && fence?.conninfo == conninfo && fence?.interval == 1)
        #expect(other?.anchor == "elsewhere" && other?.conninfo == "host=db password=x y" && other?.interval == 0.25)
    }

    @Test("what is wrong is named with its line and a way out", arguments: [
        ("", "empty", ""), ("archive: file:///a\narchive: file:///b\n", "t.yaml:2:1", ""), ("archve: file:///a\n", "no key 'archve'", "archive"),
        ("archive: s3://b\nsources: []\n", "t.yaml:1:10", ""), ("archive: file:///a\n", "'sources' is missing", ""),
        ("archive: file:///a\nsources: []\n", "t.yaml:2:10", ""),
        ("archive: file:///a\nsources:\n  - postgres: a\n", "'conninfo' of the postgres source is missing", ""),
        ("archive: file:///a\nsources:\n  - postgres: a\n    conninfo: x\n    gitaly: b\n", "either", ""),
        ("archive: file:///a\nsources:\n  - gitaly: a b\n    storage: /x\n", "no name for a source", ""),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: x\n", "absolute", ""),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    log: tail\n", "t.yaml:5:10", "wal or spool"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    log: spool\n", "'spool' of the gitaly source is missing", ""),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n  - gitaly: a\n    storage: /y\n", "two sources 'a'", ""),
        ("archive: file:///a\ntail: 5\nsources: x\n", "'tail' is '5'", "1s"), ("archive: file:///a\nlisten: 9187\nsources: x\n", "'listen'", "127"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: main\n", "t.yaml:5:12: 'fence' names 'main', which is not in this file", "fence_conninfo"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: a\n", "t.yaml:5:12: 'fence' names 'a', which is no postgres source", ""),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: a b\n", "t.yaml:5:12", "main"), ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence_interval: 1s\n", "t.yaml:5:21: 'fence_interval' goes with 'fence'", "fence"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence_conninfo: x\n", "t.yaml:5:21", "fence"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: m\n    fence_conninfo: x\n    fence_interval: 2m\n", "t.yaml:7:21: 'fence_interval' is '2m'", "1s"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: m\n    fence_conninfo: x\n    fence_interval: 10ms\n", "'fence_interval'", "100ms"),
        ("archive: file:///a\nsources:\n  - gitaly: a\n    storage: /x\n    fence: m\n    fence_conninfo: ${NOPE}\n", "t.yaml:6:21", "Set it"),
        ("archive: file:///a\nencrypt: { recipients: [age1x] }\n", "t.yaml:2:25: 'age1x' is not an age public key", "age-keygen"),
        ("archive: file:///a\nencrypt: { recipients: [AGE-SECRET-KEY-1X] }\n", "t.yaml:2:25: A secret key was given", "age-keygen"),
        ("archive: file:///a\nencrypt: { identity: key }\n", "t.yaml:2:22: 'identity' is not an absolute path", ""),
        ("archive: file:///a\nencrypt: { recipients: [] }\n", "'encrypt' names nobody", "age-keygen"),
        ("archive: ${NOPE}\n", "NOPE", ""), ("archive: &a file:///a\n", "anchors", ""), ("archive: *a\n", "", ""), ("archive: !!str x\n", "tags", ""),
        ("a: 1\n---\nb: 2\n", "second document", ""), ("[1, 2]\n", "keys and values", ""), ("archive: [\n", "t.yaml:", ""),
        ("archive: \"a\\0b\"\n", "NUL", ""), ("archive: \u{1}\n", "t.yaml:", ""),
    ])
    func wrong(_ text: String, _ message: String, _ remedy: String) {
        let error = #expect(throws: ArchiveError.self) { try self.read(text) }
        #expect(error?.code.exitStatus == 2)
        #expect(message.isEmpty || error?.message.contains(message) == true, "\(String(describing: error))")
        #expect(remedy.isEmpty || error?.remedy?.contains(remedy) == true, "\(String(describing: error))")
    }

    @Test("depth and size are limited")
    func hostile() {
        let deep = "archive: " + String(repeating: "[", count: 200) + String(repeating: "]", count: 200)
        #expect(throws: ArchiveError.self) { try self.read(deep) }
        #expect(throws: ArchiveError.self) { try self.read("archive: " + String(repeating: "x", count: 2 << 20)) }
    }
}

@Suite("The command line")
struct CommandLineTests {
    @Test("every command explains itself", arguments: Main.commands.map(\.name))
    func help(_ name: String) throws {
        let command = try #require(Main.commands.first { $0.name == name })
        #expect(command.help.contains("Usage: tidemark \(name)"))
        for option in command.options { #expect(command.help.contains("--\(option.name)")) }
        #expect(command.example.contains("tidemark"))
        #expect(Main.help.contains("  \(name) "))
    }

    @Test("usage errors end with 2", arguments: [
        ["nonsense"], ["list", "--nonsense"], ["list", "extra"], ["restore", "--to-time"], ["restore", "--latest=1", "--into", "a=b"],
        ["restore", "--latest", "--into", "a=/x", "--into", "a=/y"], ["restore", "--latest", "--into", "a"], ["restore", "--latest"],
        ["restore", "--latest", "--into", "a=/x", "--recover", "later"], ["init", "--archive", "s3://x"], ["init", "--archive", "file:///nowhere", "--recipient", "age1x"], ["init", "--recipient", "age1x"],
        ["list", "--identity", "/x"], ["agent", "--identity", "/x"], ["list", "--archive", "a", "--archive", "b"],
    ])
    func usage(_ words: [String]) async { #expect(await Main.run(words) == 2) }

    @Test("misspelt words are recognised")
    func suggestions() {
        #expect(nearest(to: "restor", among: Main.commands.map(\.name)) == "restore")
        #expect(nearest(to: "to-tiem", among: ["to-time", "latest"]) == "to-time")
        #expect(nearest(to: "zzzzzz", among: ["to-time", "latest"]) == nil)
    }

    @Test("times are absolute, relative or of a zone, and never without one")
    func times() throws {
        let now = try #require(Moment("2026-11-24T12:00:00Z"))
        func read(_ text: String, _ zone: String? = nil) throws -> String { try TargetTime.parse(text, zone: zone, now: now).description }
        #expect(try read("2026-11-24T02:53:30+01:00") == "2026-11-24T01:53:30Z")
        #expect(try read("-15m") == "2026-11-24T11:45:00Z")
        #expect(try read("-1d1h30m") == "2026-11-23T10:30:00Z")
        #expect(try read("2026-07-01T12:00:00", "Europe/Berlin") == "2026-07-01T10:00:00Z")
        for text in ["2026-11-24T02:53:30", "noon", "-15", "-m", ""] { #expect(throws: ArchiveError.self) { try read(text) } }
        #expect(throws: ArchiveError.self) { try read("2026-07-01T12:00:00", "Mars/Base") }
        #expect(throws: ArchiveError.self) { try read("2026-07-01T12:00:00Z", "Europe/Berlin") }
        // The clocks went from 2 to 3 that night.
        #expect(throws: ArchiveError.self) { try read("2026-03-29T02:30:00", "Europe/Berlin") }
    }
}
