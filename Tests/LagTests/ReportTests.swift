import ArchiveCore
import ArchiveTesting
import Foundation
import Testing

@testable import Lag

/// Seconds since a full hour.
private func at(_ seconds: Double) -> Moment { Moment(rawValue: 1_800_000_000_000_000_000).adding(seconds: seconds) }

private func row(_ start: Double, _ end: Double, objective: Double = 5, commits: [Double] = [], age: Double = 0, misses: [(Double, Double, Double, Miss.Cause)] = []) -> LagRow {
    var row = LagRow(start: at(start), end: at(end), objective: objective)
    for commit in commits { row.commits.add(commit) }
    row.misses = misses.map { Miss(start: at($0.0), end: at($0.1), worst: $0.2, cause: $0.3) }
    let missed = misses.reduce(0) { $0 + $1.1 - $1.0 }
    row.exposure.add(age, weight: UInt64((missed > 0 ? missed : end - start) * 1000))
    if missed > 0 { row.exposure.add(0, weight: UInt64((end - start - missed) * 1000)) }
    row.last = [.received: .init(bytes: 0, seconds: 0), .archived: .init(bytes: 100, seconds: 0.5)]
    row.archivedUpTo = at(end - 0.5)
    return row
}

private func report(_ subjects: [(String, [LagRow])], from: Double = 0, to: Double = 600, objective: Double? = nil, archived: Double? = nil, points: Int = 10) -> RPOReport {
    RPOReport.make(
        archive: "memory",
        subjects: subjects.map { .init(source: $0, kind: "toy", rows: $1, newest: nil, archivedUpTo: archived.map(at), verifiedUpTo: nil) }, from: at(from), to: at(to), now: at(to),
        objective: objective, points: points)
}

@Suite("The RPO report")
struct ReportTests {
    @Test("one source: commits, share and measured time are those of the period, whatever rows reach beyond it")
    func one() throws {
        let r = report([("main", [row(-60, 60, commits: [1, 2], age: 30, misses: [(-40, 30, 30, .store)]), row(60, 300, commits: [0.5]), row(400, 590)])])
        let main = try #require(r.sources.first)
        #expect(r.objective == 5 && main.commits == 3 && main.max == 2)
        #expect(main.measured == 60 + 240 + 190)
        #expect(abs(try #require(main.withinObjective) - (1 - 30 / 490.0)) < 1e-9)
        // People are told of the whole moment, not of the piece within the period.
        #expect(main.worst.map(\.miss) == [Miss(start: at(-40), end: at(30), worst: 30, cause: .store)])
        #expect(main.current[.archived] == .init(bytes: 100, seconds: 0.5))
        #expect(!main.isSilent && !main.isBound && main.recordedUpTo == at(590))
        #expect(r.whole.withinObjective == main.withinObjective && r.whole.measured == main.measured)
        #expect(main.chart.map(\.measured) == [60, 60, 60, 60, 60, 0, 20, 60, 60, 50])
        #expect(main.chart[5].max == nil && main.chart[6].max == 0 && (main.chart[0].max ?? 0) == 30)
        #expect(main.chart.first?.start == at(0) && main.chart.last?.end == at(600))
    }

    @Test("all together: missed when any missed, within only when all are known to be")
    func together() throws {
        let a = [row(0, 300, age: 20, misses: [(100, 120, 20, .store)]), row(300, 600)]
        let b = [row(0, 400, age: 30, misses: [(110, 140, 30, .agent)])]
        let r = report([("a", a), ("b", b)])
        // 400 s of both, of which 100 to 140 were missed by one or the other.
        #expect(r.whole.measured == 400)
        #expect(abs(try #require(r.whole.withinObjective) - 0.9) < 1e-9)
        #expect(r.whole.worst.map(\.source) == ["b", "a"])
        // A miss of one is known to be one though the other was not measured.
        let c = report([("a", a), ("b", [row(200, 600)])])
        #expect(c.whole.measured == 420)
        #expect(abs(try #require(c.whole.withinObjective) - 400 / 420) < 1e-9)
        // `b` ended long ago: of it only the watermark is known, and so of all.
        #expect(r.whole.isBound && r.sources[0].isBound == false && r.sources[1].isBound)
        #expect(r.whole.current[.archived]?.seconds == 200.5 && r.whole.current[.received] == nil)
    }

