import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Source
import SourcePostgres
import Testing

@testable import CrossCheck

private func id(_ n: Int) -> String { String(repeating: "0", count: 38) + (n < 10 ? "0\(n)" : "\(n)") }
private let target = Moment("2026-03-01T12:00:00Z")!
private let hashedOne = "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

@Suite("A restored database with GitLab's tables")
struct DatabaseTests {
    /// Tables as in recent versions; `tables` are left out.
    private func schema(without tables: Set<String> = []) -> String {
        let all = [
            ("shards", "id int PRIMARY KEY, name varchar"),
            ("projects", "id bigint PRIMARY KEY, repository_storage varchar, pool_repository_id bigint"),
            ("project_repositories", "project_id bigint, shard_id int, disk_path varchar"),
            ("merge_requests", "id bigint PRIMARY KEY, iid int, target_project_id bigint, state_id int, merge_commit_sha varchar, rebase_commit_sha varchar, squash_commit_sha bytea, merged_commit_sha bytea, created_at timestamp, updated_at timestamp"),
            ("merge_request_diffs", "id bigint, merge_request_id bigint, project_id bigint, head_commit_sha varchar, start_commit_sha varchar, base_commit_sha varchar, created_at timestamp"),
            ("p_ci_pipelines", "id bigint, project_id bigint, sha varchar, before_sha varchar, source_sha bytea, target_sha bytea, created_at timestamp"),
            ("deployments", "id bigint, project_id bigint, sha varchar, created_at timestamp"),
            ("releases", "id bigint, project_id bigint, tag varchar, sha varchar, created_at timestamp"),
            ("notes", "id bigint, noteable_type varchar, project_id bigint, commit_id varchar, created_at timestamp"),
            ("events", "id bigint, project_id bigint, created_at timestamp with time zone"),
            ("push_event_payloads", "event_id bigint, commit_to bytea, commit_from bytea"),
            ("issues", "id bigint, project_id bigint"),
            ("design_management_versions", "id bigint, sha bytea, issue_id bigint, created_at timestamp"),
            ("snippets", "id bigint, repository_storage varchar"),
            ("snippet_repositories", "snippet_id bigint, shard_id int, disk_path varchar"),
            ("group_wiki_repositories", "group_id bigint, shard_id int, disk_path varchar"),
            ("pool_repositories", "id bigint, shard_id int, disk_path varchar"),
        ]
        return all.filter { !tables.contains($0.0) }.map { "CREATE TABLE \($0.0)(\($0.1));\n" }.joined()
    }

    private func check(_ cluster: Cluster, _ storages: [CrossCheck.Storage], _ change: (inout CrossCheck.Options) -> Void = { _ in }) async throws -> CrossCheckReport {
        var options = CrossCheck.Options()
        change(&options)
        let ready = options
        let report = try await PostgresRestoreTarget().withQueries(at: try cluster.place) { session in
            try await CrossCheck.run(source: "main", target: target, session: session, storages: storages, options: ready)
        }
        #expect(try cluster.state() == "shut down")
        #expect(!Files.exists(cluster.data + "/postmaster.pid"))
        return report
    }

    private func names(_ list: CrossCheckReport.Listed<CrossCheckReport.Missing>) -> [String] { list.first.map { "\($0.query) \($0.object)" }.sorted() }

