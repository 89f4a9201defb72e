import ArchiveCore
import Source

/// What a cross-check found. Its JSON is stable; lists are cut to `Listed.limit` elements, their totals are not.
public struct CrossCheckReport: Codable, Sendable {
    /// A list of which only the first elements are kept.
    public struct Listed<Element: Codable & Sendable>: Codable, Sendable {
        public static var limit: Int { 1000 }
        public private(set) var total = 0
        public private(set) var first: [Element] = []

        public init() {}

        mutating func add(_ element: Element) {
            total += 1
            if first.count < Self.limit { first.append(element) }
        }
    }

    public struct Counts: Codable, Sendable {
        /// Rows that named an object, and what they named: distinct repositories, and ids by query.
        public var rows = 0
        public var repositories = 0
        public var objects = 0
        public var references = 0
    }

    /// Something that rows name and that is not there.
    public struct Missing: Codable, Sendable, Hashable {
        public var query: String
        public var storage: String
        public var path: String
        public var object: String
        public var reference: String?
        /// When the newest of the rows was written.
        public var rowTime: String?
        /// Rows that name it; for a missing repository, all that name something in it.
        public var rows: Int
        /// What is wrong, and why it counts as lost or as gone before.
        public var problem: String
        public var reason: String
    }

    public struct Unreadable: Codable, Sendable, Hashable {
        public var storage: String
        public var path: String
        public var reason: String
    }

    /// A row that nothing was looked up for, because of what it says.
    public struct Refused: Codable, Sendable, Hashable {
        public var query: String
        public var storage: String
        public var path: String
        public var object: String
        public var reason: String
    }

    public struct RolledForward: Codable, Sendable {
        public struct Record: Codable, Sendable {
            public var position: String
            public var time: String
            public var repository: String
            public var references: [String]
        }
        public var storage: String
        public var partition: String
        /// Repositories that the records are about.
        public var repositories: [String]
        public var from: String?
        public var to: String?
        public var records: [Record]
        /// Objects that came with them.
        public var found: Int
        public var end: RollForwardOutcome.End
        public var failure: String?
    }

    public struct Orphan: Codable, Sendable, Hashable {
        public var storage: String
        public var path: String
        /// Where it lies now, when it was moved aside.
        public var movedTo: String?
        /// Why it was not moved, when that was asked for.
        public var kept: String?
    }

    public struct FailedQuery: Codable, Sendable, Hashable {
        public var query: String
        public var database: String?
        public var reason: String
    }

    public var source: String
    public var storages: [String]
    public var target: String
    public var seconds: Double = 0
    public var databases: [String] = []
    public var counts = Counts()
    /// Lost by this restore.
    public var missing = Listed<Missing>()
    /// Not there, and not there before either, as far as the archive and the rows' times tell.
    public var goneBefore = Listed<Missing>()
    public var unreadable = Listed<Unreadable>()
    public var refused = Listed<Refused>()
    public var rolledForward: [RolledForward] = []
    public var orphans = Listed<Orphan>()
    public var failedQueries: [FailedQuery] = []
    public var notChecked: [String] = []

    init(source: String, storages: [String], target: Moment) {
        self.source = source
        self.storages = storages
        self.target = "\(target)"
    }

    /// The report of a check that could not be done.
    public static func failed(source: String, storages: [String], target: Moment, because error: ArchiveError) -> CrossCheckReport {
        var report = CrossCheckReport(source: source, storages: storages, target: target)
        report.failedQueries = [FailedQuery(query: "all", database: nil, reason: error.description)]
        return report
    }

    /// Whether something was lost, or could not be looked at although it should have been: exit status 4.
    public var hasLosses: Bool {
        missing.total > 0 || unreadable.total > 0 || refused.total > 0 || !failedQueries.isEmpty || rolledForward.contains { $0.end == .failed }
    }