    @Test("a miss that spans rows is one; what comes again within minutes for the same reason is told once; ten at most")
    func worst() throws {
        var rows = [row(0, 60, age: 20, misses: [(50, 60, 20, .agent)]), row(60, 120, age: 80, misses: [(60, 120, 80, .agent)]), row(120, 180, age: 81, misses: [(120, 121, 81, .agent)])]
        rows += [row(180, 240, age: 9, misses: [(180, 200, 9, .store)]), row(400, 460, age: 8, misses: [(401, 410, 8, .store)])]
        let r = report([("main", rows)])
        #expect(r.whole.worst.map(\.miss) == [Miss(start: at(50), end: at(121), worst: 81, cause: .agent), Miss(start: at(180), end: at(410), worst: 9, cause: .store)])
        let many = (0..<30).map { n -> LagRow in
            let start = Double(n) * 1000
            let age = Double(10 + n)
            return row(start, start + 60, age: age, misses: [(start, start + 9, age, .load)])
        }
        #expect(report([("main", many)], to: 40_000).whole.worst.map(\.miss.worst) == (30...39).reversed().map(Double.init))
    }

    @Test("when nobody records any more, what may be lacking is everything since the watermark, and that is said")
    func silent() throws {
        let r = report([("main", [row(0, 60)])], to: 4000)
        let main = try #require(r.sources.first)
        #expect(main.isSilent && main.isBound && main.current[.archived] == .init(bytes: nil, seconds: 4000 - 59.5))
        #expect(main.current[.received] == nil && r.whole.isSilent)
        // The watermark goes on, so the log is archived all the same.
        let other = try #require(report([("main", [row(0, 60)])], to: 4000, archived: 3990).sources.first)
        #expect(!other.isSilent && other.isBound && other.current[.archived]?.seconds == 10)
        // Nothing at all.
        let none = try #require(report([("main", [])]).sources.first)
        #expect(none.isSilent && none.current.isEmpty && none.withinObjective == nil && none.measured == 0 && none.max == nil)
        for r in [report([("main", [])]), report([])] {
            #expect(RPOText(width: 80, isUnicode: true).render(r).contains("Nothing was measured in this period."))
            #expect(RPOPage(r).render().contains("Nothing was measured in this period."))
        }
    }

    @Test("another objective than the recorded one is judged by the histograms, as a bound for all together")
    func otherObjective() throws {
        let a = row(0, 300, age: 20, misses: [(100, 130, 20, .store)])
        let b = row(0, 300, age: 20, misses: [(100, 130, 20, .store)])
        let strict = report([("a", [a]), ("b", [b])], to: 300, objective: 10)
        #expect(strict.sources.allSatisfy { $0.isEstimate && abs(($0.withinObjective ?? 0) - 0.9) < 1e-9 })
        // They may have missed it one after the other.
        #expect(abs(try #require(strict.whole.withinObjective) - 0.8) < 1e-9)
        #expect(strict.sources[0].worst.map(\.miss.cause) == [.store])
        #expect(RPOText(width: 100, isUnicode: false).render(strict).contains(">= 80 %"))
        let loose = report([("a", [a])], to: 300, objective: 60)
        #expect(loose.whole.withinObjective == 1 && loose.whole.worst.isEmpty)
        // The newest row's objective counts where none is given, also for those before it.
        let changed = report([("a", [row(0, 100, objective: 5), row(100, 200, objective: 2)])], to: 300)
        #expect(changed.objective == 2 && changed.whole.isEstimate && changed.whole.withinObjective == 1)
    }

