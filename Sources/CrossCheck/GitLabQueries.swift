import ArchiveCore
import Source

/// What one database has of GitLab's tables, and the queries that can be made of that.
struct GitLabQueries {
    /// By table: its schema, and the type of each column.
    typealias Tables = [String: (schema: String, columns: [String: String])]

    var queries: [CheckQuery] = []
    /// Names all repositories that should be there; `nil`: the database cannot tell.
    var repositories: CheckQuery?
    /// First parts of paths about which `repositories` is complete; `""` stands for paths that do not begin with `@`.
    var prefixes: Set<String> = []
    /// What was left out, and why.
    var notChecked: [String] = []

    private static let known = [
        "projects", "project_repositories", "shards", "design_management_repositories", "design_management_versions", "issues", "snippets",
        "snippet_repositories", "group_wiki_repositories", "pool_repositories", "merge_request_diffs", "merge_requests", "p_ci_pipelines",
        "ci_pipelines", "deployments", "releases", "notes", "push_event_payloads", "events",
    ]

    static func tables(of session: any QuerySession, in database: String) async throws -> Tables {
        let list = known.map { "'\($0)'" }.joined(separator: ", ")
        let found = Collected<(String, String, String, String)>()
        try await session.rows(
            of: """
                SELECT table_schema::text, table_name::text, column_name::text, data_type::text FROM information_schema.columns \
                WHERE table_name IN (\(list)) AND table_schema NOT IN ('pg_catalog', 'information_schema') \
                ORDER BY table_schema <> 'public', 1, 2, 3
                """, in: database
        ) { rows in
            for row in rows { if let s = row[0], let t = row[1], let c = row[2], let d = row[3] { found.add((s, t, c, d)) } }
        }
        var tables: Tables = [:]
        for (schema, table, column, type) in found.all where tables[table]?.schema ?? schema == schema {
            tables[table, default: (schema, [:])].columns[column] = type
        }
        return tables
    }

    /// - Returns: `nil` when the tables are not GitLab's.
    init?(_ tables: Tables) {
        guard let projects = tables["projects"], projects.columns["id"] != nil else { return nil }
        let sql = Builder(tables: tables)
        addObjects(sql)
        addRepositories(sql)
        notChecked.append("commits of merge_request_diff_commits one by one: each is an ancestor of its merge request's head, which is checked")
        if tables["merge_requests"] != nil { notChecked.append("whether merged commits are still on their branches: only that they exist") }
    }

    // MARK: Objects

    private mutating func addObjects(_ sql: Builder) {
        let diffProject =
            sql.has("merge_request_diffs", "merge_request_id") && sql.has("merge_requests", "target_project_id")
            ? (sql.has("merge_request_diffs", "project_id") ? "coalesce(x.project_id, m.target_project_id)" : "m.target_project_id")
            : sql.has("merge_request_diffs", "project_id") ? "x.project_id" : nil
        let diffJoin = sql.has("merge_request_diffs", "merge_request_id") && sql.has("merge_requests", "target_project_id")
            ? "LEFT JOIN \(sql.name("merge_requests")) m ON m.id = x.merge_request_id" : ""
        add(sql, "merge_request_diffs", ["head_commit_sha", "start_commit_sha", "base_commit_sha"], project: diffProject, join: diffJoin, times: ["created_at"])
        let target = sql.has("merge_requests", "target_project_id") ? "x.target_project_id" : nil
        add(sql, "merge_requests", ["merge_commit_sha", "squash_commit_sha", "merged_commit_sha"], project: target, times: ["updated_at", "created_at"])
        add(sql, "merge_requests", ["rebase_commit_sha", "in_progress_merge_commit_sha"], project: target, times: ["updated_at", "created_at"], isSoft: true)
        let pipelines = sql.tables["p_ci_pipelines"] != nil ? "p_ci_pipelines" : "ci_pipelines"
        add(
            sql, pipelines, ["sha", "before_sha", "source_sha", "target_sha"], project: sql.has(pipelines, "project_id") ? "x.project_id" : nil,
            times: ["created_at"])
        for (table, column) in [("deployments", "sha"), ("releases", "sha")] {
            add(sql, table, [column], project: sql.has(table, "project_id") ? "x.project_id" : nil, times: ["created_at"])
        }
        add(
            sql, "notes", ["commit_id"], project: sql.has("notes", "project_id") && sql.has("notes", "noteable_type") ? "x.project_id" : nil,
            condition: "x.noteable_type = 'Commit'", times: ["created_at"])
        add(
            sql, "push_event_payloads", ["commit_to", "commit_from"],
            project: sql.has("push_event_payloads", "event_id") && sql.has("events", "project_id") ? "e.project_id" : nil,
            join: sql.tables["events"] == nil ? "" : "JOIN \(sql.name("events")) e ON e.id = x.event_id",
            time: sql.time("events", ["created_at"], alias: "e"), isSoft: true)
        add(
            sql, "design_management_versions", ["sha"],
            project: sql.has("design_management_versions", "issue_id") && sql.has("issues", "project_id") ? "i.project_id" : nil,
            join: sql.tables["issues"] == nil ? "" : "JOIN \(sql.name("issues")) i ON i.id = x.issue_id", suffix: ".design.git", times: ["created_at"])
    }

