import ArchiveCore
import DurableIO
import Runtime
import Source
import Synchronization

/// Asks a restored database which Git objects it names, and looks whether the repositories restored with it have them.
public struct CrossCheck: Sendable {
    /// A restored directory of repositories.
    public struct Storage: Sendable {
        /// What the database's rows call it.
        public var name: String
        public var directory: String
        /// The archived log behind it; `nil`: nothing is told from it, and nothing is rolled forward.
        public var history: (any RepositoryHistory)?

        public init(name: String, directory: String, history: (any RepositoryHistory)?) {
            self.name = name
            self.directory = directory
            self.history = history
        }
    }

    public struct Options: Sendable {
        /// A row written in so many seconds before the target names something that was there: if it is not, it was lost.
        public var recent = 3600.0
        /// Roll-forward looks at so many records of a partition, and so many seconds after the target, at most.
        public var rollForwardRecords = 1000
        public var rollForwardSeconds = 600.0
        public var rollsForward = true
        /// Whether repositories without a row are moved aside.
        public var quarantine = false
        /// The one database to ask; `nil`: every one.
        public var database: String?
        /// Beside GitLab's own.
        public var queries: [CheckQuery] = []

        public init() {}
    }

    private let source: String
    private let target: Moment
    private let storages: [Storage]
    private let options: Options
    private let session: any QuerySession
    private let progress: @Sendable (String, UInt64, UInt64?) -> Void

    private init(
        source: String, target: Moment, storages: [Storage], options: Options, session: any QuerySession,
        progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void
    ) {
        self.source = source
        self.target = target
        self.storages = storages
        self.options = options
        self.session = session
        self.progress = progress
    }

    /// - Parameters:
    ///   - source: the name of the restored database's source.
    ///   - target: the moment that all of them were restored to.
    /// - Throws: when the database cannot be asked at all, or a storage cannot be read. What is missing is no error: it is in the report.
    public static func run(
        source: String, target: Moment, session: any QuerySession, storages: [Storage], options: Options,
        progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void = { _, _, _ in }
    ) async throws -> CrossCheckReport {
        let check = CrossCheck(source: source, target: target, storages: storages, options: options, session: session, progress: progress)
        let begun = ContinuousClock.now
        var report = try await check.report()
        let taken = (ContinuousClock.now - begun).components
        report.seconds = Double(taken.seconds) + Double(taken.attoseconds) / 1e18
        return report
    }

    /// A query that is valid in a database.
    private struct Question: Sendable {
        var query: CheckQuery
        var database: String
        var statement: String
    }

    private struct Questions: Sendable {
        var objects: [Question] = []
        var repositories: [Question] = []
        /// First parts of paths about which the questions for repositories are complete; `nil`: about all.
        var prefixes: Set<String>? = []
    }

    private var roots: [String: RestoredStorage] {
        Dictionary(storages.map { ($0.name, RestoredStorage(root: $0.directory)) }, uniquingKeysWith: { first, _ in first })
    }

    private func report() async throws -> CrossCheckReport {
        var report = CrossCheckReport(source: source, storages: storages.map(\.name), target: target)
        let questions = try await questions(&report)
        var scan = try await scan(questions, only: nil, &report)
        note(scan, &report)
        var evidence = try await self.evidence(for: scan.findings)
        if options.rollsForward, try await rollForward(scan.findings, evidence, &report) {
            // What was rolled on has more now, and may have less: its rows are looked at again.
            let touched = Set(report.rolledForward.filter { !$0.records.isEmpty }.flatMap { rolled in
                (rolled.repositories).map { PathDigest(rolled.storage, $0) }
            })
            let again = try await self.scan(questions, only: touched, &report)
            scan.findings.removeAll { touched.contains(PathDigest($0.storage, $0.path)) }
            scan.findings += again.findings
            scan.more += again.more
            scan.unreadable.removeAll { touched.contains(PathDigest($0.storage, $0.path)) }
            scan.unreadable += again.unreadable
            evidence = try await self.evidence(for: scan.findings)
        }
        judge(scan, evidence, &report)
        try await orphans(questions, &report)
        return report
    }

    // MARK: Questions