    @Test("absurd rows and periods neither trap nor draw anything that is not a number")
    func absurd() throws {
        var wild = LagRow(start: at(0), end: Moment(rawValue: .max), objective: 1e15)
        for bucket in [0, 1, LagHistogram.last] { wild.exposure += LagHistogram(buckets: [(bucket, .max), (bucket, .max)], maximum: 9e15, sum: 1e300) ?? LagHistogram() }
        for _ in 0..<3 { wild.commits += wild.exposure }
        wild.misses = [Miss(start: Moment(rawValue: .min), end: Moment(rawValue: .max), worst: 9e15, cause: .gap)]
        wild.last = [.archived: .init(bytes: .max, seconds: 9e15)]
        let subjects = ["a", "b"].map { RPOReport.Subject(source: $0, kind: "", rows: [wild, wild], newest: wild, archivedUpTo: Moment(rawValue: .min), verifiedUpTo: Moment(rawValue: .max)) }
        for (from, to) in [(at(0), at(600)), (Moment(rawValue: 0), Moment(rawValue: .max)), (Moment(rawValue: .min), Moment(rawValue: .max)), (at(5), at(5)), (at(9), at(5))] {
            for objective in [nil, 0.1, 31_536_000] as [Double?] {
                let r = RPOReport.make(archive: "x", subjects: subjects, from: from, to: to, now: to, objective: objective)
                for text in [RPOText(width: 1, isUnicode: true).render(r), RPOPage(r).render()] {
                    let words = Set(text.split { !$0.isLetter && $0 != "-" })
                    #expect(words.isDisjoint(with: ["nan", "inf", "-nan", "-inf"]))
                }
                _ = try JSONEncoder().encode(r)
            }
        }
        #expect(LagHistogram(buckets: [(3, .max), (3, 1)], maximum: 1, sum: 1)?.quantile(1) == LagHistogram.bound(of: 3))
    }
}

@Suite("The RPO report on a page and in a terminal")
struct RenderTests {
    private let hostile = "</style><script>alert(1)</script>\"'&\u{1B}[2J\u{9B}5m"

    private var sample: RPOReport {
        RPOReport.make(
            archive: "s3://\(hostile)",
            subjects: [
                .init(
                    source: hostile, kind: "toy", rows: [row(0, 300, commits: [0.2, 0.4, 9], age: 20, misses: [(100, 130, 20, .network)]), row(400, 590)], newest: nil, archivedUpTo: nil,
                    verifiedUpTo: at(100))
            ], from: at(0), to: at(600), now: at(600), objective: nil)
    }

