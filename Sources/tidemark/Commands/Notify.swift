import ArchiveCore
import Notify
import Runtime
import Sidecar
import Store

let notifyCommand = Command(
    "notify", "Send a test event to every recipient under 'notify'.",
    options: [Option("test", help: "Needed: so that nobody is told by mistake."), Shared.config, Shared.json], example: "tidemark notify --test"
) { arguments in
    guard arguments.has("test") else {
        throw ArchiveError(.usage, "tidemark notify sends test events only.", remedy: "Say so: tidemark notify --test.")
    }
    let configuration = try Shared.configuration(arguments)
    guard !configuration.notify.isEmpty else {
        throw ArchiveError(.configuration, "\(configuration.path) names nobody under 'notify'.", remedy: "See docs/notifications.md for examples.")
    }
    struct Result: Encodable {
        var recipient: String
        var delivered: Bool
        var error, remedy: String?
    }
    let location = try StoreLocation(configuration.archive)
    let deliver = Notifier.standard(from: .here(archive: "\(location)"), transport: CurlTransport())
    let event = AgentEvent(.test, at: now(), "This is a test of Tidemark's notifications; nothing happened.", remedy: "Nothing: you would read here what to do.")
    var results: [Result] = []
    for recipient in configuration.notify {
        do {
            try await deliver(recipient, Notice(event))
            results.append(Result(recipient: recipient.name, delivered: true))
        } catch let error as ArchiveError {
            results.append(
                Result(recipient: recipient.name, delivered: false, error: error.message + (error.cause.map { " (\($0))" } ?? ""), remedy: error.remedy))
        }
    }
    if arguments.has("json") { try Output.json(results) } else {
        for result in results {
            Output.line("\(result.delivered ? "ok      " : "FAILED  ")\(result.recipient)\(result.error.map { ": \($0)" } ?? "")")
            if let remedy = result.remedy { Output.line("        next: \(remedy)") }
        }
    }
    return results.allSatisfy(\.delivered) ? 0 : 1
}
