import ArchiveCore
import CrossCheck

extension Configuration {
    /// Reads `checks`: queries for the cross-check after a restore, each validated as far as it can be without a database.
    static func checks(
        _ node: YAMLNode, of sources: [Source],
        fields: (YAMLNode, [String], String) throws(ArchiveError) -> [String: YAMLNode],
        text: (YAMLNode, String) throws(ArchiveError) -> String,
        fail: (YAMLPlace, String, String?) -> ArchiveError
    ) throws(ArchiveError) -> [(source: String, query: CheckQuery)] {
        guard case .sequence(let items, _) = node else { throw fail(node.place, "'checks' takes a list of queries", "See docs/cross-check.md for an example.") }
        var checks: [(source: String, query: CheckQuery)] = []
        for item in items {
            let keys = try fields(item, ["name", "source", "query", "database", "lists", "soft"], "a check")
            func required(_ key: String) throws(ArchiveError) -> (text: String, place: YAMLPlace) {
                guard let node = keys[key] else { throw fail(item.place, "'\(key)' of the check is missing", nil) }
                return (try text(node, key), node.place)
            }
            let name = try required("name")
            guard !checks.contains(where: { $0.query.name == name.text }) else { throw fail(name.place, "there are two checks '\(name.text)'", nil) }
            let source = try required("source")
            guard sources.contains(where: { $0.name == source.text }) else {
                throw fail(source.place, "there is no source '\(source.text)'", "There are: \(sources.map(\.name).joined(separator: ", ")).")
            }
            let query = try required("query")
            if let fault = CheckQuery.fault(in: query.text) {
                throw fail(query.place, "the query of '\(name.text)' cannot be asked: \(fault)", "Write one SELECT with the columns storage, path and object.")
            }
            var kind = CheckQuery.Kind.objects
            if let node = keys["lists"] {
                switch try text(node, "lists") {
                case "objects": kind = .objects
                case "repositories": kind = .repositories
                case let other: throw fail(node.place, "'lists' is '\(other)'", "Write objects or repositories.")
                }
            }
            var isSoft = false
            if let node = keys["soft"] {
                let value = try text(node, "soft")
                guard value == "true" || value == "false" else { throw fail(node.place, "'soft' is '\(value)'", "Write true or false.") }
                isSoft = value == "true"
            }
            let database = try keys["database"].map { node throws(ArchiveError) in try text(node, "database") }
            checks.append((source.text, CheckQuery(name: name.text, text: query.text, kind: kind, database: database, isSoft: isSoft)))
        }
        return checks
    }
}