    @Test("strangers' names do nothing on the page, and the page asks for nothing from elsewhere")
    func escaping() throws {
        let page = RPOPage(sample).render()
        #expect(!page.contains("<script") && !page.contains("alert(1)</") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;?[2J?5m"))
        #expect(page.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) })
        for word in ["src=", "href=", "@import", "http:", "https:", "url(http", "<link", "<img", "<iframe"] { #expect(!page.contains(word), "\(word)") }
        #expect(page.components(separatedBy: "<style>").count == 2 && page.components(separatedBy: "</style>").count == 2)
        #expect(page.contains("default-src 'none'"))
    }

    @Test("the page is well-formed: every element is closed by its own, and no id is given twice")
    func wellFormed() throws {
        for page in [RPOPage(sample).render(), RPOPage(report([("a", [row(0, 600)]), ("b", [row(0, 60)])])).render(), RPOPage(report([])).render()] {
            var open: [Substring] = []
            let void: Set<Substring> = ["meta", "br", "!doctype"]
            for part in page.split(separator: "<").dropFirst(0) {
                let tag = part.prefix { $0 != ">" }
                guard let name = tag.split(whereSeparator: { " \n".contains($0) }).first else { continue }
                if name.hasPrefix("/") { #expect(open.popLast() == name.dropFirst()) } else if !void.contains(name), !tag.hasSuffix("/") { open.append(name) }
            }
            #expect(open.isEmpty)
            let ids = page.components(separatedBy: " id=\"").dropFirst().map { $0.prefix { $0 != "\"" } }
            #expect(Set(ids).count == ids.count)
        }
    }

    @Test("whoever cannot see the chart has its words and its figures")
    func accessible() throws {
        let page = RPOPage(sample).render()
        #expect(page.contains("<svg viewBox=\"0 0 960 240\" role=\"img\" aria-label=\"Lag of "))
        #expect(page.contains("<title>Lag of ") && page.contains("<summary>The same in figures</summary>") && page.contains("lang=\"en\""))
        #expect(page.contains("the source could not be reached") && page.contains("beyond the objective") == false)
    }

    @Test("the terminal gets no stranger's control characters, no letter that it cannot show, and no line that is too long")
    func terminal() throws {
        let plain = RPOText(width: 80, isUnicode: false).render(sample)
        #expect(plain.unicodeScalars.allSatisfy { $0.isASCII && ($0 == "\n" || $0.value >= 0x20) })
        let drawn = RPOText(width: 80, isUnicode: true).render(report([("main", [row(0, 300, commits: [0.3], age: 20, misses: [(100, 130, 20, .network)]), row(400, 590)])]))
        #expect(drawn.contains("█") && drawn.contains("·") && drawn.contains("the source could not be reached"))
        for width in [0, 60, 80, 500] {
            let lines = RPOText(width: width, isUnicode: true).render(report([("main", [row(0, 600, age: 1)])], points: 120)).split(separator: "\n")
            #expect(lines.filter { $0.contains("│") || $0.contains("┤") }.allSatisfy { $0.count <= max(60, min(width, 200)) })
        }
    }

    @Test(
        "figures are rounded so that nothing looks better than it was",
        arguments: [
            (0.0, "0.00 s"), (0.001, "0.01 s"), (0.994, "1.0 s"), (0.996, "1.0 s"), (1.01, "1.1 s"), (9.94, "10.0 s"), (9.96, "10 s"), (119.5, "2 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
            (273_600, "3 d 4 h"), (-1, "–"), (.infinity, "–"), (.nan, "–"),
        ] as [(Double, String)])
    func durations(seconds: Double, text: String) { #expect(RPOWords.duration(seconds) == text) }

    @Test("a share is 100 % only when it is", arguments: [(1.0, "100 %"), (0.9999999, "99.999 %"), (0.5, "50 %"), (0.12345, "12.345 %"), (0, "0 %"), (-1, "0 %"), (2, "100 %")] as [(Double, String)])
    func shares(share: Double, text: String) { #expect(RPOWords.share(share) == text) }

    @Test("the JSON names stages, and is read back as it was")
    func json() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        let bytes = try encoder.encode(sample)
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.contains(#""current":{"archived":{"bytes":100,"seconds":0.5}"#))
        #expect(try encoder.encode(try JSONDecoder().decode(RPOReport.self, from: bytes)) == bytes)
        #expect(text.contains(#""cause":"network""#))
    }

    @Test("ticks are few, round and within the period", arguments: [1.0, 600, 3600, 86_400, 604_800, 31_536_000, 3_153_600_000])
    func ticks(seconds: Double) {
        let ticks = RPOTicks.between(at(7), at(7 + seconds))
        #expect(ticks.count <= 9 && (seconds < 600 || !ticks.isEmpty))
        #expect(ticks.allSatisfy { $0.time > at(7) && $0.time < at(7 + seconds) })
        #expect(Set(ticks.map(\.label)).count == ticks.count)
    }
}

@Suite("Stretches of time")
struct SpansTests {
    @Test("are joined, cut and measured as sets are", arguments: 0..<50)
    func sets(seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        func some() -> [Range<Int>] {
            (0..<Int.random(in: 0...6, using: &random)).map { _ in
                let start = Int.random(in: 0..<40, using: &random)
                return start..<start + Int.random(in: 0...9, using: &random)
            }
        }
        func spans(_ ranges: [Range<Int>]) -> Spans { Spans(ranges.map { at(Double($0.lowerBound))..<at(Double($0.upperBound)) }) }
        let (a, b) = (some(), some())
        let (setA, setB) = (Set(a.flatMap { Array($0) }), Set(b.flatMap { Array($0) }))
        #expect(spans(a).length == Double(setA.count), "\(a)")
        #expect(spans(a).union(spans(b)).length == Double(setA.union(setB).count), "\(a) \(b)")
        #expect(spans(a).intersection(spans(b)).length == Double(setA.intersection(setB).count), "\(a) \(b)")
    }
}
