import ArchiveCore
import SourcePostgres
import Store

/// What an administrator has to do for a configuration, as it follows from that alone: no server is asked.
struct SetupGuide: Sendable {
    struct Step: Sendable, Encodable {
        enum Kind: String, Sendable, Encodable {
            /// Statements for a superuser of PostgreSQL.
            case sql
            /// Lines of a file.
            case file
            /// Commands for root.
            case shell
        }
        var kind: Kind
        /// The source that it is for; `nil`: the agent itself.
        var source: String?
        var title: String
        /// The file's name, as its owner calls it.
        var file: String?
        var lines: [String]
        var notes: [String] = []
    }

    /// What the guide knows of this host.
    struct Host: Sendable {
        /// The account that the agent is to run as.
        var user: String
        /// The address under which a server sees this host; `nil`: not known.
        var address: @Sendable (_ server: String, _ port: String) -> String?
        var environment: @Sendable (String) -> String?
    }

    private(set) var steps: [Step] = []
    private let configuration: Configuration
    private let host: Host

    /// - Throws: `.configuration` for a connection string that libpq does not understand.
    init(_ configuration: Configuration, host: Host) throws(ArchiveError) {
        self.configuration = configuration
        self.host = host
        let fences = configuration.sources.compactMap { source -> Configuration.Fence? in
            if case .gitaly(_, _, _, _, let fence) = source.kind { fence } else { nil }
        }
        let streamed = configuration.sources.compactMap { source -> String? in if case .postgres(let conninfo, _, _, _) = source.kind { conninfo } else { nil } }
        for source in configuration.sources {
            if case .postgres(let conninfo, _, _, _) = source.kind { try postgres(source.name, conninfo) }
            if case .gitaly(let storage, let log, let spool, let prune, _) = source.kind { gitaly(source.name, storage, log, spool, prune) }
        }
        var known: Set<String> = Set(streamed)
        for fence in fences where known.insert(fence.conninfo).inserted { try fencing(fence) }
        try machine()
    }

    private mutating func postgres(_ name: String, _ conninfo: String) throws(ArchiveError) {
        let facts = try ConnectionFacts(conninfo, environment: host.environment)
        let role = facts.user ?? host.user
        let database = facts.database ?? "postgres"
        steps.append(
            Step(
                kind: .sql, source: name, title: "PostgreSQL '\(name)': as a superuser, the role that the agent is",
                lines: [
                    "CREATE ROLE \(Self.identifier(role)) LOGIN REPLICATION;",
                    "GRANT CONNECT ON DATABASE \(Self.identifier(database)) TO \(Self.identifier(role));",
                ],
                notes: [
                    "REPLICATION streams, takes bases, and makes and drops slots. No table can be read, nothing else is granted.",
                    usesPassword(facts) ? "Then its password: \\password \(Self.identifier(role))" : "It needs no password: it is known by the account \(host.user).",
                    "Where max_slot_wal_keep_size stays -1, the slot guard sees the disk's room only with: GRANT pg_read_all_settings TO \(Self.identifier(role));",
                    "Where functions were taken from PUBLIC, docs/fences.md names the three to grant again.",
                ]))
        access(name, facts, role, ["replication", database])
        steps.append(
            Step(
                kind: .file, source: name, title: "PostgreSQL '\(name)': settings, at least", file: "postgresql.conf",
                lines: [
                    "wal_level = replica                # or logical; a restart",
                    "max_wal_senders = 10               # 2 for the agent: one streams, one takes bases; a restart",
                    "max_replication_slots = 10         # 1 for the agent; a restart",
                    "max_slot_wal_keep_size = 20GB      # what the disk can spare while no agent runs; a reload",
                    "wal_sender_timeout = 60s           # not 0; a reload",
                ], notes: ["Values that are higher already are right. Then restart PostgreSQL, if any that needs it changed, or: SELECT pg_reload_conf();"]))
    }

    private mutating func fencing(_ fence: Configuration.Fence) throws(ArchiveError) {
        let facts = try ConnectionFacts(fence.conninfo, environment: host.environment)
        let role = facts.user ?? host.user
        let database = facts.database ?? "postgres"
        steps.append(
            Step(
                kind: .sql, source: fence.anchor, title: "PostgreSQL '\(fence.anchor)': as a superuser, the role that writes fences",
                lines: [
                    "CREATE ROLE \(Self.identifier(role)) LOGIN;",
                    "GRANT CONNECT ON DATABASE \(Self.identifier(database)) TO \(Self.identifier(role));",
                ],
                notes: [
                    "Leave CREATE ROLE out where the role is there already.",
                    usesPassword(facts) ? "Then its password: \\password \(Self.identifier(role))" : "It needs no password: it is known by the account \(host.user).",
                ]))
        access(fence.anchor, facts, role, [database])
    }

