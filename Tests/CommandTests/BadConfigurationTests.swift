import ArchiveCore
import Testing

@testable import tidemark

@Suite("Configurations that are refused")
struct BadConfigurationTests {
    private static let sources = "sources:\n  - postgres: main\n    conninfo: x\n"

    @Test("sections of the agent: the line, and a way out", arguments: [
        ("base: x\n", "t.yaml:2:7", ""), ("base: []\n", "t.yaml:2:7", ""), ("base: { shedule: \"0 2 * * *\" }\n", "t.yaml:2:9: 'base' has no key 'shedule'", "schedule"),
        ("base: { zone: UTC }\n", "'schedule' of 'base' is missing", "0 2"), ("base: { schedule: \"61 2 * * *\" }\n", "t.yaml:2:19: 'schedule' is '61 2 * * *'", "@daily"),
        ("base: { schedule: daily }\n", "t.yaml:2:19", "@daily"), ("base:\n  schedule: \"0 2 * *\"\n", "t.yaml:3:13", "@daily"),
        ("base: { schedule: \"0 2 * * *\", zone: Mars }\n", "t.yaml:2:38: 'Mars' is not a time zone", "Europe/Berlin"),
        ("base: { schedule: \"0 2 * * *\", jitter: 2d }\n", "'jitter' is '2d'", "1d"),
        ("keep: { bases: 2 }\n", "t.yaml:2:7: 'window' of 'keep' is missing", "14d"), ("keep: { window: 14 }\n", "t.yaml:2:17: 'window' is '14'", "14d"),
        ("keep: { window: 14d, bases: 0 }\n", "t.yaml:2:29: 'bases' is '0'", "at least 1"), ("keep: { window: 14d, base: 2 }\n", "no key 'base'", "bases"),
        ("keep: { window: -1d }\n", "'window'", "14d"), ("keep: { window: 99999999999999999999d }\n", "'window'", "14d"),
        ("rpo: { objektive: 5s }\n", "t.yaml:2:8: 'rpo' has no key 'objektive'", "objective"), ("rpo: { objective: 0s }\n", "t.yaml:2:19: 'objective' is '0s'", "5s"),
        ("rpo: 5s\n", "t.yaml:2:6", ""), ("log: yaml\n", "t.yaml:2:6: 'log' is 'yaml'", "json"), ("log: JSON\n", "t.yaml:2:6", "json"),
        ("lisen: 127.0.0.1:1\n", "t.yaml:2:1: the configuration has no key 'lisen'", "listen"),
        ("listen: 127.0.0.1:65536\n", "t.yaml:2:9", "9187"), ("notfy: []\n", "no key 'notfy'", "notify"),
    ])
    func sections(_ lines: String, _ message: String, _ remedy: String) {
        refused("archive: file:///a\n" + lines + Self.sources, message, remedy)
    }

    @Test("keys of a source", arguments: [
        ("    ack: disk\n", "t.yaml:5:10: 'ack' is 'disk'", "spool or archive"), ("    acc: spool\n", "t.yaml:5:5: a postgres source has no key 'acc'", "ack"),
        ("    slot_guard: { polcy: hold }\n", "t.yaml:5:19: 'slot_guard' has no key 'polcy'", "policy"), ("    slot_guard: { policy: kill }\n", "'policy' is 'kill'", "hold or drop"),
        ("    slot_guard: { drop: 10m }\n", "'drop' goes with 'policy: drop'", ""), ("    slot_guard: { warn: soon }\n", "t.yaml:5:25: 'warn' is 'soon'", "2h"),
        ("    slot: Upper\n", "t.yaml:5:11: 'Upper' is no name for a slot", "lower-case"), ("    base: { schedule: x }\n", "t.yaml:5:23", "@daily"), ("    keep: {}\n", "t.yaml:5:11", "14d"),
        ("    prune: true\n", "a postgres source has no key 'prune'", ""),
    ])
    func source(_ lines: String, _ message: String, _ remedy: String) {
        refused("archive: file:///a\n" + Self.sources + lines, message, remedy)
    }

    private func refused(_ text: String, _ message: String, _ remedy: String) {
        #expect {
            _ = try Configuration(Array(text.utf8), path: "t.yaml") { _ in nil }
        } throws: { error in
            guard let error = error as? ArchiveError else { return false }
            let isRight = error.code == .configuration && error.message.contains(message) && (remedy.isEmpty || (error.remedy ?? "").contains(remedy))
            if !isRight { Issue.record("\(error)") }
            return isRight
        }
    }
}