    @Test("everything that is there is found, whatever its column's type, and what is missing is lost or was gone", arguments: Cluster.bindirs)
    func whole(_ bindir: String) async throws {
        let world = try GitWorld()
        let one = try world.make("\(hashedOne).git")
        let first = try world.commit(one, "one")
        let second = try world.commit(one, "two", parent: first)
        try world.pack(one)
        let two = try world.make("legacy/two.git")
        let third = try world.commit(two, "three")
        let design = try world.make("\(hashedOne).design.git")
        let fourth = try world.commit(design, "four")
        try world.make("@hashed/orphan.git")
        try world.make("@snippets/4e/07/orphan.git")
        try world.make("\(hashedOne).wiki.git")
        try world.make("@pools/aa/bb/known.git")
        try world.make("@geo/unjudged.git")
        let cluster = try await Cluster(bindir)
        try await cluster.fill("postgres", "CREATE DATABASE gitlab TEMPLATE template0;\n")
        try await cluster.fill(
            "gitlab",
            schema() + """
                INSERT INTO shards VALUES (1, 'default'), (2, 'elsewhere');
                INSERT INTO projects VALUES (1, 'default'), (2, 'default'), (3, 'default'), (4, 'elsewhere');
                INSERT INTO project_repositories VALUES (1, 1, '\(hashedOne)'), (2, 1, 'legacy/two');
                INSERT INTO pool_repositories VALUES (1, 1, '@pools/aa/bb/known');
                INSERT INTO merge_requests VALUES (1, 1, 1, 3, '\(second)', '', '\\x\(first)', '\\x', '2026-01-01', '2026-03-01 11:59:00');
                INSERT INTO merge_requests VALUES (2, 1, 1, 3, '\(id(21))', NULL, '\\x\(id(22))', '\\x\(String(repeating: "00", count: 20))', '2025-01-01', '2025-01-02');
                INSERT INTO merge_request_diffs VALUES (1, 1, NULL, '\(second.uppercased())', ' \(first) ', '\(String(repeating: "0", count: 40))', '2026-01-01');
                INSERT INTO p_ci_pipelines VALUES (1, 2, '\(third)', '\(String(repeating: "0", count: 40))', NULL, '\\x\(third)', '2026-01-01'), (2, 1, '\(id(1))', NULL, NULL, NULL, '2026-03-01 11:30:00');
                INSERT INTO p_ci_pipelines VALUES (3, 4, '\(third)', NULL, NULL, NULL, '2026-01-01'), (4, 99, '\(third)', NULL, NULL, NULL, '2026-01-01');
                INSERT INTO deployments VALUES (1, 3, '\(id(2))', '2026-03-01 11:00:01'), (2, 3, '\(id(3))', '2020-01-01');
                INSERT INTO notes VALUES (1, 'Commit', 1, 'not-an-id', '2026-01-01'), (2, 'Issue', 1, 'ignored', '2026-01-01'), (3, 'Commit', 1, '\(id(4))', '2026-03-01 10:59:59');
                INSERT INTO events VALUES (1, 1, '2026-03-01 12:30:00+01');
                INSERT INTO push_event_payloads VALUES (1, '\\x\(id(5))', '\\x\(first)');
                INSERT INTO issues VALUES (1, 1);
                INSERT INTO design_management_versions VALUES (1, '\\x\(fourth)', 1, '2026-01-01');

                """)
        let history = WrittenHistory(told: [id(21): .removedBefore, id(22): .before])
        let report = try await check(cluster, [.init(name: "default", directory: world.storage, history: history)])
        #expect(report.databases == ["gitlab"])
        #expect(report.failedQueries.isEmpty, "\(report.failedQueries)")
        #expect(names(report.missing) == ["deployments.sha \(id(2))", "merge_requests.squash_commit_sha \(id(22))", "p_ci_pipelines.sha \(id(1))"])
        #expect(names(report.goneBefore) == ["merge_requests.merge_commit_sha \(id(21))", "notes.commit_id \(id(4))", "push_event_payloads.commit_to \(id(5))"])
        let gone = try #require(report.missing.first.first { $0.query == "deployments.sha" })
        #expect(gone.rows == 2 && gone.problem.contains("no such repository") && gone.rowTime == "2026-03-01T11:00:01Z")
        #expect(report.refused.first.map(\.object) == ["not-an-id"])
        #expect(report.unreadable.total == 0)
        #expect(report.counts.repositories == 4)
        #expect(report.orphans.first.map(\.path).sorted() == ["@hashed/orphan.git", "@snippets/4e/07/orphan.git"])
        #expect(report.hasLosses)
        let unchecked = report.notChecked.joined(separator: "\n")
        for text in ["'elsewhere'", "p_ci_pipelines.sha whose repository", "ci_pipelines", "in_progress_merge_commit_sha", "1 repositories of the storage"] where text != "ci_pipelines" {
            #expect(unchecked.contains(text), "\(text) in \(unchecked)")
        }
        #expect(report.text().contains("lost: 3"))
        #expect(report.text().contains(id(2)))
    }

