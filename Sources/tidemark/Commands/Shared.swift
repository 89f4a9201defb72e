import ArchiveCore
import Catalog
import Glibc
import Restore
import Runtime
import Source
import SourceGitaly
import SourcePostgres
import Store

/// Options that several commands share.
enum Shared {
    static let config = Option("config", "FILE", help: "The configuration file; default: $TIDEMARK_CONFIG, else \(Configuration.defaultPath).")
    static let archive = Option(
        "archive", "URL", repeats: true, help: "The archive, such as file:///srv/tidemark, when there is no configuration here; further ones are its copies.")
    static let json = Option("json", help: "Print the result as JSON.")
    static let source = Option("source", "NAME", repeats: true, help: "Only this source.")
    static let place = [config, archive, json]

    static func configPath(_ arguments: Arguments) -> String {
        arguments["config"] ?? getenv("TIDEMARK_CONFIG").map { String(cString: $0) } ?? Configuration.defaultPath
    }

    static func configuration(_ arguments: Arguments) throws -> Configuration { try Configuration.load(configPath(arguments)) }

    static func catalog(_ configuration: Configuration) async throws -> Catalog { try await ArchivePlace(configuration).open() }

    /// The sources of a configuration that `--source` names, or all of them.
    static func sources(_ arguments: Arguments, of configuration: Configuration) throws -> [Configuration.Source] {
        let wanted = arguments.all("source")
        for name in wanted where !configuration.sources.contains(where: { $0.name == name }) {
            throw ArchiveError(
                .usage, "The configuration has no source '\(name)'.",
                remedy: "It has: \(configuration.sources.map(\.name).joined(separator: ", ")).")
        }
        return configuration.sources.filter { wanted.isEmpty || wanted.contains($0.name) }
    }
}

/// The one place that knows every kind of source.
enum Registry {
    static let kinds: [any ComponentKind] = [PostgresKind(), GitalyKind()]

    static func component(_ source: Configuration.Source, of configuration: Configuration) -> (kind: String, component: any Component) {
        switch source.kind {
        case .postgres(let conninfo, let slot, let ack, _):
            (
                PostgresComponent.kind,
                PostgresComponent(
                    name: source.name, conninfo: conninfo, slot: slot, stateDirectory: "\(configuration.state)/\(source.name)",
                    tail: configuration.tail, ack: ack)
            )
        case .gitaly(let storage, let log, let spool, let prune, let fence):
            (
                GitalyComponent.kind,
                GitalyComponent(
                    name: source.name, storage: storage, spool: log == .spool ? spool : nil, tail: configuration.tail, prune: prune,
                    fencing: fence.map {
                        Fencing(writer: PostgresFenceWriter(anchor: $0.anchor, conninfo: $0.conninfo), interval: $0.interval)
                    })
            )
        }
    }

    static func kind(_ name: String) throws -> any ComponentKind {
        guard let kind = kinds.first(where: { $0.kind == name }) else {
            throw ArchiveError(.sourceUnsupported, "'\(name)' is no kind of source that this tidemark knows.", remedy: "Use a newer tidemark.")
        }
        return kind
    }
}

/// Runs `body` as a task that SIGINT and SIGTERM cancel; a second signal ends the process at once.
func interruptible(_ body: @escaping @Sendable () async throws -> Int32) async throws -> Int32 {
    let task = Task { try await body() }
    Signals.watch { number, before in
        if before > 0 { _exit(128 + number) }
        Output.note("interrupted: cleaning up; once more to leave at once")
        task.cancel()
    }
    return try await task.value
}