    /// Lines of `pg_hba.conf`: before any that would match first.
    private mutating func access(_ name: String, _ facts: ConnectionFacts, _ role: String, _ databases: [String]) {
        var notes = ["Above every line that would match first; then: SELECT pg_reload_conf();"]
        var lines: [String] = []
        let map = "tidemark"
        for (number, database) in databases.enumerated() {
            // `replication` is a keyword only without quotes: the first of two, never a database of that name.
            let place = number == 0 && databases.count == 2 ? database : Self.quotedHBA(database)
            if facts.isSocket {
                let method = usesPassword(facts) ? "scram-sha-256" : role == host.user ? "peer" : "peer map=\(map)"
                lines.append("local \(place) \(Self.quotedHBA(role)) \(method)")
                continue
            }
            let server = facts.host ?? "localhost"
            let addresses: [String]
            if ["localhost", "127.0.0.1", "::1"].contains(server) { addresses = ["127.0.0.1/32", "::1/128"] } else if let own = host.address(server, facts.port) {
                addresses = [own + (own.contains(":") ? "/128" : "/32")]
            } else {
                addresses = ["ADDRESS/32"]
                notes.append("ADDRESS is this host's, as '\(server)' sees it: the name could not be looked up here.")
            }
            for address in addresses { lines.append("\(facts.needsTLS ? "hostssl" : "host") \(place) \(Self.quotedHBA(role)) \(address) scram-sha-256") }
        }
        if !facts.isSocket, !facts.needsTLS { notes.append("The connection string does not insist on TLS. With sslmode=verify-full in it, write hostssl.") }
        steps.append(Step(kind: .file, source: name, title: "PostgreSQL '\(name)': who may connect", file: "pg_hba.conf", lines: lines, notes: notes))
        if facts.isSocket, !usesPassword(facts), role != host.user {
            steps.append(
                Step(
                    kind: .file, source: name, title: "PostgreSQL '\(name)': the account \(host.user) is the role \(role)", file: "pg_ident.conf",
                    lines: ["\(map) \(Self.quotedHBA(host.user)) \(Self.quotedHBA(role))"]))
        }
        if usesPassword(facts), !facts.hasPassword {
            steps.append(
                Step(
                    kind: .file, source: name, title: "The password, readable by \(host.user) alone (mode 0600)", file: "~\(host.user)/.pgpass",
                    lines: databases.map { "\(facts.isSocket ? "localhost" : facts.host ?? "localhost"):\(facts.port):\($0):\(role):PASSWORD" }))
        }
    }

    private func usesPassword(_ facts: ConnectionFacts) -> Bool { !facts.isSocket || facts.hasPassword }

    private mutating func gitaly(_ name: String, _ storage: String, _ log: Configuration.GitalyLog, _ spool: String?, _ prune: Bool) {
        var gitaly = ["[transactions]", "enabled = true"]
        if let spool { gitaly += ["", "[backup]", "wal_backup_go_cloud_url = \"file://\(spool)\""] }
        steps.append(
            Step(
                kind: .file, source: name, title: "Gitaly '\(name)': transactions, without which there is no log", file: "config.toml of Gitaly", lines: gitaly,
                notes: ["In an Omnibus package instead, in /etc/gitlab/gitlab.rb: gitaly['configuration'] = { transactions: { enabled: true } } beside what is there."]))
        if log == .wal {
            steps.append(
                Step(
                    kind: .file, source: name, title: "Gitaly '\(name)': entries stay until they are archived", file: "/etc/systemd/system/gitaly.service.d/tidemark.conf",
                    lines: ["[Service]", "Environment=GITALY_KEEP_WAL_LOG_ENTRIES=1"],
                    notes: [
                        "Then: systemctl daemon-reload && systemctl restart gitaly",
                        "In an Omnibus package instead, in /etc/gitlab/gitlab.rb: gitaly['env'] = { 'GITALY_KEEP_WAL_LOG_ENTRIES' => '1' }, then: gitlab-ctl reconfigure && gitlab-ctl restart gitaly",
                        "In a container: the same variable in its environment.",
                        "From then on the log grows until the agent archives it: start the agent soon.",
                    ]))
        }
        steps.append(
            Step(
                kind: .shell, source: name, title: "Gitaly '\(name)': the account \(host.user) reads the storage\(prune ? " and removes what is archived" : "")",
                lines: ["test \"$(stat -c %U \(shellQuoted(storage)))\" = \(shellQuoted(host.user))"],
                notes: ["Gitaly makes entries with mode 0400 in directories with 0700, which no group and no ACL can open: the agent runs as Gitaly's account."]))
    }

