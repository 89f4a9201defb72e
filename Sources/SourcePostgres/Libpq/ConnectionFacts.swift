import ArchiveCore
import CLibpq
import Glibc

/// What a connection string says about who connects to where, as libpq reads it; its environment fills what is left out.
public struct ConnectionFacts: Sendable, Hashable {
    /// A host's name or address, or a directory of sockets; `nil`: libpq's own directory.
    public var host: String?
    public var port = "5432"
    public var user: String?
    public var database: String?
    /// Whether TLS is insisted on.
    public var needsTLS = false
    public var hasPassword = false

    public var isSocket: Bool { host.map { $0.hasPrefix("/") || $0.hasPrefix("@") } ?? true }

    /// Calls `PQconninfoParse`.
    ///
    /// - Throws: `.configuration`.
    public init(_ conninfo: String, environment: (String) -> String?) throws(ArchiveError) {
        // Not libpq's own words: they may repeat a part of a password.
        guard let options = PQconninfoParse(conninfo, nil) else {
            throw ArchiveError(
                .configuration, "A connection string was not understood by libpq.",
                remedy: "Write it as libpq wants it, such as \"host=/run/postgresql user=tidemark\", with quotes '…' around values that hold spaces.")
        }
        defer { PQconninfoFree(options) }
        var values: [String: String] = [:]
        var option = options
        while let keyword = option.pointee.keyword {
            if let value = option.pointee.val, value.pointee != 0 { values[String(cString: keyword)] = String(cString: value) }
            option += 1
        }
        func value(_ keyword: String, _ variable: String) -> String? { values[keyword] ?? environment(variable).flatMap { $0.isEmpty ? nil : $0 } }
        // Of several hosts the first: all of them need the same.
        func first(_ text: String?) -> String? { text?.split(separator: ",", omittingEmptySubsequences: false).first.flatMap { $0.isEmpty ? nil : String($0) } }
        host = first(value("hostaddr", "PGHOSTADDR")) ?? first(value("host", "PGHOST"))
        port = first(value("port", "PGPORT")) ?? port
        user = value("user", "PGUSER")
        database = value("dbname", "PGDATABASE")
        needsTLS = value("sslmode", "PGSSLMODE").map { ["require", "verify-ca", "verify-full"].contains($0) } ?? false
        hasPassword = value("password", "PGPASSWORD") != nil || value("passfile", "PGPASSFILE") != nil
    }
}