    @Test("without some tables the rest is checked, and without any nothing is claimed")
    func variants() async throws {
        let bindir = try #require(Cluster.bindirs.first)
        let world = try GitWorld()
        let one = try world.make("\(hashedOne).git")
        let first = try world.commit(one, "one")
        let cluster = try await Cluster(bindir)
        try await cluster.fill(
            "postgres",
            """
            CREATE TABLE projects(id int PRIMARY KEY);
            CREATE TABLE ci_pipelines(id int, project_id int, sha bytea, created_at date);
            CREATE TABLE merge_request_diffs(id int, head_commit_sha varchar);
            CREATE TABLE releases(id int, project_id int, sha int);
            INSERT INTO projects VALUES (1);
            INSERT INTO ci_pipelines VALUES (1, 1, '\\x\(first)', NULL), (1, 1, '\\x\(id(7))', NULL);

            """)
        let report = try await check(cluster, [.init(name: "default", directory: world.storage, history: nil)])
        #expect(report.failedQueries.isEmpty, "\(report.failedQueries)")
        #expect(report.counts.objects == 2)
        // No time column that tells: then it counts.
        #expect(names(report.missing) == ["ci_pipelines.sha \(id(7))"])
        let unchecked = report.notChecked.joined(separator: "\n")
        for text in ["notes: there is no such table", "merge_request_diffs: its columns do not say", "releases.sha: its type is integer", "ci_pipelines.before_sha"] {
            #expect(unchecked.contains(text), "\(text) in \(unchecked)")
        }
        #expect(report.orphans.total == 0)

        // Rows call the storage 'default'.
        let misnamed = try await check(cluster, [.init(name: "git", directory: world.storage, history: nil)])
        #expect(misnamed.hasLosses && misnamed.failedQueries.first?.reason.contains("--storage-name") == true && misnamed.counts.rows == 0)

        let empty = try await Cluster(bindir)
        let nothing = try await check(empty, [.init(name: "default", directory: world.storage, history: nil)]) { $0.quarantine = true }
        #expect(!nothing.hasLosses && nothing.orphans.total == 0)
        #expect(nothing.notChecked.contains { $0.contains("no database has them") } && nothing.notChecked.contains { $0.contains("repositories without a row") })
        #expect(Files.exists("\(world.storage)/\(one)/HEAD"))
    }