    private mutating func machine() throws(ArchiveError) {
        let user = shellQuoted(host.user)
        var lines: [String] = []
        let hasStorage = configuration.sources.contains { if case .gitaly = $0.kind { true } else { false } }
        if !hasStorage {
            let home = shellQuoted(configuration.state)
            lines.append("getent passwd \(user) >/dev/null || useradd --system --user-group --home-dir \(home) --shell /usr/sbin/nologin \(user)")
        }
        lines.append("group=\"$(id -gn \(user))\"")
        lines.append("install -d -m 0700 -o \(user) -g \"$group\" \(shellQuoted(configuration.state))")
        for url in [configuration.archive] + configuration.copies {
            if case .file(let directory) = try StoreLocation(url) { lines.append("install -d -m 0750 -o \(user) -g \"$group\" \(shellQuoted(directory))") }
        }
        lines.append("chown root:\"$group\" \(shellQuoted(configuration.path)) && chmod 0640 \(shellQuoted(configuration.path))")
        for path in configuration.identities { lines.append("chown root:\"$group\" \(shellQuoted(path)) && chmod 0640 \(shellQuoted(path))") }
        steps.append(Step(kind: .shell, title: "Directories of the agent, as root", lines: lines))

        var dropIn: [String] = []
        if host.user != "tidemark" { dropIn += ["User=\(host.user)", "Group="] }
        var writable = configuration.sources.compactMap { source -> String? in
            if case .gitaly(let storage, _, let spool, true, _) = source.kind { spool ?? storage } else { nil }
        }
        for url in [configuration.archive] + configuration.copies { if case .file(let directory) = try StoreLocation(url) { writable.append(directory) } }
        if configuration.state != "/var/lib/tidemark" { writable.append(configuration.state) }
        if !writable.isEmpty { dropIn.append("ReadWritePaths=\(writable.map { "\"\($0)\"" }.joined(separator: " "))") }
        if configuration.path != Configuration.defaultPath { dropIn.append("Environment=\"TIDEMARK_CONFIG=\(configuration.path)\"") }
        if !dropIn.isEmpty {
            steps.append(
                Step(
                    kind: .file, title: "What this configuration needs of the unit, beside docs/install/tidemark.service",
                    file: "/etc/systemd/system/tidemark.service.d/local.conf", lines: ["[Service]"] + dropIn))
        }
        steps.append(
            Step(
                kind: .shell, title: "Start, as root",
                lines: [
                    "runuser -u \(user) -- tidemark init --config \(shellQuoted(configuration.path))",
                    "runuser -u \(user) -- tidemark check --config \(shellQuoted(configuration.path))",
                    "systemctl daemon-reload && systemctl enable --now tidemark",
                ]))
    }

    /// With quotes where SQL wants them.
    private static func identifier(_ name: String) -> String {
        let isPlain = name.utf8.allSatisfy { (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F } && name.utf8.first.map { !(0x30...0x39).contains($0) } == true
        // A reserved word would be refused without quotes; those that roles are named after need none of the rest.
        return isPlain && !["user", "all", "default", "public", "none"].contains(name) ? name : "\"" + name.replacing("\"", with: "\"\"") + "\""
    }

    /// In `pg_hba.conf` quotes take special words and characters literally.
    private static func quotedHBA(_ name: String) -> String {
        let isPlain = name.utf8.allSatisfy { (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F }
        return isPlain && !["all", "sameuser", "samerole", "samegroup", "replication"].contains(name) ? name : "\"\(name)\""
    }

    /// For people: comments, and below each what is to be run or written.
    var text: String {
        var result = "# What \(configuration.path) needs. Nothing was asked or changed.\n"
        for (number, step) in steps.enumerated() {
            result += "\n# \(number + 1). \(step.title)\(step.file.map { ": \($0)" } ?? "")\n"
            for line in step.lines { result += line + "\n" }
            for note in step.notes { result += "#    \(note)\n" }
        }
        return result
    }
}