    private func questions(_ report: inout CrossCheckReport) async throws -> Questions {
        var questions = Questions()
        if let database = options.database {
            guard session.databases.contains(database) else {
                throw ArchiveError(
                    .usage, "The restored '\(source)' has no database '\(database)'.", remedy: "It has: \(session.databases.joined(separator: ", ")).")
            }
        }
        let databases = options.database.map { [$0] } ?? session.databases
        var isGitLab = false
        var unchecked: [String] = []
        for database in databases {
            let tables = try await GitLabQueries.tables(of: session, in: database)
            guard let gitlab = GitLabQueries(tables) else { continue }
            isGitLab = true
            report.databases.append(database)
            for query in gitlab.queries {
                if let question = await ask(query, in: database, &report) { questions.objects.append(question) }
            }
            if let query = gitlab.repositories, let question = await ask(query, in: database, &report) {
                questions.repositories.append(question)
                questions.prefixes?.formUnion(gitlab.prefixes)
            }
            unchecked += gitlab.notChecked.filter { !unchecked.contains($0) }
        }
        if !isGitLab { report.notChecked.append("GitLab's own tables: \(databases.isEmpty ? "there is no database" : "no database has them (\(databases.joined(separator: ", ")))")") }
        report.notChecked += unchecked
        for query in options.queries {
            var asked = false
            var failure: CrossCheckReport.FailedQuery?
            for database in query.database.map({ [$0] }) ?? databases {
                var attempt = CrossCheckReport(source: source, storages: [], target: target)
                guard session.databases.contains(database) else {
                    failure = .init(query: query.name, database: nil, reason: "there is no database '\(database)'")
                    continue
                }
                guard let question = await ask(query, in: database, &attempt) else {
                    failure = attempt.failedQueries.first
                    continue
                }
                asked = true
                if !report.databases.contains(database) { report.databases.append(database) }
                switch query.kind {
                case .objects: questions.objects.append(question)
                case .repositories:
                    questions.repositories.append(question)
                    questions.prefixes = nil
                }
            }
            if !asked { report.failedQueries.append(failure ?? .init(query: query.name, database: nil, reason: "there is no database to ask")) }
        }
        return questions
    }

    private func ask(_ query: CheckQuery, in database: String, _ report: inout CrossCheckReport) async -> Question? {
        do {
            let columns = try await session.columns(of: query.statement, in: database)
            return Question(query: query, database: database, statement: try query.wrapped(columns))
        } catch {
            report.failedQueries.append(.init(query: query.name, database: database, reason: Self.reason(error)))
            return nil
        }
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? ArchiveError else { return "\(error)" }
        return error.message + (error.cause.map { " (\($0))" } ?? "")
    }

    // MARK: Objects

    private func scan(_ questions: Questions, only: Set<PathDigest>?, _ report: inout CrossCheckReport) async throws -> Scan.Results {
        let scan = Scan(storages: roots, only: only)
        for (number, question) in questions.objects.enumerated() {
            try Task.checkCancellation()
            progress("cross-check", UInt64(number), UInt64(questions.objects.count))
            do {
                try await session.rows(of: question.statement, in: question.database) { rows in
                    try await blocking { try scan.take(rows, of: question.query) }
                }
                try await blocking { try scan.finishQuery() }
            } catch let error as ArchiveError where error.code == .sourceRefused {
                try await blocking { try scan.finishQuery() }
                let failed = CrossCheckReport.FailedQuery(query: question.query.name, database: question.database, reason: Self.reason(error))
                if !report.failedQueries.contains(failed) { report.failedQueries.append(failed) }
            }
        }
        progress("cross-check", UInt64(questions.objects.count), UInt64(questions.objects.count))
        return scan.results
    }

