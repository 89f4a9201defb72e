import ArchiveCore
import Catalog
import Runtime
import Sidecar

let initCommand = Command(
    "init", "Create an archive.", options: Shared.place, example: "tidemark init --archive file:///srv/tidemark"
) { arguments in
    let place = try ArchivePlace(arguments)
    let catalog = try await Catalog.create(in: try place.primary(), at: now(), version: Main.version)
    for copy in try place.copies() { try await CopyKeeper(primary: catalog, copy: copy, interval: 1, output: Log()).create() }
    if arguments.has("json") {
        struct Created: Encodable { var archive, id, format: String; var copies: [String] }
        try Output.json(
            Created(
                archive: "\(place)", id: catalog.identity.id, format: "\(catalog.identity.format)", copies: place.locations.dropFirst().map { "\($0)" }))
    } else {
        Output.line("created the archive \(catalog.identity.id) at \(place)")
        for copy in place.locations.dropFirst() { Output.line("created its copy at \(copy)") }
        Output.line("next: tidemark check, then tidemark agent")
    }
    return 0
}