    @Test("queries of one's own: references, times, hostile rows, bad columns, writes, and a complete list for the quarantine")
    func own() async throws {
        let bindir = try #require(Cluster.bindirs.first)
        let world = try GitWorld()
        let path = try world.make("apps/one.git")
        let first = try world.commit(path, "one")
        let second = try world.commit(path, "two", parent: first)
        let other = try world.commit(path, "three", on: "refs/heads/other")
        let pool = try world.make("pool.git")
        let pooled = try world.commit(pool, "pooled")
        try Files.writeDurably(Array("../../../pool.git/objects\n".utf8), to: "\(world.storage)/\(path)/objects/info/alternates")
        try world.make("orphan.git")
        let cluster = try await Cluster(bindir)
        try await cluster.fill(
            "postgres",
            """
            CREATE TABLE builds(repo text, sha text, ref text, made timestamptz);
            INSERT INTO builds VALUES ('apps/one.git', '\(second)', 'refs/heads/main', '2026-03-01 13:00:00+01'), ('apps/one.git', '\(first)', 'refs/heads/main', now());
            INSERT INTO builds VALUES ('apps/one.git', '\(other)', 'refs/heads/main', '2026-03-01 11:30:00Z'), ('apps/one.git', '\(other)', 'refs/heads/gone', '2020-01-01');
            INSERT INTO builds VALUES ('apps/one.git', '\(pooled)', NULL, '2026-03-01'), ('apps/one.git', '\(first)', '--upload-pack=x', '2026-03-01');
            INSERT INTO builds VALUES ('../../etc', '\(first)', NULL, now()), ('/etc/passwd', '\(first)', NULL, now()), (E'a\\nb.git', '\(first)', NULL, now()), ('apps/one.git', 'HEAD', NULL, now());
            INSERT INTO builds VALUES ('apps/one.git', '\(String(first.prefix(12)))', NULL, 'infinity'), (NULL, '\(first)', NULL, now());
            CREATE TABLE wrote(n int);

            """)
        let report = try await check(cluster, [.init(name: "git", directory: world.storage, history: nil)]) { options in
            options.quarantine = true
            options.queries = [
                CheckQuery(name: "builds", text: "SELECT 'git' AS storage, repo AS path, sha AS object, ref AS reference, made AS at FROM builds -- all\n;"),
                CheckQuery(name: "list", text: "SELECT DISTINCT 'git' AS storage, repo AS path FROM builds", kind: .repositories),
                CheckQuery(name: "columns", text: "SELECT repo AS path, sha AS object FROM builds"),
                CheckQuery(name: "type", text: "SELECT 'git' AS storage, repo AS path, 1 AS object FROM builds"),
                CheckQuery(name: "no table", text: "SELECT * FROM nothing"),
                CheckQuery(name: "write", text: "WITH w AS (INSERT INTO wrote VALUES (1) RETURNING n) SELECT 'git' AS storage, 'x' AS path, 'y' AS object FROM w"),
                CheckQuery(name: "two", text: "SELECT 'git' AS storage, 'x' AS path, 'y' AS object) q; CREATE TABLE evil(n int); SELECT (1"),
                CheckQuery(name: "elsewhere", text: "SELECT 1", database: "nowhere"),
            ]
        }
        #expect(report.missing.first.map { "\($0.object) \($0.reference ?? "")" } == ["\(other) refs/heads/main"])
        #expect(report.goneBefore.first.map { "\($0.object) \($0.reference ?? "")" } == ["\(other) refs/heads/gone"])
        #expect(report.refused.total == 6, "\(report.refused.first)")
        #expect(report.failedQueries.map(\.query).sorted() == ["columns", "elsewhere", "no table", "two", "type", "write"])
        #expect(report.counts.references == 4)
        #expect(report.orphans.total == 2)
        let orphans = Dictionary(uniqueKeysWithValues: report.orphans.first.map { ($0.path, $0) })
        #expect(orphans["orphan.git"]?.movedTo == "\(world.storage).quarantine/orphan.git")
        #expect(orphans["pool.git"]?.movedTo == nil && orphans["pool.git"]?.kept?.contains("apps/one.git") == true)
        #expect(Files.exists("\(world.storage)/pool.git/HEAD") && !Files.exists("\(world.storage)/orphan.git"))
        #expect(report.text().contains("\\x0A"))
    }

