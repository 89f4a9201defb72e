import ArchiveCore
import DurableIO
import Testing

@testable import tidemark

@Suite("What an administrator has to run")
struct SetupGuideTests {
    private func guide(_ sources: String, user: String = "tidemark", environment: [String: String] = [:], address: String? = "10.0.0.7") throws -> SetupGuide {
        let configuration = try Configuration(Array("archive: file:///srv/tidemark\nsources:\n\(sources)".utf8), path: "/etc/tidemark/tidemark.yaml") { _ in nil }
        return try SetupGuide(configuration, host: .init(user: user, address: { _, _ in address }, environment: { environment[$0] }))
    }

    private func lines(_ guide: SetupGuide, _ file: String) -> [String] { guide.steps.filter { $0.file == file }.flatMap(\.lines) }

    @Test("lines of pg_hba.conf follow from the connection string", arguments: [
        ("host=/run user=tidemark dbname=app", ["local replication tidemark peer", "local app tidemark peer"]),
        ("user=archiver", ["local replication archiver peer map=tidemark", "local postgres archiver peer map=tidemark"]),
        ("host=/run user=tidemark password=x", ["local replication tidemark scram-sha-256", "local postgres tidemark scram-sha-256"]),
        ("host=localhost", ["host replication tidemark 127.0.0.1/32 scram-sha-256", "host replication tidemark ::1/128 scram-sha-256", "host postgres tidemark 127.0.0.1/32 scram-sha-256", "host postgres tidemark ::1/128 scram-sha-256"]),
        ("host=db sslmode=verify-full", ["hostssl replication tidemark 10.0.0.7/32 scram-sha-256", "hostssl postgres tidemark 10.0.0.7/32 scram-sha-256"]),
        ("postgresql://bob@db/all", ["host replication bob 10.0.0.7/32 scram-sha-256", "host \"all\" bob 10.0.0.7/32 scram-sha-256"]),
        ("host=db user=Bob dbname=replication", ["host replication \"Bob\" 10.0.0.7/32 scram-sha-256", "host \"replication\" \"Bob\" 10.0.0.7/32 scram-sha-256"]),
    ])
    func access(_ conninfo: String, _ expected: [String]) throws {
        #expect(lines(try guide("  - postgres: main\n    conninfo: \"\(conninfo)\"\n"), "pg_hba.conf") == expected)
    }

    @Test("a host that cannot be looked up leaves its address to the reader, IPv6 has its own mask")
    func addresses() throws {
        let source = "  - postgres: main\n    conninfo: host=db\n"
        #expect(lines(try guide(source, address: nil), "pg_hba.conf")[0] == "host replication tidemark ADDRESS/32 scram-sha-256")
        #expect(lines(try guide(source, address: "fd00::7"), "pg_hba.conf")[0] == "host replication tidemark fd00::7/128 scram-sha-256")
    }

    @Test("the environment fills what the connection string leaves out, as libpq does it")
    func environment() throws {
        let guide = try guide("  - postgres: main\n    conninfo: dbname=app\n", environment: ["PGHOST": "/run", "PGUSER": "who", "PGPASSWORD": "never shown"])
        #expect(lines(guide, "pg_hba.conf") == ["local replication who scram-sha-256", "local app who scram-sha-256"])
        #expect(!guide.text.contains("never shown"))
    }

    @Test("names that SQL would read otherwise are quoted, and a password is never printed")
    func quoting() throws {
        let guide = try guide("  - postgres: main\n    conninfo: \"user='Odd \\\"Name' dbname=user password=geheim host=/run\"\n")
        #expect(guide.steps[0].lines == ["CREATE ROLE \"Odd \"\"Name\" LOGIN REPLICATION;", "GRANT CONNECT ON DATABASE \"user\" TO \"Odd \"\"Name\";"])
        #expect(!guide.text.contains("geheim"))
    }

    @Test("what libpq does not understand is told without its text")
    func nonsense() {
        #expect { _ = try guide("  - postgres: main\n    conninfo: \"host=x geheim\"\n") } throws: { error in
            (error as? ArchiveError)?.code == .configuration && !"\(error)".contains("geheim")
        }
    }

    @Test("a storage brings the variable, Gitaly's account and a directory to write")
    func storage() throws {
        let guide = try guide("  - gitaly: default\n    storage: /srv/git\n    fence: main\n    fence_conninfo: \"host=db user=fence\"\n", user: "git")
        #expect(lines(guide, "/etc/systemd/system/gitaly.service.d/tidemark.conf").contains("Environment=GITALY_KEEP_WAL_LOG_ENTRIES=1"))
        let unit = lines(guide, "/etc/systemd/system/tidemark.service.d/local.conf")
        #expect(unit == ["[Service]", "User=git", "Group=", "ReadWritePaths=\"/srv/git\" \"/srv/tidemark\""])
        // A role that writes fences streams nothing.
        #expect(guide.steps.contains { $0.lines.first == "CREATE ROLE fence LOGIN;" })
        #expect(!guide.text.contains("replication fence") && !guide.text.contains("useradd"))
    }
}

@Suite("Preconditions of a host")
struct HostCheckTests {
    /// Free and all bytes.
    static let rooms: [(free: Int, total: Int, level: String)] = {
        let (mebi, gibi) = (1 << 20, 1 << 30)
        return [(100 * mebi, 100 * gibi, "failure"), (900 * mebi, 2 * gibi, "warning"), (3 * gibi, 100 * gibi, "warning"), (50 * gibi, 100 * gibi, "ok"), (0, 0, "failure")]
    }()

    @Test("room", arguments: rooms)
    func room(_ free: Int, _ total: Int, _ level: String) {
        let finding = HostChecks.room("/srv", free: UInt64(free), total: UInt64(total), wanted: HostChecks.space)
        #expect(finding.level.rawValue == level && (finding.remedy != nil) == (level != "ok"))
    }

    @Test("an address of nobody, one of another host, and loopback")
    func addresses() {
        #expect(HostChecks.address("no.such.host.invalid:9187").first?.level == .failure)
        #expect(HostChecks.address("192.0.2.1:9187").first?.level == .failure)
        #expect(HostChecks.address("127.0.0.1:9187").allSatisfy { $0.level != .failure })
    }
}

@Suite("Files for installation")
struct InstallFilesTests {
    @Test("the commented example is a whole configuration, and names every key")
    func example() throws {
        let path = String(#filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }) + "/docs/install/tidemark.yaml"
        let bytes = try Files.read(path)
        let configuration = try Configuration(bytes, path: path) { _ in nil }
        #expect(configuration.sources.count == 2 && configuration.objective == 5 && configuration.listen.map { "\($0)" } == "127.0.0.1:9187" && configuration.copies.count == 1)
        #expect(configuration.sources.allSatisfy { $0.base != nil && $0.keep != nil })
        let text = String(decoding: bytes, as: UTF8.self)
        for key in ["archive", "copies", "encrypt", "bandwidth", "sources", "tail", "state", "base", "keep", "rpo", "notify", "listen", "log", "checks"] {
            #expect(text.contains("\n\(key):") || text.contains("\n# \(key):"), "\(key) is missing")
        }
    }
}
