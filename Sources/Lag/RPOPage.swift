import ArchiveCore

/// A report as one HTML page that needs nothing else: no script, no request to anywhere.
public struct RPOPage {
    private let report: RPOReport

    public init(_ report: RPOReport) { self.report = report }

    public func render() -> String {
        let entries = report.sources.count == 1 ? report.sources : [report.whole] + report.sources
        return """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
            <title>RPO report · \(escaped(report.archive))</title>
            <style>\(Self.style)</style>
            </head>
            <body>
            <main>
            <header>
            <p class="brand">Tidemark</p>
            <h1>How much could have been lost</h1>
            <p class="meta">\(escaped(report.archive))<br>\(RPOWords.time(report.from)) to \(RPOWords.time(report.to)) · objective <b>\(RPOWords.duration(report.objective))</b></p>
            </header>
            <h2>Not in the archive at \(RPOWords.time(report.to))</h2>
            <section class="cards">
            \(entries.map { card($0) }.joined(separator: "\n"))
            </section>
            \(silences())
            <h2>From commit to archive</h2>
            \(distribution(entries))
            \(report.sources.filter { $0.measured > 0 }.enumerated().map { chart($1, number: $0) }.joined(separator: "\n"))
            <h2>Worst moments</h2>
            \(worst())
            <h2>On its way at the end</h2>
            \(stages(entries))
            <footer>Made \(RPOWords.time(report.created)) from what agents recorded in the archive. A lag is the time from a commit to the moment from which on it can be restored; \
            quantiles are rounded up by at most 9 %. Hatched time was not measured. Times are UTC.\(estimate)</footer>
            </main>
            </body>
            </html>

            """
    }

    private var estimate: String {
        report.whole.isEstimate ? " The agents recorded by another objective: how long this one was missed is estimated from histograms." : ""
    }

    // MARK: Parts

    private func name(_ entry: RPOReport.Entry) -> String { entry.source.map { escaped($0) } ?? "All together" }

    /// Good, not measured, or missed: also told in words, never by colour alone.
    private func judgement(_ entry: RPOReport.Entry) -> (style: String, words: String) {
        if entry.isSilent { return ("bad", entry.recordedUpTo.map { "nothing recorded since \(RPOWords.time($0))" } ?? "nothing was ever recorded") }
        guard let lag = entry.current[.archived] else { return ("unknown", "not known") }
        if lag.seconds > report.objective { return entry.isBound ? ("unknown", "at most; not measured any more") : ("bad", "beyond the objective") }
        return ("good", "within the objective")
    }

    private func card(_ entry: RPOReport.Entry) -> String {
        let (style, words) = judgement(entry)
        let share = entry.withinObjective
        let figure = entry.current[.archived].map { lag in (entry.isBound ? "≤ " : "") + (lag.seconds == 0 ? "0 s" : RPOWords.duration(lag.seconds)) } ?? "–"
        return """
            <article class="card \(style)">
            <h3>\(name(entry))</h3>
            <p class="figure">\(figure)</p>
            <p class="state">\(words)</p>
            \(share.map { share in """
                <div class="bar" role="img" aria-label="\(RPOWords.within(entry)) of the measured time within the objective"><span style="width:\(percent(share))%"></span></div>
                <p class="small">\(RPOWords.within(entry)) of the measured time within the objective</p>
                """ } ?? "<p class=\"small\">nothing was measured in this period</p>")
            </article>
            """
    }

    private func silences() -> String {
        report.sources.filter(\.isSilent).map { "<p class=\"alarm\"><b>\(name($0))</b>: \(RPOWords.silence($0))</p>" }.joined(separator: "\n")
    }

