import ArchiveCore
import Testing

@testable import tidemark

@Suite("A configuration that is read again")
struct ConfigurationChangeTests {
    static let first = """
        archive: file:///srv/tidemark
        tail: 1s
        rpo: { objective: 5s }
        base: { schedule: "0 2 * * *" }
        keep: { window: 14d }
        sources:
          - postgres: main
            conninfo: "host=/run"
          - gitaly: default
            storage: /srv/git
            fence: main
        """

    private func read(_ text: String) throws -> Configuration { try Configuration(Array(text.utf8), path: "t.yaml") { _ in nil } }

    private func change(_ old: String, _ new: String) throws -> ConfigurationChange {
        ConfigurationChange(from: try read(Self.first), to: try read(Self.first.replacing(old, with: new)))
    }

    @Test("the same file changes nothing")
    func same() throws {
        let change = try change("", "")
        #expect(change.applied.isEmpty && change.pending.isEmpty && change.report.warning == nil)
    }

    @Test("what is safe takes effect", arguments: [
        ("rpo: { objective: 5s }", "rpo: { objective: 9s }", ["rpo"]), ("tail: 1s", "tail: 1s\nlog: json", ["log"]),
        ("tail: 1s", "tail: 1s\nbandwidth: { upload: 1MB/s }", ["bandwidth"]),
        ("0 2 * * *", "0 3 * * *", ["base of 'main'", "base of 'default'"]), ("window: 14d", "window: 9d", ["keep of 'main'", "keep of 'default'"]),
        ("fence: main", "fence: main\n    keep: { window: 1d }", ["keep of 'default'"]),
        ("conninfo: \"host=/run\"", "conninfo: \"host=/run\"\n    slot_guard: { warn: 1h }", ["slot_guard of 'main'"]),
        ("base: { schedule: \"0 2 * * *\" }\n", "", ["base of 'main'", "base of 'default'"]),
        ("fence: main", "fence: main\nchecks: [{ name: x, source: main, query: \"SELECT storage, path, object FROM t\" }]", ["checks"]),
    ])
    func applied(_ old: String, _ new: String, _ keys: [String]) throws {
        let change = try change(old, new)
        #expect(change.applied == keys && change.pending.isEmpty)
        #expect(change.report.information.contains(keys[0]))
    }

    @Test("what is not safe is named, and stays", arguments: [
        ("archive: file:///srv/tidemark", "archive: file:///srv/other", "archive"), ("tail: 1s", "tail: 2s", "tail"),
        ("tail: 1s", "tail: 1s\ncopies: [file:///srv/copy]", "copies"), ("tail: 1s", "tail: 1s\nstate: /srv/state", "state"), ("tail: 1s", "tail: 1s\nlisten: 127.0.0.1:9187", "listen"),
        ("tail: 1s", "tail: 1s\nencrypt: { identity: /k }", "encrypt"), ("host=/run", "host=/elsewhere", "source 'main'"), ("storage: /srv/git", "storage: /srv/git2", "source 'default'"),
        ("fence: main", "fence: main\n  - gitaly: new\n    storage: /srv/new", "source 'new' (added)"),
        ("  - gitaly: default\n    storage: /srv/git\n    fence: main", "", "source 'default' (removed)"),
    ])
    func pending(_ old: String, _ new: String, _ key: String) throws {
        let change = try change(old, new)
        #expect(change.pending.contains(key))
        #expect(try #require(change.report.warning).contains(key))
        let before = try read(Self.first)
        #expect(change.result.archive == before.archive && change.result.tail == before.tail && change.result.copies == before.copies)
        #expect(change.result.state == before.state && change.result.listen == before.listen && change.result.notify.isEmpty && change.result.identities == before.identities)
        #expect(change.result.sources.map(\.name) == before.sources.map(\.name) && change.result.sources.map(\.kind) == before.sources.map(\.kind))
    }

    @Test("both at once: each is treated by itself")
    func both() throws {
        let change = ConfigurationChange(
            from: try read(Self.first), to: try read(Self.first.replacing("tail: 1s", with: "tail: 2s").replacing("objective: 5s", with: "objective: 7s")))
        #expect(change.applied == ["rpo"] && change.pending == ["tail"] && change.result.objective == 7 && change.result.tail == 1)
    }
}
