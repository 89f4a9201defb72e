import ArchiveCore
import Testing

@testable import tidemark

@Suite("Queries in the configuration")
struct ChecksTests {
    private static func read(_ text: String, environment: [String: String]) throws -> Configuration {
        try Configuration(Array(text.utf8), path: "t.yaml") { environment[$0] }
    }

    private let good = """
        archive: file:///srv/tidemark
        sources:
          - postgres: main
            conninfo: "host=/run password=${SECRET}"
        """

    @Test("checks are read with their source, and a query that cannot be asked names its line")
    func checks() throws {
        let checks = """

            checks:
              - name: builds
                source: main
                query: |
                  SELECT 'default' AS storage, path, sha AS object, built_at AS at
                  FROM builds
              - name: list
                source: main
                lists: repositories
                soft: true
                database: other
                query: WITH x AS (SELECT 1) SELECT 'default' AS storage, path FROM builds

            """
        let read = try Self.read(good + checks, environment: ["SECRET": "x"]).checks
        #expect(read.map(\.source) == ["main", "main"] && read.map(\.query.name) == ["builds", "list"])
        #expect(read[0].query.text.hasPrefix("SELECT") && read[0].query.kind == .objects && !read[0].query.isSoft && read[0].query.database == nil)
        #expect(read[1].query.kind == .repositories && read[1].query.isSoft && read[1].query.database == "other")
        for (from, to, expected) in [
            ("source: main\n    query", "source: nobody\n    query", "no source 'nobody'"), ("SELECT 'default' AS storage, path, sha", "DELETE FROM builds --", "begins with 'DELETE'"),
            ("name: list", "name: builds", "two checks"), ("lists: repositories", "lists: things", "'lists' is 'things'"), ("soft: true", "soft: yes", "'soft' is 'yes'"),
            ("database: other", "datbase: other", "no key 'datbase'"), ("  - name: builds\n    source", "  - source", "'name' of the check is missing"),
        ] {
            let text = good + checks.replacing(from, with: to)
            #expect(text != good + checks, "\(from)")
            do {
                _ = try Self.read(text, environment: ["SECRET": "x"])
                Issue.record("\(to) was taken")
            } catch let error as ArchiveError {
                #expect(error.code == .configuration && error.message.contains(expected) && error.message.contains("t.yaml:"), "\(error)")
            }
        }
    }
}
