import ArchiveCore
import Catalog
import Runtime

let initCommand = Command(
    "init", "Create an archive.", options: Shared.place, example: "tidemark init --archive file:///srv/tidemark"
) { arguments in
    let place = try ArchivePlace(arguments)
    let catalog = try await Catalog.create(in: try place.primary(), at: now(), version: Main.version)
    if arguments.has("json") {
        try Output.json(["archive": "\(place)", "id": catalog.identity.id, "format": "\(catalog.identity.format)"])
    } else {
        Output.line("created the archive \(catalog.identity.id) at \(place)")
        Output.line("next: tidemark check, then tidemark agent")
    }
    return 0
}