    @Test("a lost object makes its partition roll forward, and what came is looked up again")
    func rollForward() async throws {
        let bindir = try #require(Cluster.bindirs.first)
        let world = try GitWorld()
        let path = try world.make("\(hashedOne).git")
        let first = try world.commit(path, "one")
        let second = try world.commit(path, "two", parent: first)
        try world.remove(second, from: path)
        let cluster = try await Cluster(bindir)
        try await cluster.fill(
            "postgres",
            "CREATE TABLE projects(id int);\nCREATE TABLE deployments(project_id int, sha varchar, created_at timestamp);\nINSERT INTO projects VALUES (1);\nINSERT INTO deployments VALUES (1, '\(second)', '2020-01-01'), (1, '\(id(9))', '2020-01-01');\n")
        let asked = Collected<[String: Set<String>]>()
        let history = WrittenHistory(told: [second: .after]) { objects, limit in
            asked.add(objects)
            #expect(limit.records == 1000 && limit.latest == target.adding(seconds: 600))
            try world.commit(path, "two", parent: first)
            return [
                RollForwardOutcome(
                    partition: "2", from: "5", to: "6", records: [.init(position: "6", time: target, repository: path, references: [])],
                    found: [path: [second]], end: .found)
            ]
        }
        let report = try await check(cluster, [.init(name: "default", directory: world.storage, history: history)])
        #expect(asked.all == [[path: [second]]])
        #expect(report.missing.total == 0 && !report.hasLosses)
        #expect(names(report.goneBefore) == ["deployments.sha \(id(9))"])
        #expect(report.rolledForward.map(\.partition) == ["2"] && report.rolledForward.first?.records.count == 1)
        #expect(report.counts.objects == 2)
    }

    @Test("the server ends when the check fails, and when it is cancelled, and leaves nothing")
    func ends() async throws {
        let cluster = try await Cluster(try #require(Cluster.bindirs.first))
        let place = try cluster.place
        struct Stop: Error {}
        await #expect(throws: Stop.self) {
            try await PostgresRestoreTarget().withQueries(at: place) { session in
                #expect(session.databases == ["postgres"])
                try await session.rows(of: "SELECT n::text FROM generate_series(1, 100000) n", in: "postgres") { rows in
                    #expect(rows.count <= 2000)
                    throw Stop()
                }
            }
        }
        #expect(try cluster.state() == "shut down" && !Files.exists(cluster.data + "/postmaster.pid"))
        let started = Collected<Bool>()
        let task = Task {
            try await PostgresRestoreTarget().withQueries(at: place) { session in
                started.add(true)
                try await session.rows(of: "SELECT pg_sleep(600)::text", in: "postgres") { _ in }
            }
        }
        let begun = now()
        while started.all.isEmpty {
            try #require(now() - begun < 120)
            try await Task.sleep(for: .milliseconds(20))
        }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(try cluster.state() == "shut down" && !Files.exists(cluster.data + "/postmaster.pid"))
    }

    @Test("hundreds of thousands of rows are looked up in little time")
    func many() async throws {
        let world = try GitWorld()
        let path = try world.make("\(hashedOne).git")
        let first = try world.commit(path, "one")
        let cluster = try await Cluster(try #require(Cluster.bindirs.first))
        try await cluster.fill(
            "postgres",
            "CREATE TABLE projects(id int);\nCREATE TABLE deployments(project_id int, sha varchar, created_at timestamp);\nINSERT INTO projects VALUES (1);\nINSERT INTO deployments VALUES (1, '\(first)', '2020-01-01');\nINSERT INTO deployments SELECT 1, encode(sha256(n::text::bytea), 'hex')::varchar(40), '2020-01-01' FROM generate_series(1, 200000) n;\n"
                .replacing("encode(sha256(n::text::bytea), 'hex')::varchar(40)", with: "substr(encode(sha256(n::text::bytea), 'hex'), 1, 40)"))
        let begun = ContinuousClock.now
        let report = try await check(cluster, [.init(name: "default", directory: world.storage, history: nil)])
        print("200,001 rows: \(ContinuousClock.now - begun), in the check \(report.seconds) s")
        #expect(report.counts.objects == 200_001)
        // The list is cut, the count is not.
        #expect(report.goneBefore.first.count == 1000 && report.goneBefore.total == Scan.maximumFindings)
        #expect(report.failedQueries.contains { $0.reason.contains("100000 findings beyond") })
    }
}
