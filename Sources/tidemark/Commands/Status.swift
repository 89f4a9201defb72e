import ArchiveCore
import Foundation
import Lag
import Runtime
import StatusServer
import Store

let statusCommand = Command(
    "status", "Ask the agent how it is: lag, bases, slots, failures.",
    options: [Option("url", "URL", help: "The agent's status server; default: 'listen' of the configuration."), Shared.config, Shared.json],
    example: "tidemark status --url http://127.0.0.1:9187"
) { arguments in
    let base = try StatusReport.place(arguments)
    let (document, bytes) = try await StatusReport.fetch(base)
    if arguments.has("json") { Output.put(bytes, to: 1) } else { Output.put(StatusReport.text(document), to: 1) }
    return document.problems.isEmpty ? 0 : 4
}

/// What `tidemark status` asks, and how it shows the answer.
enum StatusReport {
    /// Seconds for the whole answer.
    private static let patience = 10.0

    /// Scheme and host of the agent's server.
    static func place(_ arguments: Arguments) throws -> (scheme: String, host: String) {
        if let url = arguments["url"] {
            guard let place = parse(url) else { throw ArchiveError(.usage, "--url takes an address such as http://127.0.0.1:9187.") }
            return place
        }
        let configuration = try Shared.configuration(arguments)
        guard let listen = configuration.listen, let place = parse(listen.url) else {
            throw ArchiveError(
                .configuration, "\(configuration.path) has no 'listen': its agent has no status server.",
                remedy: "Add listen: 127.0.0.1:9187 and start the agent anew, or name another agent's address with --url.")
        }
        return place
    }

    /// `http://host:port`, with `/` or `/status` behind it at most.
    static func parse(_ url: String) -> (scheme: String, host: String)? {
        guard let end = url.range(of: "://"), ["http", "https"].contains(String(url[..<end.lowerBound])) else { return nil }
        var host = url[end.upperBound...]
        if host.hasSuffix("/status") { host = host.dropLast("/status".count) } else if host.hasSuffix("/") { host = host.dropLast() }
        guard !host.isEmpty, host.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), !host.contains(where: { "/?#@\\".contains($0) }) else { return nil }
        return (String(url[..<end.lowerBound]), String(host))
    }

    /// - Throws: `.sourceUnreachable` when no agent answers.
    static func fetch(_ place: (scheme: String, host: String)) async throws -> (StatusDocument, [UInt8]) {
        let shown = "\(place.scheme)://\(place.host)"
        var options = TransportOptions()
        options.proxy = ""
        options.connectTimeout = 5
        let transport = CurlTransport(options)
        let request = HTTPRequest(.get, scheme: place.scheme, host: place.host, path: "/status")
        let response: HTTPResponse?
        do { response = try await within(patience) { try await transport.send(request) } } catch let failure as HTTPFailure {
            throw ArchiveError(
                .sourceUnreachable, "No agent answers at \(shown): \(failure.message)",
                remedy: "See whether the agent runs (systemctl status tidemark), read its log, and compare 'listen' in its configuration.")
        }
        guard let response else {
            throw ArchiveError(.sourceUnreachable, "The agent at \(shown) did not answer within \(Int(patience)) s.", remedy: "Read its log; start it anew if it hangs.")
        }
        guard response.status == 200, let document = try? JSONDecoder().decode(StatusDocument.self, from: Data(response.body)) else {
            throw ArchiveError(
                .sourceUnreachable, "What answers at \(shown) (status \(response.status)) is no agent of this version.", remedy: "Correct the address, or use the agent's own version.")
        }
        return (document, response.body)
    }

    /// A page for a terminal. Nothing in it that the agent said can steer the terminal.
    static func text(_ document: StatusDocument) -> String {
        var lines = [
            "agent \(document.version) on \(document.archive), up since \(document.started)",
            "archive: \(document.archiveProblem ?? (document.archiveAnswered.map { "answered \($0)" } ?? "not asked yet"))", "",
        ]
        let time = Moment(document.time)
        var rows = [["source", "state", "received", "synced", "archived", "verified", "archived up to", "commits", "p99 lag", "gaps", "failures"]]
        for source in document.sources {
            rows.append(
                [source.name, source.state] + LagRow.Stage.allCases.map { stage in source.backlog[stage].map { backlog($0) } ?? "-" }
                    + [source.watermark ?? "-", "\(source.lag.commits)", source.lag.p99.map(span) ?? "-", "\(source.gaps)", "\(source.failures)"])
        }
        lines += [Output.table(rows), "", "Behind now: age of the oldest commit that the stage lacks, and bytes. The objective is \(span(document.objective)).", ""]
        rows = [["source", "last base", "begun", "took", "size", "next base", "slot", "kept by the server", "room"]]
        for source in document.sources {
            let bases = source.bases
            rows.append([
                source.name, bases.lastID ?? "none", bases.lastStarted ?? "-", bases.lastSeconds.map(span) ?? "-", bases.lastBytes.map(Output.bytes) ?? "-",
                bases.running ? "running" : bases.next.map { next(at: $0, after: time) } ?? "no schedule", source.slot.map { "\($0.name) (\($0.state))" } ?? "-",
                source.slot.map { Output.bytes($0.retained) } ?? "-",
                source.slot.map { slot in (slot.room.map(Output.bytes) ?? "?") + (slot.forecast.map { ", full in \(span($0))" } ?? "") } ?? "-",
            ])
        }
        lines.append(Output.table(rows))
        if !document.notifications.isEmpty {
            rows = [["notified", "sent", "failed", "waiting", "last error"]]
            for one in document.notifications { rows.append([one.name, "\(one.sent)", "\(one.failed)", "\(one.waiting)", one.lastError ?? "-"]) }
            lines += ["", Output.table(rows)]
        }
        lines += document.problems.isEmpty ? ["", "Everything is as it should be."] : ["", "Not as it should be:"] + document.problems.map { "  \($0)" }
        let text = lines.joined(separator: "\n") + "\n"
        return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control && $0 != "\n" ? "?" : $0 }))
    }

    private static func next(at text: String, after time: Moment?) -> String {
        guard let time, let due = Moment(text) else { return text }
        return due > time ? "\(text), in \(span(due - time))" : "\(text), due"
    }

    private static func backlog(_ backlog: LagRow.Backlog) -> String {
        backlog.bytes.map { backlog.seconds == 0 && $0 == 0 ? "0 s" : "\(span(backlog.seconds)), \(Output.bytes($0))" } ?? span(backlog.seconds)
    }

    /// A time span to two figures or so.
    static func span(_ seconds: Double) -> String {
        switch seconds {
        case ..<0.0005: "0 s"
        case ..<1: "\(Int((seconds * 1000).rounded())) ms"
        case ..<60: "\(Output.oneDecimal(seconds)) s"
        case ..<5400: "\(Output.oneDecimal(seconds / 60)) min"
        case ..<172_800: "\(Output.oneDecimal(seconds / 3600)) h"
        case ..<1e12: "\(Output.oneDecimal(seconds / 86_400)) d"
        default: "for ever"
        }
    }
}