    private func note(_ results: Scan.Results, _ report: inout CrossCheckReport) {
        report.counts = results.counts
        for (storage, rows) in results.elsewhere.sorted(by: { $0.key < $1.key }) {
            report.notChecked.append("\(rows) rows that name objects in the storage '\(storage)', which was not restored with this database")
        }
        if results.counts.rows == 0, !results.elsewhere.isEmpty {
            let named = results.elsewhere.keys.sorted().map { "'\($0)'" }.joined(separator: ", ")
            report.failedQueries.append(
                .init(
                    query: "all", database: nil,
                    reason: "no row names the restored \(storages.map { "'\($0.name)'" }.joined(separator: ", ")); rows name \(named). Say which is which with --storage-name"))
        }
        for (storage, rows) in results.mapped.sorted(by: { $0.key < $1.key }) {
            report.notChecked.append("\(rows) rows of the storage '\(storage)' behind Praefect: where their repositories lie is in Praefect's own database")
        }
        for (query, rows) in results.ownerless.sorted(by: { $0.key < $1.key }) {
            report.notChecked.append("\(rows) rows of \(query) whose repository their database does not tell")
        }
    }

    // MARK: Evidence

    /// By storage and repository, what the archived log says of the objects that are missing.
    private typealias Evidence = [String: [String: [String: ObjectEvidence]]]

    private func evidence(for findings: [Finding]) async throws -> Evidence {
        var evidence: Evidence = [:]
        for storage in storages {
            guard let history = storage.history else { continue }
            var objects: [String: Set<String>] = [:]
            for finding in findings where finding.storage == storage.name { objects[finding.path, default: []].formUnion(finding.objects) }
            evidence[storage.name] = try await history.evidence(of: objects)
        }
        return evidence
    }

    private func strongest(_ finding: Finding, _ evidence: Evidence) -> ObjectEvidence {
        finding.objects.compactMap { evidence[finding.storage]?[finding.path]?[$0] }.max() ?? .none
    }

    /// Why a finding counts as lost; `nil`: it was gone before.
    private func reasonForLoss(_ finding: Finding, _ evidence: Evidence) -> String? {
        switch finding.problem {
        case .objectDamaged: return "it is listed, but cannot be read"
        case .referenceMissing, .referenceElsewhere: break
        case .objectMissing, .repositoryMissing:
            switch strongest(finding, evidence) {
            case .after: return "the archive names it after the target"
            case .before: return "the archive names it before the target, and nothing had removed it"
            case .none, .removedBefore: break
            }
        }
        if finding.isSoft { return nil }
        guard let at = finding.at else { return "its rows tell no time" }
        return target - at <= options.recent ? "its row is no older than \(Int(options.recent)) s at the target" : nil
    }

    private func judge(_ results: Scan.Results, _ evidence: Evidence, _ report: inout CrossCheckReport) {
        for finding in results.findings {
            let reason = reasonForLoss(finding, evidence)
            let missing = CrossCheckReport.Missing(
                query: finding.query, storage: finding.storage, path: finding.path, object: finding.object, reference: finding.reference,
                rowTime: finding.at.map { "\($0)" }, rows: finding.rows, problem: finding.problem.text,
                reason: reason ?? (strongest(finding, evidence) == .removedBefore
                    ? "a record before the target may have removed it" : finding.isSoft ? "it may be removed when its branch is" : "its row is old, and the archive does not name it"))
            if reason != nil { report.missing.add(missing) } else { report.goneBefore.add(missing) }
        }
        for unreadable in results.unreadable { report.unreadable.add(unreadable) }
        for refused in results.refused { report.refused.add(refused) }
        if results.more + results.unreadableMore + results.refusedMore > 0 {
            report.failedQueries.append(
                .init(
                    query: "all", database: nil,
                    reason: "\(results.more + results.unreadableMore + results.refusedMore) findings beyond the first \(Scan.maximumFindings) of a kind were only counted"))
        }
    }

    // MARK: Roll-forward