    private func distribution(_ entries: [RPOReport.Entry]) -> String {
        func time(_ seconds: Double?) -> String {
            guard let seconds else { return "<td>–</td>" }
            return "<td\(seconds > report.objective ? " class=\"over\"" : "")>\(RPOWords.duration(seconds))</td>"
        }
        let rows = entries.map { entry in
            "<tr><th scope=\"row\">\(name(entry))</th><td>\(RPOWords.count(entry.commits))</td>\(time(entry.p50))\(time(entry.p95))\(time(entry.p99))\(time(entry.max))"
                + "<td>\(RPOWords.within(entry))</td><td>\(RPOWords.share(entry.measured / max(report.to - report.from, 0.001)))</td></tr>"
        }
        return table(["", "Commits", "p50", "p95", "p99", "Max", "Within objective", "Measured"], rows)
    }

    private func worst() -> String {
        guard !report.whole.worst.isEmpty else { return "<p>\(report.whole.measured > 0 ? "The objective was never missed while it was measured." : "Nothing was measured in this period.")</p>" }
        return table(
            ["At stake", "From", "For", "Source", "Because"], isText: true,
            report.whole.worst.map {
                "<tr><th scope=\"row\">\(RPOWords.duration($0.miss.worst))</th><td class=\"text\">\(RPOWords.time($0.miss.start))</td>"
                    + "<td class=\"text\">\(RPOWords.duration($0.miss.end - $0.miss.start))</td><td class=\"text\">\(escaped($0.source))</td><td class=\"text\">\(RPOWords.cause($0.miss.cause))</td></tr>"
            })
    }

    private func stages(_ entries: [RPOReport.Entry]) -> String {
        table(
            [""] + LagRow.Stage.allCases.map { RPOWords.stage($0).capitalizedFirst },
            entries.map { entry in
                "<tr><th scope=\"row\">\(name(entry))</th>"
                    + LagRow.Stage.allCases.map { "<td>\(RPOWords.backlog(entry.current[$0], atMost: entry.isBound || $0 == .verified))</td>" }.joined() + "</tr>"
            })
    }

    /// - Parameter isText: columns are words, not figures.
    private func table(_ head: [String], isText: Bool = false, _ rows: [String]) -> String {
        let style = isText ? " class=\"text\"" : ""
        let heads = head.map { $0.isEmpty ? "<td></td>" : "<th scope=\"col\"\(style)>\($0)</th>" }
        return "<div class=\"scroll\"><table>\n<thead><tr>\(heads.joined())</tr></thead>\n<tbody>\n\(rows.joined(separator: "\n"))\n</tbody>\n</table></div>"
    }

    // MARK: Chart

    private static let size = (width: 960.0, height: 240.0, left: 64.0, right: 16.0, top: 14.0, bottom: 26.0)

    private func chart(_ entry: RPOReport.Entry, number: Int) -> String {
        let s = Self.size
        let (width, height) = (s.width - s.left - s.right, s.height - s.top - s.bottom)
        let scale = LagScale(top: max(report.objective * 2, entry.chart.compactMap(\.max).max() ?? 0, entry.max ?? 0) * 1.2)
        let n = Double(max(entry.chart.count, 1))
        func x(_ i: Double) -> String { fixed(s.left + width * i / n) }
        func y(_ seconds: Double) -> String { fixed(s.top + height * (1 - scale.share(seconds))) }
        var drawing = ""
        for mark in scale.marks {
            drawing += "<line class=\"grid\" x1=\"\(fixed(s.left))\" x2=\"\(fixed(s.width - s.right))\" y1=\"\(y(mark))\" y2=\"\(y(mark))\"/>"
            drawing += "<text class=\"label\" x=\"\(fixed(s.left - 8))\" y=\"\(y(mark))\" text-anchor=\"end\" dominant-baseline=\"middle\">\(RPOWords.duration(mark))</text>"
        }
        for (i, point) in entry.chart.enumerated() {
            let lacking = 1 - point.measured / max(point.end - point.start, 0.001)
            guard lacking > 0.02 else { continue }
            // What lacks goes on into the next piece, or came from the one before.
            let isBeginning = i + 1 < entry.chart.count && entry.chart[i + 1].measured < entry.chart[i + 1].end - entry.chart[i + 1].start
            drawing += "<rect fill=\"url(#hatch-\(number))\" x=\"\(x(Double(i) + (isBeginning ? 1 - lacking : 0)))\" y=\"\(fixed(s.top))\" width=\"\(fixed(width / n * lacking))\" height=\"\(fixed(height))\"/>"
        }
        // The worst age of each piece of time, as a bar; brighter where it was beyond the objective.
        for (i, point) in entry.chart.enumerated() {
            guard let max = point.max, max > 0 else { continue }
            let top = scale.share(max) * height
            drawing += "<rect class=\"\(max > report.objective ? "max over" : "max")\" x=\"\(x(Double(i)))\" y=\"\(y(max))\" width=\"\(fixed(width / n + 0.3))\" height=\"\(fixed(top))\"/>"
        }
        drawing += path(entry.chart.map(\.p99), "p99", x, y) + path(entry.chart.map(\.p50), "p50", x, y)
        drawing += "<line class=\"objective\" x1=\"\(fixed(s.left))\" x2=\"\(fixed(s.width - s.right))\" y1=\"\(y(report.objective))\" y2=\"\(y(report.objective))\"/>"
        for (time, label) in RPOTicks.between(report.from, report.to) {
            let at = fixed(s.left + width * ((time - report.from) / max(report.to - report.from, 0.001)))
            drawing += "<line class=\"tick\" x1=\"\(at)\" x2=\"\(at)\" y1=\"\(fixed(s.height - s.bottom))\" y2=\"\(fixed(s.height - s.bottom + 4))\"/>"
            drawing += "<text class=\"label\" x=\"\(at)\" y=\"\(fixed(s.height - 6))\" text-anchor=\"middle\">\(label)</text>"
        }
        let words = "Lag of \(name(entry)): median \(entry.p50.map { RPOWords.duration($0) } ?? "unknown"), 99 % within \(entry.p99.map { RPOWords.duration($0) } ?? "unknown"), worst age \(entry.chart.compactMap(\.max).max().map { RPOWords.duration($0) } ?? "unknown")."
        return """
            <figure>
            <figcaption><h3>\(name(entry))</h3><span class="key"><i class="k-p50"></i>p50 <i class="k-p99"></i>p99 <i class="k-max"></i>oldest commit lacking <i class="k-obj"></i>objective</span></figcaption>
            <svg viewBox="0 0 \(fixed(s.width)) \(fixed(s.height))" role="img" aria-label="\(words)"><title>\(words)</title>
            <defs><pattern id="hatch-\(number)" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>
            \(drawing)
            </svg>
            <details><summary>The same in figures</summary>
            \(figures(entry))
            </details>
            </figure>
            """
    }

    /// The chart's points as a table, for whoever cannot see it.
    private func figures(_ entry: RPOReport.Entry) -> String {
        func cell(_ seconds: Double?) -> String { "<td>\(seconds.map { RPOWords.duration($0) } ?? "–")</td>" }
        return table(
            ["From", "p50", "p99", "Oldest commit lacking", "Measured"],
            entry.chart.map { point in
                "<tr><th scope=\"row\">\(RPOWords.time(point.start))</th>\(cell(point.p50))\(cell(point.p99))\(cell(point.max))"
                    + "<td>\(RPOWords.share(point.measured / max(point.end - point.start, 0.001)))</td></tr>"
            })
    }

    /// A line through what is known, broken where it is not.
    private func path(_ values: [Double?], _ style: String, _ x: (Double) -> String, _ y: (Double) -> String) -> String {
        var d = ""
        var isOpen = false
        for (i, value) in values.enumerated() {
            guard let value else {
                isOpen = false
                continue
            }
            // A piece of time alone is a short line.
            d += isOpen ? "L\(x(Double(i) + 0.5)) \(y(value))" : "M\(x(Double(i) + 0.2)) \(y(value))L\(x(Double(i) + 0.5)) \(y(value))"
            isOpen = true
        }
        return d.isEmpty ? "" : "<path class=\"\(style)\" d=\"\(d)\"/>"
    }

    private func fixed(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(abs(tenths % 10))"
    }

    private func percent(_ share: Double) -> String { fixed(max(0, min(1, share)) * 100) }

    private func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            case "'": result += "&#39;"
            case _ where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value): result += "?"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    private static let style = """

        :root { --paper:#f7f8fa; --card:#fff; --ink:#1a2230; --soft:#5b6677; --line:#dfe4ea; --good:#0f7b54; --bad:#b3261e; --unknown:#6b7280; --p50:#0b6bcb; --p99:#7a3fb8; --max:#b9d3ee; --over:#f0a39c; --bar:#e5e9ef; }
        @media (prefers-color-scheme: dark) { :root { --paper:#11151b; --card:#1a2029; --ink:#e7ebf0; --soft:#9aa6b5; --line:#2c3540; --good:#4cc38a; --bad:#ff8a80; --unknown:#9aa6b5; --p50:#62b0ff; --p99:#c79bff; --max:#2b4560; --over:#7d3a36; --bar:#2c3540; } }
        * { box-sizing:border-box; }
        body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
        main { max-width:1040px; margin:0 auto; padding:32px 24px 48px; }
        .brand { margin:0; color:var(--soft); letter-spacing:.08em; text-transform:uppercase; font-size:12px; }
        h1 { margin:2px 0 4px; font-size:28px; line-height:1.2; }
        h2 { margin:34px 0 10px; font-size:18px; }
        h3 { margin:0; font-size:15px; font-weight:600; overflow-wrap:anywhere; }
        .meta { margin:0; color:var(--soft); overflow-wrap:anywhere; }
        .cards { display:grid; grid-template-columns:repeat(auto-fit, minmax(230px, 1fr)); gap:14px; }
        .card { background:var(--card); border:1px solid var(--line); border-top:4px solid var(--unknown); border-radius:8px; padding:14px 16px; }
        .card.good { border-top-color:var(--good); } .card.bad { border-top-color:var(--bad); }
        .figure { margin:4px 0 0; font-size:30px; font-weight:650; line-height:1.2; font-variant-numeric:tabular-nums; }
        .state { margin:0 0 10px; color:var(--unknown); } .good .state { color:var(--good); } .bad .state { color:var(--bad); }
        .bar { height:6px; border-radius:3px; background:var(--bad); overflow:hidden; } .bar span { display:block; height:100%; background:var(--good); }
        .small { margin:6px 0 0; font-size:13px; color:var(--soft); }
        .alarm { margin:14px 0 0; padding:10px 14px; border-left:4px solid var(--bad); background:var(--card); }
        .scroll { overflow-x:auto; background:var(--card); border:1px solid var(--line); border-radius:8px; }
        table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
        th, td { padding:8px 14px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); } tbody tr:last-child > * { border-bottom:0; }
        thead th { color:var(--soft); font-weight:500; font-size:13px; } th[scope=row] { text-align:left; font-weight:600; white-space:normal; overflow-wrap:anywhere; min-width:7em; } thead th:first-child { text-align:left; } th.text, td.text { text-align:left; } td.text:last-child { white-space:normal; min-width:14em; } td.over { color:var(--bad); font-weight:600; }
        figure { margin:18px 0 0; background:var(--card); border:1px solid var(--line); border-radius:8px; padding:12px 16px 6px; }
        figcaption { display:flex; flex-wrap:wrap; justify-content:space-between; gap:4px 16px; }
        .key { font-size:13px; color:var(--soft); } .key i { display:inline-block; width:14px; height:3px; margin:0 4px 3px 10px; vertical-align:middle; } .key .k-max { height:10px; background:var(--max); } .k-p50 { background:var(--p50); } .k-p99 { background:var(--p99); } .k-obj { background:var(--bad); }
        svg { display:block; width:100%; height:auto; margin-top:6px; } .grid, .tick { stroke:var(--line); } details { margin:4px 0 6px; font-size:13px; color:var(--soft); } summary { cursor:pointer; } details .scroll { margin-top:6px; max-height:320px; overflow-y:auto; } .label { fill:var(--soft); font-size:12px; } .hatch { stroke:var(--soft); stroke-width:1.4; opacity:.55; }
        .max { fill:var(--max); } .max.over { fill:var(--over); } .p50, .p99 { fill:none; stroke-width:1.8; stroke-linejoin:round; } .p50 { stroke:var(--p50); } .p99 { stroke:var(--p99); } .objective { stroke:var(--bad); stroke-dasharray:5 4; }
        footer { margin-top:30px; color:var(--soft); font-size:13px; }
        @page { margin:12mm; }
        @media print {
        :root { color-scheme:light; --paper:#fff; --card:#fff; --ink:#000; --soft:#444; --line:#bbb; --good:#0f7b54; --bad:#b3261e; --unknown:#555; --p50:#0b6bcb; --p99:#7a3fb8; --max:#c9ddf2; --over:#f0a39c; --bar:#ddd; }
        * { -webkit-print-color-adjust:exact; print-color-adjust:exact; } body { font-size:11px; } main { max-width:none; padding:1px; } h1 { font-size:21px; } h2 { margin:18px 0 8px; font-size:14px; break-after:avoid; } h3 { font-size:12px; }
        .cards { grid-template-columns:repeat(auto-fit, minmax(150px, 1fr)); gap:10px; } .card { padding:8px 12px; } .figure { font-size:21px; } .state { margin-bottom:6px; } .small, .key, thead th, footer { font-size:10px; }
        .scroll { overflow:visible; } th, td { padding:4px 8px; } td { white-space:normal; } figure { margin-top:12px; padding:8px 12px 6px; } details { display:none; } figure, .card, .scroll { break-inside:avoid; }
        }

        """
}

extension String {
    fileprivate var capitalizedFirst: String { prefix(1).uppercased() + dropFirst() }
}
