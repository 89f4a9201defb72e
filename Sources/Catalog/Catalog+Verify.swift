import ArchiveCore
import Pack
import Source
import Store

/// How thoroughly an archive is verified.
public struct VerifyOptions: Sendable {
    /// Every piece and every part of a base is read, and proven by length and digest; as log, where its kind can do that.
    public var contents = false
    /// What indexes say is compared with the content, and indexes that are missing or damaged are written anew.
    public var reindex = false

    public init(contents: Bool = false, reindex: Bool = false) {
        self.contents = contents
        self.reindex = reindex
    }
}

/// Something that `verify` found.
public struct VerifyFinding: Sendable, Hashable {
    /// Stable words.
    public enum Code: String, Sendable {
        /// A piece's content without its index, an index that cannot be read, and one that says something else than the content.
        case indexMissing = "index-missing", indexDamaged = "index-damaged", indexDiffers = "index-differs"
        /// A piece's index without its content, and content that is not what was archived.
        case contentMissing = "content-missing", contentDamaged = "content-damaged"
        /// A chapter that cannot be read or is not there: what it says is in the indexes too.
        case chapterMissing = "chapter-missing"
        /// Log that is missing for a known reason, and for none.
        case gap, hole
        /// A base that lacks something, and one whose log is not whole.
        case baseDamaged = "base-damaged", baseWithoutLog = "base-without-log"
        /// A JSON record that is missing or cannot be read.
        case recordDamaged = "record-damaged"
        /// Nothing lost: what an agent or a backup has not finished.
        case unfinished
    }

    public var code: Code
    /// Key of the object in question.
    public var object: String?
    /// One sentence.
    public var message: String
    public var remedy: String?
    /// Whether it was put in order.
    public var isRepaired: Bool

    public init(_ code: Code, object: String? = nil, _ message: String, remedy: String? = nil, isRepaired: Bool = false) {
        self.code = code
        self.object = object
        self.message = message
        self.remedy = remedy
        self.isRepaired = isRepaired
    }

    /// Whether something is, or was, missing or damaged.
    public var isProblem: Bool { code != .unfinished }
}

/// What `verify` found out about one history of a source.
public struct VerifyReport: Sendable {
    public var source: String
    /// `nil` when the record of a history cannot be read.
    public var incarnation: IncarnationRecord?
    /// Pieces that count as archived, and their stored bytes.
    public var pieces = 0
    public var bytes: UInt64 = 0
    public var bases = 0
    public var parts = 0
    /// Pieces and parts whose content was read and found whole, and their stored bytes.
    public var provenPieces = 0
    public var provenParts = 0
    public var provenBytes: UInt64 = 0
    /// Pieces whose content was compared with their index, and the events that it has.
    public var comparedPieces = 0
    public var events = 0
    public var rewrittenIndexes = 0
    /// Whether content was proven as it is stored only, since it is encrypted and no identity was given.
    public var isAtRestOnly = false
    public var findings: [VerifyFinding] = []

    init(source: String, incarnation: IncarnationRecord?) {
        self.source = source
        self.incarnation = incarnation
    }
}

extension Catalog {
    public typealias VerifyProgress = @Sendable (_ what: String, _ done: UInt64, _ total: UInt64?) -> Void