    /// - Returns: whether anything was changed.
    private func rollForward(_ findings: [Finding], _ evidence: Evidence, _ report: inout CrossCheckReport) async throws -> Bool {
        var changed = false
        for storage in storages {
            guard let history = storage.history else { continue }
            var objects: [String: Set<String>] = [:]
            for finding in findings where finding.storage == storage.name && reasonForLoss(finding, evidence) != nil {
                guard finding.problem == .objectMissing || finding.problem == .repositoryMissing else { continue }
                // What a record before the cut brought does not come again.
                let known = evidence[finding.storage]?[finding.path] ?? [:]
                objects[finding.path, default: []].formUnion(finding.objects.filter { known[$0] == .after || known[$0] == ObjectEvidence.none })
            }
            let limit = RollForwardLimit(records: options.rollForwardRecords, latest: target.adding(seconds: options.rollForwardSeconds))
            for outcome in try await history.rollForward(to: objects, limit: limit) {
                // A partition that had nothing to offer is no news: what is missing is in the list of what was lost.
                guard !outcome.records.isEmpty || outcome.end == .deletion || outcome.end == .failed else { continue }
                changed = changed || !outcome.records.isEmpty
                report.rolledForward.append(
                    .init(
                        storage: storage.name, partition: outcome.partition, repositories: Set(outcome.records.map(\.repository)).union(outcome.found.keys).sorted(),
                        from: outcome.from, to: outcome.to,
                        records: outcome.records.map { .init(position: $0.position, time: "\($0.time)", repository: $0.repository, references: $0.references) },
                        found: outcome.found.values.reduce(0) { $0 + $1.count }, end: outcome.end, failure: outcome.failure))
            }
        }
        return changed
    }

    // MARK: Orphans

    private func orphans(_ questions: Questions, _ report: inout CrossCheckReport) async throws {
        guard !questions.repositories.isEmpty else {
            report.notChecked.append("repositories without a row: no query names all repositories")
            return
        }
        let known = Mutex<Set<PathDigest>>([])
        for question in questions.repositories {
            do {
                try await session.rows(of: question.statement, in: question.database) { rows in
                    known.withLock { known in
                        for row in rows { if let storage = row[0], let path = row[1] { known.insert(PathDigest(storage, path)) } }
                    }
                }
            } catch let error as ArchiveError where error.code == .sourceRefused {
                report.failedQueries.append(.init(query: question.query.name, database: question.database, reason: Self.reason(error)))
                report.notChecked.append("repositories without a row: the query for them failed")
                return
            }
        }
        let names = known.withLock { $0 }
        guard !names.isEmpty else {
            report.notChecked.append("repositories without a row: the database names no repository at all")
            return
        }
        for (directory, storages) in Dictionary(grouping: storages, by: \.directory).sorted(by: { $0.key < $1.key }) {
            let root = RestoredStorage(root: directory)
            let (called, prefixes, quarantine) = (storages.map(\.name), questions.prefixes, options.quarantine)
            let found = try await blocking { try Self.orphans(in: root, called: called, known: names, prefixes: prefixes, quarantine: quarantine) }
            for orphan in found.orphans { report.orphans.add(orphan) }
            if found.unjudged > 0 {
                report.notChecked.append(
                    "\(found.unjudged) repositories of the storage '\(called[0])' of kinds that the database's tables do not list: whether they have a row")
            }
        }
    }

    private static func orphans(
        in root: RestoredStorage, called names: [String], known: Set<PathDigest>, prefixes: Set<String>?, quarantine: Bool
    ) throws -> (orphans: [CrossCheckReport.Orphan], unjudged: Int) {
        let name = names[0]
        var paths: [String] = []
        var unjudged = 0
        try root.forEachRepository { path in
            if names.contains(where: { known.contains(PathDigest($0, path)) }) { return }
            let first = path.hasPrefix("@") ? String(path.prefix { $0 != "/" }) : ""
            if let prefixes, !prefixes.contains(first) { unjudged += 1 } else { paths.append(path) }
        }
        guard quarantine, !paths.isEmpty else { return (paths.map { .init(storage: name, path: $0) }, unjudged) }
        // What a repository that stays borrows objects from stays too.
        var lenders: [String: String] = [:]
        let leaving = Set(paths)
        try root.forEachRepository { path in
            guard !leaving.contains(path) else { return }
            for lender in try root.alternates(of: "\(root.root)/\(path)").found { lenders[String(lender.dropLast("/objects".count))] = path }
        }
        return (
            try paths.map { path in
                if let borrower = lenders[path] { return .init(storage: name, path: path, kept: "'\(borrower)' borrows objects from it") }
                do { return .init(storage: name, path: path, movedTo: try root.moveAside(path)) } catch let error as ArchiveError {
                    return .init(storage: name, path: path, kept: error.message)
                }
            }, unjudged
        )
    }
}
