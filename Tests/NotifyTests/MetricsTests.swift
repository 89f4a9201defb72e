import ArchiveCore
import Foundation
import Lag
import Sidecar
import Testing

@testable import StatusServer

/// A strict reader of Prometheus' text format, version 0.0.4, that also sees to the names' conventions.
struct MetricsReader {
    struct Failure: Error, CustomStringConvertible { var description: String }
    var samples: [(name: String, labels: [String: String], value: Double)] = []
    var types: [String: String] = [:]

    init(_ text: String) throws {
        guard text.hasSuffix("\n") else { throw Failure(description: "the last line has no end") }
        var family = "", seen = Set<String>()
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
            if line.hasPrefix("# HELP ") {
                family = String(line.dropFirst(7).prefix { $0 != " " })
                guard types[family] == nil, line.count > 8 + family.count else { throw Failure(description: "twice, or without help: \(family)") }
                continue
            }
            if line.hasPrefix("# TYPE ") {
                let words = line.split(separator: " ")
                guard words.count == 4, words[2] == family else { throw Failure(description: "TYPE without HELP: \(line)") }
                types[family] = String(words[3])
                guard (words[3] == "counter") == family.hasSuffix("_total") else { throw Failure(description: "a counter's name ends in _total, and no other: \(family)") }
                continue
            }
            guard let match = line.wholeMatch(of: /([a-z][a-z0-9_]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\})? ([-+0-9.eEInfNa]+)/),
                let value = Double(match.3.replacing("+Inf", with: "inf"))
            else { throw Failure(description: "no sample: \(line)") }
            let name = String(match.1)
            let plain = types[family] == "histogram" ? ["_bucket", "_sum", "_count"].map { family + $0 } : [family]
            guard plain.contains(name) else { throw Failure(description: "\(name) stands among \(family)") }
            guard seen.insert("\(name){\(match.2 ?? "")}").inserted else { throw Failure(description: "twice: \(line)") }
            var labels: [String: String] = [:]
            for pair in (match.2 ?? "").matches(of: /([a-z_]+)="((?:[^"\\]|\\.)*)"/) { labels[String(pair.1)] = String(pair.2) }
            samples.append((name, labels, value))
        }
    }

    func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
        samples.first { sample in sample.name == name && labels.allSatisfy { sample.labels[$0.key] == $0.value } }?.value
    }
}

@Suite("The agent's metrics")
struct MetricsTests {
    static func snapshot() -> StatusBoard.Snapshot {
        let time = Moment(rawValue: 1_700_000_000_000_000_000)
        var source = SourceStatus(name: "main", kind: "postgres", since: time)
        source.state = .archiving
        source.backlog = [.archived: .init(bytes: 10, seconds: 0.25), .received: .init(bytes: nil, seconds: 0)]
        source.watermark = time
        source.commits = 4
        for lag in [0.016, 0.5, 0.9, 100_000] { source.lag.add(lag) }
        source.slot = .init(name: "a\"b\\c\nd", state: "reserved", retained: 5, room: nil, forecast: nil)
        var snapshot = StatusBoard.Snapshot(
            version: "1", started: time, archive: "file:///a", archiveID: "x", objective: 5, sources: [source, SourceStatus(name: "git", kind: "gitaly", since: time)],
            configurationLoaded: time)
        snapshot.archiveAnswered = time
        snapshot.notifications = [RecipientStatus(name: "webhook https://h/…")]
        return snapshot
    }

    @Test("are in Prometheus' format, and hold what is known")
    func whole() throws {
        let text = Metrics.text(Self.snapshot(), .current())
        let read = try MetricsReader(text)
        #expect(read.value("tidemark_backlog_seconds", ["source": "main", "kind": "postgres", "stage": "archived"]) == 0.25)
        #expect(read.value("tidemark_backlog_bytes", ["stage": "received"]) == nil)
        #expect(read.value("tidemark_source_state", ["source": "git", "state": "starting"]) == 1 && read.value("tidemark_source_state", ["source": "git", "state": "archiving"]) == 0)
        #expect(read.value("tidemark_watermark_timestamp_seconds", ["source": "main"]) == 1_700_000_000)
        #expect(read.value("tidemark_watermark_timestamp_seconds", ["source": "git"]) == nil)
        #expect(read.value("tidemark_slot_retained_bytes", ["slot": #"a\"b\\c\nd"#]) == 5)
        #expect(read.value("tidemark_archive_up") == 1 && read.value("tidemark_rpo_objective_seconds") == 5)
        #expect(try #require(read.value("process_resident_memory_bytes")) > 1_048_576 && read.value("process_open_fds") != nil)
        #expect(try #require(read.value("process_start_time_seconds")) > 1_500_000_000 && read.value("process_cpu_seconds_total") != nil)
    }

    @Test("a histogram grows with its bounds, up to its count")
    func histogram() throws {
        let read = try MetricsReader(Metrics.text(Self.snapshot(), ProcessFigures()))
        let buckets = read.samples.filter { $0.name == "tidemark_archive_lag_seconds_bucket" && $0.labels["source"] == "main" }
        #expect(buckets.map(\.value) == buckets.map(\.value).sorted() && buckets.last?.labels["le"] == "+Inf" && buckets.last?.value == 4)
        #expect(buckets.first { $0.labels["le"] == "0.016" }?.value == 1 && buckets.first { $0.labels["le"] == "1.024" }?.value == 3)
        #expect(read.value("tidemark_archive_lag_seconds_count", ["source": "main"]) == 4 && read.value("tidemark_archive_lag_seconds_count", ["source": "git"]) == 0)
        // What the bounds are called is what they are.
        #expect(Metrics.lagBounds.allSatisfy { Double(MetricsText.number($0)) == $0 } && Metrics.lagBounds == Metrics.lagBounds.sorted())
    }

    @Test("every one of them is documented")
    func documented() throws {
        let path = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let page = try String(contentsOfFile: "/\(path)/docs/metrics.md", encoding: .utf8)
        for name in try MetricsReader(Metrics.text(Self.snapshot(), .current())).types.keys { #expect(page.contains("`\(name)`"), "\(name)") }
    }

    @Test("what the kernel says of a process is read, also where its name is absurd, or the text is cut")
    func process() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 1000 4096000 25 18446744073709551615"
        let figures = ProcessFigures(stat: stat, bootTime: 100, ticks: 100, page: 4096)
        #expect(figures.cpuSeconds == 2 && figures.threads == 9 && figures.startTime == 110 && figures.virtualBytes == 4_096_000 && figures.residentBytes == 102_400)
        for length in 0..<stat.count { _ = ProcessFigures(stat: String(stat.prefix(length)), bootTime: nil, ticks: 100, page: 4096) }
        #expect(ProcessFigures(stat: "no bracket", bootTime: 1, ticks: 1, page: 1) == ProcessFigures())
    }

    @Test("numbers are written as Go reads them", arguments: [
        (0, "0"), (1.5, "1.5"), (-2, "-2"), (.infinity, "+Inf"), (-.infinity, "-Inf"), (.nan, "NaN"), (1e300, "1e+300"), (0.001, "0.001"), (1_700_000_000.25, "1700000000.25"),
    ] as [(Double, String)])
    func numbers(_ value: Double, _ text: String) { #expect(MetricsText.number(value) == text) }
}
