import ArchiveCore
import DurableIO
import Synchronization

/// Something that is not there, before it is decided whether this restore lost it.
struct Finding: Sendable {
    enum Problem: Sendable, Hashable {
        case repositoryMissing, objectMissing
        case objectDamaged(String)
        case referenceMissing, referenceElsewhere

        var text: String {
            switch self {
            case .repositoryMissing: "there is no such repository; the newest row names"
            case .objectMissing: "missing object"
            case .objectDamaged(let why): "damaged object (\(why))"
            case .referenceMissing: "missing reference to"
            case .referenceElsewhere: "a reference does not lead to"
            }
        }
    }
    var query: String
    var isSoft: Bool
    var storage: String
    var path: String
    var object: String
    var reference: String?
    var at: Moment?
    var rows: Int
    var problem: Problem
    /// For a missing repository, a few of the objects that rows name in it.
    var objects: Set<String>
}

/// Rows of queries, each sorted by repository, looked up as they come. Holds one repository open and one batch of ids.
///
/// Everything blocks; used by one thread at a time, which the lock sees to.
final class Scan: Sendable {
    /// Findings that are kept one by one. Beyond them something is so wrong that a list does not help.
    static let maximumFindings = 100_000
    private static let batch = 4000
    private static let objectsOfMissingRepository = 100

    struct Results: Sendable {
        var counts = CrossCheckReport.Counts()
        var findings: [Finding] = []
        /// Findings that were not kept.
        var more = 0
        var unreadable: [CrossCheckReport.Unreadable] = []
        var unreadableMore = 0
        var refused: [CrossCheckReport.Refused] = []
        var refusedMore = 0
        /// Rows of storages that were not restored, by name; and rows that belong to no project, by query.
        var elsewhere: [String: Int] = [:]
        var ownerless: [String: Int] = [:]
        /// Rows that were not looked up since their repository is behind a mapping that this database does not have.
        var mapped: [String: Int] = [:]
    }

    private struct Row {
        var object: String
        var reference: String?
        var at: Moment?
        var rows: Int
    }

    private enum Open {
        case nothing
        case skipped
        case missing(finding: Int?)
        case unreadable
        case ready(RepositoryReader)
    }

    private struct State {
        var results = Results()
        var query = CheckQuery(name: "", text: "")
        var key: (storage: String, path: String)?
        var open = Open.nothing
        var rows: [Row] = []
        var seen: Set<PathDigest> = []
        var unreadable: Set<PathDigest> = []
    }

    private let storages: [String: RestoredStorage]
    /// Storages that lie behind Praefect.
    private let mapped: Set<String>
    /// Only these repositories; `nil`: all.
    private let only: Set<PathDigest>?
    private let state = Mutex(State())

    init(storages: [String: RestoredStorage], only: Set<PathDigest>? = nil) {
        self.storages = storages
        self.only = only
        mapped = Set(storages.filter { Files.exists($0.value.root + "/@cluster") }.keys)
    }

    var results: Results { state.withLock { $0.results } }

    /// Takes rows as `CheckQuery.wrapped` gives them.
    func take(_ rows: [[String?]], of query: CheckQuery) throws {
        try state.withLock { state in
            state.query = query
            for row in rows { try take(row, &state) }
        }
    }

    /// Looks up what is left of the last query.
    func finishQuery() throws {
        try state.withLock { state in
            try flush(&state)
            state.key = nil
            state.open = .nothing
        }
    }

    private func take(_ row: [String?], _ state: inout State) throws {
        guard row.count == 6, let object = row[2], let rows = row[5].flatMap(Int.init) else { return }
        guard let storage = row[0], let path = row[1] else {
            if only == nil { state.results.ownerless[state.query.name, default: 0] += rows }
            return
        }
        if state.key?.storage != storage || state.key?.path != path {
            try flush(&state)
            try open(storage, path, &state)
        }
        if case .skipped = state.open {
            if only == nil, storages[storage] == nil { state.results.elsewhere[storage, default: 0] += rows }
            return
        }
        state.results.counts.rows += rows
        let at = row[4].flatMap(Int64.init).map { Moment(rawValue: $0.multipliedReportingOverflow(by: 1000).overflow ? .max : $0 * 1000) }
        state.rows.append(Row(object: object, reference: row[3], at: at, rows: rows))
        if state.rows.count >= Self.batch { try flush(&state) }
    }

    private func open(_ storage: String, _ path: String, _ state: inout State) throws {
        state.key = (storage, path)
        guard let root = storages[storage] else {
            state.open = .skipped
            return
        }
        let digest = PathDigest(storage, path)
        guard only?.contains(digest) ?? true else {
            state.open = .skipped
            return
        }
        if state.seen.insert(digest).inserted { state.results.counts.repositories += 1 }
        switch try root.locate(path) {
        case .missing: state.open = .missing(finding: nil)
        case .hostile(let reason):
            state.open = .unreadable
            refuse(reason, object: "", &state)
        case .repository(let directory):
            do { state.open = .ready(try RepositoryReader(directory, in: root)) } catch let error as ArchiveError {
                unreadable(error.message, &state)
            }
        }
    }

