import ArchiveCore
import Catalog
import Pack
import Runtime
import Sidecar

let initCommand = Command(
    "init", "Create an archive.",
    options: Shared.place + [
        Option("recipient", "KEY", repeats: true, help: "Encrypt everything for this age public key, age1…; with --archive. With --config its own recipients count.")
    ], example: "tidemark init --archive file:///srv/tidemark"
) { arguments in
    guard arguments.all("recipient").isEmpty || arguments.has("archive") else {
        throw ArchiveError(
            .usage, "--recipient goes with --archive.", remedy: "Name the recipients under `encrypt:` in the configuration, which the agent reads too.")
    }
    let place = try ArchivePlace(arguments)
    guard !place.recipients.isEmpty || place.identities.isEmpty else {
        throw ArchiveError(
            .configuration, "The configuration names an identity under `encrypt:`, but no recipients.",
            remedy: "Name the recipients that the archive is to be encrypted for, or take `encrypt:` out for a plain archive.")
    }
    guard Set(place.recipients).count == place.recipients.count else { throw ArchiveError(.usage, "A recipient is named twice.", remedy: "Name each once.") }
    let keys = ArchiveKeys(recipients: try place.parsedRecipients())
    let copies = try place.copies()
    for copy in copies.indices { if let error = try await blocking({ place.misplacement(ofCopy: copy) }) { throw error } }
    let catalog = try await Catalog.create(in: try place.primary(), at: now(), version: Main.version, keys: keys)
    for copy in copies { try await CopyKeeper(primary: catalog, copy: copy, interval: 1, output: Log()).create() }
    if arguments.has("json") {
        struct Created: Encodable { var archive, id, format: String; var copies: [String] }
        try Output.json(
            Created(
                archive: "\(place)", id: catalog.identity.id, format: "\(catalog.identity.format)", copies: place.locations.dropFirst().map { "\($0)" }))
    } else {
        Output.line("created the archive \(catalog.identity.id) at \(place)")
        for copy in place.locations.dropFirst() { Output.line("created its copy at \(copy)") }
        for recipient in keys.recipients { Output.line("encrypted for \(recipient)") }
        Output.line("next: tidemark check, then tidemark agent")
    }
    return 0
}
