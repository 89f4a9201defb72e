import ArchiveCore
import Source

/// A query whose rows name objects that must be in the restored repositories.
///
/// Its columns: `storage` and `path` (of the repository below the storage), `object` (an id in hexadecimal, or as bytes), and if
/// wanted `reference` (which must be the object or lead to it) and `at` (when the row was written; without a zone: UTC).
public struct CheckQuery: Sendable, Hashable {
    public enum Kind: Sendable, Hashable {
        /// Its rows name objects.
        case objects
        /// Its rows name all repositories that there should be; only `storage` and `path` count.
        case repositories
    }
    public var name: String
    /// One SELECT.
    public var text: String
    public var kind: Kind
    /// The database to ask; `nil`: every one in which the query is valid.
    public var database: String?
    /// Whether rows may name objects that were removed later, legitimately: a row's age alone then proves no loss.
    public var isSoft: Bool

    public init(name: String, text: String, kind: Kind = .objects, database: String? = nil, isSoft: Bool = false) {
        self.name = name
        self.text = text
        self.kind = kind
        self.database = database
        self.isSoft = isSoft
    }

    /// What is wrong with a query's text, as far as can be said without a database; `nil`: nothing.
    public static func fault(in text: String) -> String? {
        let words = statement(text).split(whereSeparator: \.isWhitespace)
        guard let first = words.first?.lowercased() else { return "it is empty" }
        guard first == "select" || first == "with" || first == "values" || first.hasPrefix("select(") || first.hasPrefix("(") else {
            return "it begins with '\(words[0].prefix(20))', but only one SELECT can be asked"
        }
        return text.utf8.contains(0) ? "it holds a zero byte" : nil
    }

    /// The text without the semicolon that may end it.
    private static func statement(_ text: String) -> String {
        var text = text[...]
        while let last = text.last, last.isWhitespace || last == ";" { text.removeLast() }
        return String(text.drop { $0.isWhitespace })
    }

    var statement: String { Self.statement(text) }

    /// The query that is really asked: one row for each storage, path, object and reference in that order, with the time of the newest
    /// row in microseconds since 1970 and the number of rows. Ids that stand for nothing are left out.
    ///
    /// - Throws: `.sourceRefused` when a column is missing or of a type that cannot be what it should be.
    func wrapped(_ columns: [QueryColumn]) throws(ArchiveError) -> String {
        func column(_ name: String) throws(ArchiveError) -> QueryColumn? {
            let found = columns.filter { $0.name == name }
            guard found.count <= 1 else { throw Self.refused(self.name, "has two columns '\(name)'") }
            return found.first
        }
        func text(_ name: String) throws(ArchiveError) -> String {
            guard let column = try column(name) else { throw Self.refused(self.name, "has no column '\(name)'") }
            guard column.kind == .text || column.kind == .other else { throw Self.refused(self.name, "has a column '\(name)' that is not text") }
            // Longer ones name nothing, and need not be carried.
            return "left(q.\(name)::text, 2000)"
        }
        let storage = try text("storage")
        let path = try text("path")
        if kind == .repositories {
            return "SELECT DISTINCT \(storage), \(path) FROM (\(statement)\n) q WHERE \(path) IS NOT NULL"
        }
        guard let object = try column("object") else { throw Self.refused(name, "has no column 'object'") }
        let id: String
        switch object.kind {
        case .text: id = "lower(btrim(left(q.object::text, 200)))"
        case .bytes: id = "encode(substring(q.object FROM 1 FOR 100), 'hex')"
        default: throw Self.refused(name, "has a column 'object' that is neither text nor bytea")
        }
        let reference = try column("reference") == nil ? "NULL::text" : try text("reference")
        let time: String
        switch try column("at")?.kind {
        case nil: time = "NULL::timestamptz"
        case .time?: time = "q.at"
        case .localTime?: time = "q.at AT TIME ZONE 'UTC'"
        default: throw Self.refused(name, "has a column 'at' that is no timestamp")
        }
        return """
            SELECT w.storage, w.path, w.object, w.reference, \
            (extract(epoch FROM max(w.at) FILTER (WHERE isfinite(w.at))) * 1000000)::bigint::text, count(*)::text \
            FROM (SELECT \(storage) AS storage, \(path) AS path, \(id) AS object, \(reference) AS reference, \(time) AS at FROM (\(statement)
            ) q) w WHERE w.object <> '' AND w.object !~ '^0+$' GROUP BY 1, 2, 3, 4 \
            ORDER BY w.storage COLLATE "C", w.path COLLATE "C", w.object COLLATE "C", w.reference COLLATE "C"
            """
    }

    private static func refused(_ name: String, _ what: String) -> ArchiveError {
        ArchiveError(
            .sourceRefused, "The check '\(name)' \(what).",
            remedy: "Its columns are storage, path, object and, if wanted, reference and at; see docs/cross-check.md.")
    }
}