    private mutating func add(
        _ sql: Builder, _ table: String, _ columns: [String], project: String?, join: String = "", condition: String = "true", suffix: String = ".git",
        times: [String] = [], time: String? = nil, isSoft: Bool = false
    ) {
        guard let known = sql.tables[table] else {
            notChecked.append("\(table): there is no such table")
            return
        }
        guard let project else {
            notChecked.append("\(table): its columns do not say which project a row belongs to")
            return
        }
        let time = time ?? sql.time(table, times, alias: "x")
        for column in columns {
            guard let type = known.columns[column] else {
                notChecked.append("\(table).\(column): there is no such column")
                continue
            }
            guard ["character varying", "text", "character", "bytea"].contains(type) else {
                notChecked.append("\(table).\(column): its type is \(type)")
                continue
            }
            queries.append(
                CheckQuery(
                    name: "\(table).\(column)",
                    text: """
                        SELECT r.storage AS storage, r.path || '\(suffix)' AS path, x.\(column) AS object\(time.map { ", \($0) AS at" } ?? "") \
                        FROM \(sql.name(table)) x \(join) LEFT JOIN (\(sql.projects)) r ON r.id = \(project) \
                        WHERE x.\(column) IS NOT NULL AND \(condition)
                        """, isSoft: isSoft))
        }
    }

    // MARK: Repositories

    private mutating func addRepositories(_ sql: Builder) {
        // A wiki and a design repository belong to their project whether they were made yet or not.
        var parts = [".git", ".wiki.git", ".design.git"].map { "SELECT r.storage, r.path || '\($0)' AS path FROM (\(sql.projects)) r" }
        prefixes.insert("@hashed")
        if sql.has("project_repositories", "disk_path") { prefixes.insert("") }
        if sql.has("snippets", "id") {
            let path = Builder.hashed("@snippets", "s.id")
            let storage = sql.has("snippets", "repository_storage") ? "coalesce(s.repository_storage, 'default')" : "'default'"
            parts.append("SELECT \(storage), \(path) || '.git' FROM \(sql.name("snippets")) s")
            prefixes.insert("@snippets")
        }
        for (table, prefix, suffix) in [("snippet_repositories", "@snippets", ".git"), ("group_wiki_repositories", "@groups", ".wiki.git"), ("pool_repositories", "@pools", ".git")] {
            guard sql.has(table, "disk_path"), sql.has(table, "shard_id"), sql.has("shards", "name") else { continue }
            // The path of a group's wiki is kept with or without its suffix, by version.
            let path = suffix == ".wiki.git" ? "CASE WHEN x.disk_path LIKE '%.wiki' THEN x.disk_path || '.git' ELSE x.disk_path || '.wiki.git' END" : "x.disk_path || '\(suffix)'"
            parts.append("SELECT s.name, \(path) FROM \(sql.name(table)) x JOIN \(sql.name("shards")) s ON s.id = x.shard_id WHERE x.disk_path IS NOT NULL")
            prefixes.insert(prefix)
        }
        repositories = CheckQuery(
            name: "repositories", text: "SELECT u.storage AS storage, u.path AS path FROM (\(parts.joined(separator: " UNION ALL "))) u(storage, path)",
            kind: .repositories)
    }

    /// Pieces of SQL over the tables that are there.
    struct Builder {
        var tables: Tables

        func has(_ table: String, _ column: String) -> Bool { tables[table]?.columns[column] != nil }

        func name(_ table: String) -> String { "\"\((tables[table]?.schema ?? "public").replacing("\"", with: "\"\""))\".\"\(table)\"" }

        /// The first of these columns that has a value, as a time; `nil` when there is none.
        func time(_ table: String, _ columns: [String], alias: String) -> String? {
            let known = columns.filter { tables[table]?.columns[$0]?.hasPrefix("timestamp") == true }
                .map { tables[table]?.columns[$0] == "timestamp without time zone" ? "\(alias).\($0) AT TIME ZONE 'UTC'" : "\(alias).\($0)" }
            return known.isEmpty ? nil : "coalesce(\(known.joined(separator: ", ")))"
        }

        /// Where a project's repository lies, without `.git`.
        var projects: String {
            let rows = has("project_repositories", "project_id") && has("project_repositories", "disk_path")
            let shards = rows && has("project_repositories", "shard_id") && has("shards", "name")
            let storages = (has("projects", "repository_storage") ? ["p.repository_storage::text"] : []) + (shards ? ["s.name::text"] : []) + ["'default'"]
            let path = rows ? "coalesce(o.disk_path::text, \(Self.hashed("@hashed", "p.id")))" : Self.hashed("@hashed", "p.id")
            return "SELECT p.id AS id, coalesce(\(storages.joined(separator: ", "))) AS storage, \(path) AS path FROM \(name("projects")) p"
                + (rows ? " LEFT JOIN \(name("project_repositories")) o ON o.project_id = p.id" : "")
                + (shards ? " LEFT JOIN \(name("shards")) s ON s.id = o.shard_id" : "")
        }

        /// `@hashed/aa/bb/<sha256 of the decimal id>`.
        static func hashed(_ prefix: String, _ id: String) -> String {
            let digest = "encode(sha256(convert_to(\(id)::text, 'UTF8')), 'hex')"
            return "'\(prefix)/' || substr(\(digest), 1, 2) || '/' || substr(\(digest), 3, 2) || '/' || \(digest)"
        }
    }
}
