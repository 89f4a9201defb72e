import ArchiveCore
import Catalog
import Glibc
import Runtime
import Sidecar
import Source
import Store

let checkCommand = Command(
    "check", "Check every precondition; each failure comes with its remedy.",
    options: [
        Shared.config, Shared.json, Shared.source,
        Option("print-setup", help: "Check nothing, and print what has to be run and written on all hosts for this configuration."),
        Option("user", "NAME", help: "With --print-setup: the account that the agent runs as; default: the Gitaly storage's owner, else tidemark."),
    ],
    example: "tidemark check --config /etc/tidemark/tidemark.yaml"
) { arguments in
    let configuration = try Shared.configuration(arguments)
    if arguments.has("print-setup") { return try await printSetup(configuration, arguments) }
    guard !arguments.has("user") else { throw ArchiveError(.usage, "--user goes with --print-setup only.") }
    var findings: [String: [Finding]] = [:]
    var order = ["archive"]
    var opened: Catalog?
    do {
        let catalog = try await ArchivePlace(configuration).openToWrite()
        opened = catalog
        findings["archive"] = [Finding(.ok, "archive", "\(catalog.store.description) is an archive of format \(catalog.identity.format)")]
        if catalog.isEncrypted {
            findings["archive"]?.append(Finding(.ok, "archive", "new content is encrypted for \(catalog.keys.recipients.map(\.description).joined(separator: ", "))"))
        }
        if let former = catalog.formerRecipients {
            findings["archive"]?.append(
                Finding(
                    .warning, "archive", "the archive was created for other recipients: \(former.joined(separator: ", "))",
                    remedy: "Right where keys were rotated since; otherwise correct 'encrypt', or find out who changed `tidemark.json`."))
        }
        findings["archive"]? += await catalog.store.examine().map { Finding($0, of: "archive") }
    } catch let error as ArchiveError {
        findings["archive"] = [Finding(.failure, "archive", error.message, remedy: error.remedy)]
    }
    if let listen = configuration.listen {
        order.append("status")
        findings["status"] = [
            listen.isLoopback
                ? Finding(.ok, "status", "the status server listens on \(listen), for this machine only")
                : Finding(
                    .warning, "status", "the status server listens on \(listen): it asks nobody for a password",
                    remedy: "Listen on 127.0.0.1, or see that only those reach the port who may read names, positions and errors of all sources.")
        ]
    }
    let place = try ArchivePlace(configuration)
    for (number, copy) in try place.copies().enumerated() {
        let name = "copy \(copy.description)"
        order.append(name)
        if let error = try await blocking({ place.misplacement(ofCopy: number) }) {
            findings[name] = [Finding(.failure, name, error.message, remedy: error.remedy)]
        } else {
            let found = if let opened { await CopyStatus.findings(of: copy, beside: opened) } else { await CopyStatus.findings(alone: copy) }
            findings[name] = found.map { Finding($0, of: name) }
        }
    }
    order.append("agent")
    findings["agent"] = try await blocking { HostChecks.findings(configuration) }
    for source in try Shared.sources(arguments, of: configuration) {
        order.append(source.name)
        let (kind, component) = Registry.component(source, of: configuration)
        findings[source.name] = await component.check()
        // Fences in another cluster's log would order nothing.
        if let opened {
            for finding in findings[source.name] ?? [] {
                guard let anchor = finding.anchor, let met = finding.anchorIdentity else { continue }
                let known = try await opened.incarnations(of: anchor).last?.identity
                if let known, known != met {
                    findings[source.name]?.append(
                        Finding(
                            .failure, source.name, "fences go to the cluster \(met), but the archive's '\(anchor)' is \(known): they would order nothing",
                            remedy: "Correct 'fence_conninfo', or name the right source with 'fence'."))
                }
            }
        }
        // What the source cannot tell by itself: whether it is the one that this archive has under the name.
        if let opened, !(findings[source.name] ?? []).contains(where: { $0.level == .failure }) {
            do {
                let identity = try await component.makeSnapshotSource().identify()
                let isKnown = try await opened.incarnations(of: source.name).last?.isHistory(of: identity, kind: kind) ?? false
                findings[source.name]?.append(
                    Finding(.ok, source.name, isKnown ? "the archive has its history" : "a history begins in the archive when the agent starts"))
            } catch let error as ArchiveError {
                findings[source.name]?.append(Finding(.failure, source.name, error.message, remedy: error.remedy))
            }
        }
    }
    let all = order.flatMap { findings[$0] ?? [] }
    if arguments.has("json") { try Output.json(findings) } else {
        for name in order {
            Output.line("\(name):")
            for finding in findings[name] ?? [] {
                let mark = switch finding.level { case .ok: "ok      "; case .warning: "warning "; case .failure: "FAILED  " }
                Output.line("  \(mark) \(finding.message)")
                if let remedy = finding.remedy { Output.line("           next: \(remedy)") }
            }
        }
    }
    return all.contains { $0.level == .failure } ? 1 : 0
}

private func printSetup(_ configuration: Configuration, _ arguments: Arguments) async throws -> Int32 {
    let guide = try await blocking {
        let storage = configuration.sources.lazy.compactMap { source -> String? in if case .gitaly(let storage, _, _, _, _) = source.kind { storage } else { nil } }.first
        let user = arguments["user"] ?? storage.map { OwnHost.owner(of: $0) ?? "git" } ?? "tidemark"
        return try SetupGuide(
            configuration,
            host: .init(
                user: user, address: { OwnHost.address(toward: $0, port: $1) }, environment: { name in getenv(name).map { String(cString: $0) } }))
    }
    if arguments.has("json") { try Output.json(guide.steps) } else { Output.put(guide.text, to: 1) }
    return 0
}

extension Finding {
    fileprivate init(_ finding: StoreFinding, of subject: String) {
        let level: Level = switch finding.level { case .ok: .ok; case .warning: .warning; case .failure: .failure }
        self.init(level, subject, finding.message, remedy: finding.remedy)
    }
}