    /// Looks whether everything of a source is there, whole, and without a hole. An agent may be at work meanwhile.
    ///
    /// Content is never changed; only `reindex` writes, and only indexes. Holds a page of names, one piece or a few parts, and for each
    /// stream its runs of log.
    ///
    /// - Returns: a report for each history, oldest first.
    /// - Throws: of an encrypted archive `.keyWrong`, and with `reindex` `.keyMissing` and `.encryptionDiffers`; what the store throws; `CancellationError`. What is missing or damaged is a finding, not an error.
    public func verify(
        source: String, kinds: [any ComponentKind], options: VerifyOptions, progress: @escaping VerifyProgress = { _, _, _ in }
    ) async throws -> [VerifyReport] {
        if options.reindex {
            try checkIdentity(for: "comparing indexes with the log")
            try checkWriter()
        }
        var (incarnations, damaged): ([IncarnationRecord], [VerifyFinding]) = try await readableRecords(below: "sources/\(source)/")
        for record in incarnations where record.source != source || ObjectKey("log/\(source)/\(record.id)") == nil {
            damaged.append(
                VerifyFinding(
                    .recordDamaged, object: "sources/\(source)/", "A history of '\(source)' calls itself '\(record.id)' of '\(record.source)'.",
                    remedy: "Restore the object from a copy of the archive."))
        }
        incarnations.removeAll { $0.source != source || ObjectKey("log/\(source)/\($0.id)") == nil }
        let recorded = Set(try await store.listAll(prefix: "sources/\(source)/").map(\.key.path))
        for id in Set(try await (histories(below: "log/") + histories(below: "bases/")).filter { $0.source == source }.map(\.id)).sorted() {
            let key = "sources/\(source)/\(id).json"
            guard !recorded.contains(key) else { continue }
            damaged.append(
                VerifyFinding(
                    .recordDamaged, object: key, "The history '\(id)' of '\(source)' has log or bases in the archive, but its record is missing: nothing finds them.",
                    remedy: "Restore the object from a copy of the archive."))
        }
        var reports: [VerifyReport] = []
        if !damaged.isEmpty {
            var report = VerifyReport(source: source, incarnation: nil)
            report.findings = damaged
            reports.append(report)
        }
        for incarnation in incarnations.sorted(by: { $0.number < $1.number }) {
            let kind = kinds.first { $0.kind == incarnation.kind }
            var log = try await LogAudit(self, incarnation, kind: kind, options: options, progress: progress)
            try await log.run()
            var bases = BaseAudit(catalog: self, incarnation: incarnation, options: options, log: log, progress: progress)
            try await bases.run()
            var report = bases.report
            for branch in try await archivedBranches(of: incarnation) {
                progress("chapters of \(source)", UInt64(branch), nil)
                for (first, key) in try await auditChapters(of: incarnation, branch: branch, repair: options.reindex) {
                    report.findings.append(
                        VerifyFinding(
                            .chapterMissing, object: key?.path,
                            key == nil ? "The chapter before the piece '\(first)' of '\(source)' is missing." : "The chapter that ends before or at the piece '\(first)' of '\(source)' is damaged.",
                            remedy: options.reindex ? nil : "Nothing is lost: its pieces have their indexes. `tidemark verify --reindex --source \(source)` writes it anew.",
                            isRepaired: options.reindex))
                }
            }
            report.isAtRestOnly = isSealed
            reports.append(report)
        }
        return reports
    }

    /// Sources that the archive has a record of, and those of which it has log or bases only.
    public func storedSources() async throws -> [String] {
        var names = Set(try await sources())
        for (source, _) in try await histories(below: "log/") + histories(below: "bases/") { names.insert(source) }
        return names.sorted()
    }

    /// Folders `<source>/<incarnation>` below `prefix`, each found with one request.
    private func histories(below prefix: String) async throws -> [(source: String, id: String)] {
        var found: [(source: String, id: String)] = []
        var after: String?
        while let next = try await store.list(prefix: prefix, after: after, limit: 1).first?.key.path {
            let parts = next.dropFirst(prefix.utf8.count).split(separator: "/").map(String.init)
            after = next
            guard parts.count > 2 else { continue }
            found.append((parts[0], parts[1]))
            // The character behind "/": the first key that is not in the folder.
            after = "\(prefix)\(parts[0])/\(parts[1])0"
        }
        return found
    }

    /// JSON records, and findings in place of those that cannot be read.
    func readableRecords<T: Decodable>(below prefix: String) async throws -> (records: [T], damaged: [VerifyFinding]) {
        var records: [T] = []
        var damaged: [VerifyFinding] = []
        for object in try await store.listAll(prefix: prefix) where object.key.path.hasSuffix(".json") {
            let bytes = try await store.get(object.key)
            do { records.append(try Self.decode(bytes, key: object.key)) } catch let error as ArchiveError {
                damaged.append(
                    VerifyFinding(
                        .recordDamaged, object: object.key.path, error.message + (error.cause.map { " (\($0))" } ?? ""), remedy: error.remedy))
            }
        }
        return (records, damaged)
    }
}