    private func unreadable(_ reason: String, _ state: inout State) {
        state.open = .unreadable
        guard let key = state.key, state.unreadable.insert(PathDigest(key.storage, key.path)).inserted else { return }
        if state.results.unreadable.count < Self.maximumFindings {
            state.results.unreadable.append(.init(storage: key.storage, path: key.path, reason: reason))
        } else { state.results.unreadableMore += 1 }
    }

    private func refuse(_ reason: String, object: String, _ state: inout State) {
        guard let key = state.key else { return }
        if state.results.refused.count < Self.maximumFindings {
            state.results.refused.append(
                .init(query: state.query.name, storage: key.storage, path: key.path, object: object, reason: reason))
        } else { state.results.refusedMore += 1 }
    }

    private func flush(_ state: inout State) throws {
        let rows = state.rows
        state.rows = []
        guard !rows.isEmpty, let key = state.key else { return }
        switch state.open {
        case .nothing, .skipped, .unreadable: return
        case .missing(let known):
            let count = rows.reduce(0) { $0 + $1.rows }
            if mapped.contains(key.storage) {
                state.results.mapped[key.storage, default: 0] += count
                return
            }
            guard let newest = rows.max(by: { $0.at ?? Moment(rawValue: .min) < $1.at ?? Moment(rawValue: .min) }) else { return }
            let ids = rows.lazy.map(\.object).filter { Self.isID($0) }
            if let known {
                state.results.findings[known].rows += count
                state.results.findings[known].objects.formUnion(ids.prefix(max(0, Self.objectsOfMissingRepository - state.results.findings[known].objects.count)))
                if newest.at ?? Moment(rawValue: .min) > state.results.findings[known].at ?? Moment(rawValue: .min) {
                    state.results.findings[known].at = newest.at
                    state.results.findings[known].object = newest.object
                }
            } else if state.results.findings.count < Self.maximumFindings {
                state.open = .missing(finding: state.results.findings.count)
                add(newest, .repositoryMissing, rows: count, objects: Set(ids.prefix(Self.objectsOfMissingRepository)), &state)
            } else { state.results.more += 1 }
        case .ready(let reader):
            var wanted: [Row] = []
            for row in rows {
                guard Self.isID(row.object), row.object.utf8.count == reader.idLength else {
                    refuse(Self.isID(row.object) ? "the repository's ids have \(reader.idLength) digits" : "it is no object id", object: row.object, &state)
                    continue
                }
                if let reference = row.reference, let fault = Self.fault(inReference: reference) {
                    refuse("'\(reference)' is no reference: \(fault)", object: row.object, &state)
                    continue
                }
                wanted.append(row)
            }
            // One object may be named with several references.
            var ids: [String] = []
            for row in wanted where ids.last != row.object { ids.append(row.object) }
            let states: [ObjectState]
            do { states = try reader.states(of: ids) } catch let error as ArchiveError {
                unreadable(error.message, &state)
                return
            }
            state.results.counts.objects += ids.count
            var at = 0
            for row in wanted {
                if ids[at] != row.object { at += 1 }
                switch states[at] {
                case .missing: add(row, .objectMissing, rows: row.rows, objects: [row.object], &state)
                case .damaged(let why): add(row, .objectDamaged(why), rows: row.rows, objects: [row.object], &state)
                case .present:
                    guard let reference = row.reference else { continue }
                    state.results.counts.references += 1
                    switch reader.state(of: reference, id: row.object) {
                    case .holds: continue
                    case .missing: add(row, .referenceMissing, rows: row.rows, objects: [row.object], &state)
                    case .other: add(row, .referenceElsewhere, rows: row.rows, objects: [row.object], &state)
                    case .unknown(let why): unreadable("its references could not be read: \(why)", &state)
                    }
                }
            }
        }
    }

    private func add(_ row: Row, _ problem: Finding.Problem, rows: Int, objects: Set<String>, _ state: inout State) {
        guard let key = state.key else { return }
        guard state.results.findings.count < Self.maximumFindings else {
            state.results.more += 1
            return
        }
        state.results.findings.append(
            Finding(
                query: state.query.name, isSoft: state.query.isSoft, storage: key.storage, path: key.path, object: row.object,
                reference: row.reference, at: row.at, rows: rows, problem: problem, objects: objects))
    }

    /// 40 or 64 lower-case hexadecimal digits.
    static func isID(_ text: String) -> Bool {
        let digits = text.utf8
        return (digits.count == 40 || digits.count == 64)
            && digits.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }

    private static func fault(inReference name: String) -> String? {
        guard name.hasPrefix("refs/") || name == "HEAD" else { return "it does not begin with 'refs/'" }
        if name.utf8.contains(where: { $0 <= 0x20 || $0 == 0x7F }) { return "it has spaces or control characters" }
        if name.contains("..") || name.contains("@{") || name.contains(where: { "~^:?*[\\".contains($0) }) { return "it has characters that no name may have" }
        return name.utf8.count > 1024 ? "it is too long" : nil
    }
}

/// A repository's place as a number wide enough to be its own, so that a million of them fit in memory.
struct PathDigest: Hashable, Sendable {
    private let a: Int
    private let b: Int

    init(_ storage: String, _ path: String) {
        var first = Hasher()
        var second = Hasher()
        first.combine(0)
        second.combine(1)
        for text in [storage, path] {
            first.combine(text)
            second.combine(text)
        }
        a = first.finalize()
        b = second.finalize()
    }
}