    /// For people, short.
    ///
    /// - Parameter limit: elements of each list that are written out; `--json` has more.
    public func text(limit: Int = 20) -> String {
        var lines: [String] = []
        func list<T>(_ title: String, _ list: Listed<T>, _ line: (T) -> String) {
            guard list.total > 0 else { return }
            lines.append("\(title): \(list.total)")
            for element in list.first.prefix(limit) { lines.append("  " + line(element)) }
            if list.total > limit { lines.append("  … and \(list.total - limit) more") }
        }
        func missing(_ title: String, _ list: Listed<Missing>) {
            guard list.total > 0 else { return }
            lines.append("\(title): \(list.total)")
            // One line for what several queries name.
            var order: [Thing] = []
            var named: [Thing: [Missing]] = [:]
            for m in list.first {
                let thing = Thing(storage: m.storage, path: m.path, object: m.object, reference: m.reference, problem: m.problem, reason: m.reason)
                if named[thing] == nil { order.append(thing) }
                named[thing, default: []].append(m)
            }
            for thing in order.prefix(limit) {
                let rows = named[thing] ?? []
                lines.append(
                    "  \(thing.storage) \(Self.printable(thing.path)): \(thing.problem) \(Self.printable(thing.object))"
                        + (thing.reference.map { " (\(Self.printable($0)))" } ?? ""))
                lines.append(
                    "    named by \(rows.map { "\($0.query) (\($0.rows) \($0.rows == 1 ? "row" : "rows"))" }.joined(separator: ", "))"
                        + (rows.compactMap(\.rowTime).max().map { ", last written \($0)" } ?? "") + "; \(thing.reason)")
            }
            if order.count > limit { lines.append("  … and more, all in --json") }
        }
        lines.append(
            "cross-check of \(source) against \(storages.joined(separator: ", ")): "
                + (self.missing.total > 0 ? "SOMETHING IS MISSING" : hasLosses ? "not everything could be looked up"
                    : counts.rows == 0 ? "no row names an object" : "nothing was lost of what was looked up"))
        lines.append(
            "  \(counts.rows) rows name \(counts.objects) objects in \(counts.repositories) repositories"
                + (counts.references > 0 ? " and \(counts.references) references" : ""))
        for rolled in rolledForward {
            let what = rolled.records.isEmpty ? "not rolled forward" : "rolled forward from \(rolled.from ?? "its beginning") to \(rolled.to ?? "?"), \(rolled.records.count) \(rolled.records.count == 1 ? "record" : "records") after the target, \(rolled.found) objects found"
            let why = rolled.failure ?? (rolled.end == .found ? nil : rolled.end.rawValue)
            lines.append("partition \(rolled.partition) of \(rolled.storage): \(what)\(why.map { "; \($0)" } ?? "")")
            for record in rolled.records.prefix(limit) {
                lines.append("  \(record.position) \(record.time) \(Self.printable(record.repository)) \(record.references.map(Self.printable).joined(separator: ", "))")
            }
            if rolled.records.count > limit { lines.append("  … and \(rolled.records.count - limit) more") }
        }
        missing("lost", self.missing)
        list("cannot be read", unreadable) { "\($0.storage) \(Self.printable($0.path)): \($0.reason)" }
        list("rows that name nothing that could be looked up", refused) {
            "\($0.query): \(Self.printable($0.storage)) \(Self.printable($0.path)) \(Self.printable($0.object)): \($0.reason)"
        }
        for query in failedQueries { lines.append("check '\(query.query)' failed\(query.database.map { " in \($0)" } ?? ""): \(query.reason)") }
        missing("gone before the target already (not counted as lost)", goneBefore)
        list("repositories without a row", orphans) { orphan in
            "\(orphan.storage) \(Self.printable(orphan.path))" + (orphan.movedTo.map { ", moved to \($0)" } ?? orphan.kept.map { ", kept: \($0)" } ?? "")
        }
        if !notChecked.isEmpty {
            lines.append("not checked:")
            for item in notChecked { lines.append("  \(item)") }
        }
        return lines.joined(separator: "\n")
    }

    private struct Thing: Hashable {
        var storage, path, object: String
        var reference: String?
        var problem, reason: String
    }

    /// Text from a database as one line of a terminal.
    private static func printable(_ text: String) -> String {
        let shown = text.unicodeScalars.prefix(200).map { $0.value < 0x20 || $0.value == 0x7F || (0x80..<0xA0).contains($0.value) ? "\\x" + hex(UInt64($0.value), 2) : String($0) }
        return shown.joined() + (text.unicodeScalars.count > 200 ? "…" : "")
    }
}
