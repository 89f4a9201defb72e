import ArchiveCore
import Catalog
import Runtime

let initCommand = Command(
    "init", "Create an archive.", options: Shared.place, example: "tidemark init --archive file:///srv/tidemark"
) { arguments in
    let location = try Shared.location(arguments)
    let catalog = try await Catalog.create(in: try location.open(), at: now(), version: Main.version)
    if arguments.has("json") {
        try Output.json(["archive": "\(location)", "id": catalog.identity.id, "format": "\(catalog.identity.format)"])
    } else {
        Output.line("created the archive \(catalog.identity.id) at \(location)")
        Output.line("next: tidemark check, then tidemark agent")
    }
    return 0
}
