import ArchiveCore
import Catalog
import CrossCheck
import DurableIO
import Planner
import Restore
import Runtime
import Source

/// The cross-check at the end of a restore: what the restored databases name against the repositories restored with them.
struct CrossChecking: Sendable {
    static let options = [
        Option("cross-check", "auto|off", help: "auto: after a database and repositories were restored together, look whether all commits that rows name are there (default)."),
        Option("quarantine", help: "Move repositories without a row aside, to DIR.quarantine."),
        Option("query-database", "NAME", help: "Ask only this database in the cross-check; default: every one."),
        Option("storage-name", "ROWS=NAME", repeats: true, help: "What the database's rows call the storage that was restored as the source NAME; default: the same."),
    ]

    /// One part of a restore, done.
    struct Part: Sendable {
        var name: String
        var directory: String
        var plan: SourcePlan
    }

    private let isOn: Bool
    private let quarantine: Bool
    private let database: String?
    private let names: [(rows: String, source: String)]
    private let checks: [(source: String, query: CheckQuery)]

    /// Reads the options, before anything is restored.
    init(_ arguments: Arguments) throws {
        let mode = arguments["cross-check"] ?? "auto"
        guard mode == "auto" || mode == "off" else { throw ArchiveError(.usage, "--cross-check is '\(mode)'; it takes auto or off.") }
        isOn = mode == "auto"
        quarantine = arguments.has("quarantine")
        database = arguments["query-database"]
        guard isOn || !quarantine else {
            throw ArchiveError(.usage, "--quarantine and --cross-check off were both given.", remedy: "Only the cross-check finds repositories without a row.")
        }
        names = try arguments.all("storage-name").map { text in
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
                throw ArchiveError(.usage, "--storage-name '\(text)' is not of the form ROWS=NAME.")
            }
            return (parts[0], parts[1])
        }
        // On a machine that has only the archive there is no configuration, and so there are no queries of its own.
        let hasConfiguration = arguments["archive"] == nil && Files.exists(Shared.configPath(arguments))
        checks = hasConfiguration ? try Shared.configuration(arguments).checks : []
    }

    /// Checks every restored database that can be asked against every directory of repositories.
    ///
    /// - Parameter target: the moment of the restore; `nil`: the end of the archive.
    /// - Returns: a report for each such database; none when there is no such pair.
    func run(
        _ parts: [Part], recover: RecoveryMode, bindir: String?, target: Moment?, catalog: Catalog, progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void
    ) async throws -> [CrossCheckReport] {
        guard isOn else { return [] }
        let loader = PlanLoader(catalog: catalog, kinds: Registry.kinds)
        var storages: [CrossCheck.Storage] = []
        var databases: [(part: Part, restore: any QueryableRestore)] = []
        for part in parts {
            let restore = try Registry.kind(part.plan.incarnation.kind).restoreTarget
            if let repositories = restore as? any RepositoryRestore {
                let log = try await loader.log(around: part.plan, moment: target)
                let history = repositories.history(of: place(part, log: log, bindir: bindir))
                let called = names.filter { $0.source == part.name }.map(\.rows)
                for name in called.isEmpty ? [part.name] : called {
                    storages.append(CrossCheck.Storage(name: name, directory: Self.trimmed(part.directory), history: history))
                }
            }
            if let queryable = restore as? any QueryableRestore { databases.append((part, queryable)) }
        }
        guard !storages.isEmpty, !databases.isEmpty else { return [] }
        guard recover == .promote else {
            Output.note("no cross-check: with --recover none there is no database to ask yet")
            return []
        }
        var reports: [CrossCheckReport] = []
        for (part, restore) in databases {
            var options = CrossCheck.Options()
            // With several databases none of them can tell that no other has a row for a repository.
            options.quarantine = quarantine && databases.count == 1
            options.database = database
            options.queries = checks.filter { $0.source == part.name }.map(\.query)
            let (ready, moment) = (options, target ?? parts.compactMap(\.plan.lastApplied).max() ?? now())
            let checked = storages
            do {
                reports.append(
                    try await restore.withQueries(at: place(part, log: NoLog(), bindir: bindir)) { session in
                        try await CrossCheck.run(source: part.name, target: moment, session: session, storages: checked, options: ready) {
                            progress("\(part.name): \($0)", $1, $2)
                        }
                    })
            } catch let error as ArchiveError {
                // The restore itself is complete, and its directories are what they should be.
                reports.append(.failed(source: part.name, storages: checked.map(\.name), target: moment, because: error))
            }
        }
        return reports
    }

    private func place(_ part: Part, log: any LogReader, bindir: String?) -> RestoredPlace {
        RestoredPlace(
            directory: Self.trimmed(part.directory), incarnation: part.plan.incarnation, base: part.plan.base, spans: part.plan.spans, cuts: part.plan.cuts,
            log: log, bindir: bindir)
    }

    private static func trimmed(_ path: String) -> String {
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return path
    }
}

/// For a database that is only asked questions.
private struct NoLog: LogReader {
    let pieces: [ArchivedPiece] = []
    let branches: [BranchRecord] = []
    func index(of piece: ArchivedPiece) async throws -> PieceIndex {
        throw ArchiveError(.objectMissing, "There is no piece '\(piece.name)' in a log of which nothing is wanted.")
    }
    func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]] { [] }
}
