import ArchiveCore
import Catalog
import Runtime

struct VerifyResult: Encodable {
    struct Finding: Encodable {
        var code, message: String
        var object, remedy: String?
        var repaired: Bool
    }
    struct Source: Encodable {
        var source: String
        var incarnation, kind: String?
        var pieces: Int
        var bytes: UInt64
        var bases, parts: Int
        var provenPieces, provenParts: Int
        var provenBytes: UInt64
        var comparedPieces, events, rewrittenIndexes: Int
        /// Of an encrypted archive only: whether it was also decrypted, which takes an identity.
        var decrypted: Bool?
        var findings: [Finding]
    }
    var sources: [Source]
    /// Findings by which something is, or was, missing or damaged.
    var problems: Int
}

let verifyCommand = Command(
    "verify", "Prove that the archive is whole and without holes.",
    options: Shared.place + [
        IdentityFile.option, Shared.source,
        Option("contents", help: "Read every piece of log and every part of a base, and prove it by length, SHA-256 and, for WAL, its CRCs."),
        Option(
            "reindex",
            help: "Compare what indexes say with the archived WAL, and write those anew that are missing or damaged. Nothing else is changed."),
        Option("no-record", help: "Do not record in the archive up to which time it was found whole."),
    ], example: "tidemark verify --contents --archive file:///srv/tidemark"
) { arguments in
    let place = try ArchivePlace(arguments)
    let isJSON = arguments.has("json")
    let wanted = arguments.all("source")
    let options = VerifyOptions(contents: arguments.has("contents"), reindex: arguments.has("reindex"))
    return try await interruptible {
        let catalog = try await place.open(withIdentities: true)
        let known = try await catalog.storedSources()
        for name in wanted where !known.contains(name) {
            throw ArchiveError(
                .usage, "The archive has no source '\(name)'.",
                remedy: known.isEmpty ? "It has none at all yet; start tidemark agent." : "It has: \(known.joined(separator: ", ")).")
        }
        let progress = Progress()
        defer { progress.end() }
        var result = VerifyResult(sources: [], problems: 0)
        for source in known where wanted.isEmpty || wanted.contains(source) {
            // What comes later was not looked at.
            let watermarks = try await watermarks(of: source, in: catalog)
            let reports = try await catalog.verify(source: source, kinds: Registry.kinds, options: options) { progress.show($0, $1, $2) }
            progress.end()
            for report in reports {
                result.problems += report.findings.count { $0.isProblem }
                result.sources.append(VerifyResult.Source(report, isEncrypted: catalog.isEncrypted))
                if !isJSON { render(report, options) }
            }
            if !arguments.has("no-record"), !reports.contains(where: { $0.findings.contains { $0.isProblem } }) {
                await record(watermarks, contents: options.contents, in: catalog)
            }
        }
        if isJSON { try Output.json(result) } else {
            if known.isEmpty { Output.line("no source yet; start tidemark agent") }
            Output.line(result.problems == 0 ? "nothing is missing or damaged" : "\(result.problems) problem\(result.problems == 1 ? "" : "s")")
        }
        return result.problems == 0 ? 0 : 4
    }
}

private func watermarks(of source: String, in catalog: Catalog) async throws -> [(incarnation: IncarnationRecord, time: Moment)] {
    var found: [(incarnation: IncarnationRecord, time: Moment)] = []
    for incarnation in try await catalog.incarnations(of: source) {
        if let time = try await catalog.watermark(of: incarnation) { found.append((incarnation, time)) }
    }
    return found
}

/// For `tidemark rpo`. Who may only read has verified all the same.
private func record(_ watermarks: [(incarnation: IncarnationRecord, time: Moment)], contents: Bool, in catalog: Catalog) async {
    for (incarnation, time) in watermarks {
        do { try await catalog.recordVerified(upTo: time, contents: contents, at: now(), of: incarnation) } catch {
            return Output.note("note: that '\(incarnation.source)' was found whole could not be recorded, so `tidemark rpo` does not know: \(error)")
        }
    }
}

extension VerifyResult.Source {
    init(_ report: VerifyReport, isEncrypted: Bool) {
        self.init(
            source: report.source, incarnation: report.incarnation?.id, kind: report.incarnation?.kind, pieces: report.pieces, bytes: report.bytes,
            bases: report.bases, parts: report.parts, provenPieces: report.provenPieces, provenParts: report.provenParts,
            provenBytes: report.provenBytes, comparedPieces: report.comparedPieces, events: report.events, rewrittenIndexes: report.rewrittenIndexes,
            decrypted: isEncrypted ? !report.isAtRestOnly : nil,
            findings: report.findings.map {
                .init(code: $0.code.rawValue, message: $0.message, object: $0.object, remedy: $0.remedy, repaired: $0.isRepaired)
            })
    }
}

private func render(_ report: VerifyReport, _ options: VerifyOptions) {
    if let incarnation = report.incarnation {
        Output.line("\(report.source), \(incarnation.kind), history \(incarnation.id):")
        Output.line("  \(report.pieces) pieces of log, \(Output.bytes(report.bytes)); \(report.bases) bases of \(report.parts) parts")
        if options.contents || report.provenPieces > 0 {
            Output.line("  read and found whole: \(report.provenPieces) pieces and \(report.provenParts) parts, \(Output.bytes(report.provenBytes))")
        }
        if report.isAtRestOnly {
            Output.line("  nothing was decrypted, for want of an identity (--identity FILE): objects were proven as they are stored")
        }
        if options.reindex {
            Output.line(
                report.comparedPieces > 0
                    ? "  \(report.comparedPieces) indexes compared with the content, \(report.events) events; \(report.rewrittenIndexes) indexes written anew"
                    : "  no index could be compared: the content of such pieces does not tell what their indexes have to say")
        }
    } else {
        Output.line("\(report.source):")
    }
    for finding in report.findings {
        let mark = finding.isRepaired ? "repaired" : finding.isProblem ? "PROBLEM " : "note    "
        Output.line("  \(mark) \(finding.code.rawValue): \(finding.message)")
        if let object = finding.object { Output.line("           object: \(object)") }
        if let remedy = finding.remedy { Output.line("           next: \(remedy)") }
    }
}
