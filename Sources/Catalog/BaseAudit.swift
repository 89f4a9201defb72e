import ArchiveCore
import Pack
import Store

/// Looks whether the bases of one incarnation are whole, and whether the log that they need is there.
struct BaseAudit {
    /// Parts that are read side by side.
    private static let readers = 2

    let catalog: Catalog
    let incarnation: IncarnationRecord
    let options: VerifyOptions
    private let coverage: LogCoverage
    private let progress: Catalog.VerifyProgress
    private(set) var report: VerifyReport
    /// Those that an expiry is removing.
    private var expiring: Set<BaseReference> = []

    /// - Parameter log: the audit of the log, which is complete; its report is gone on with.
    init(catalog: Catalog, incarnation: IncarnationRecord, options: VerifyOptions, log: LogAudit, progress: @escaping Catalog.VerifyProgress) {
        self.catalog = catalog
        self.incarnation = incarnation
        self.options = options
        self.progress = progress
        coverage = log.coverage
        report = log.report
    }

    mutating func run() async throws {
        let prefix = "bases/\(incarnation.source)/\(incarnation.id)/"
        for expiry in try await catalog.expiries() { expiring.formUnion(expiry.decided?.bases ?? []) }
        var folder: (id: String, sizes: [String: UInt64])?
        var ids: Set<String> = []
        var origins: [String: Set<String>] = [:]
        var after: String?
        while true {
            let page = try await catalog.store.list(prefix: prefix, after: after, limit: 4096)
            for object in page {
                let parts = object.key.path.dropFirst(prefix.utf8.count).split(separator: "/").map(String.init)
                guard parts.count == 2 else { continue }
                if let open = folder, open.id != parts[0] {
                    origins[open.id] = try await check(open.id, open.sizes)
                    ids.insert(open.id)
                    folder = nil
                }
                folder = folder ?? (parts[0], [:])
                folder?.sizes[parts[1]] = object.size
            }
            guard page.count == 4096 else { break }
            after = page.last?.key.path
        }
        if let folder {
            origins[folder.id] = try await check(folder.id, folder.sizes)
            ids.insert(folder.id)
        }
        for (id, needed) in origins.sorted(by: { $0.key < $1.key }) {
            for other in needed.subtracting(ids).sorted() {
                report.findings.append(
                    VerifyFinding(.baseDamaged, "The base \(id) needs files of the base \(other), which is missing.", remedy: remedy))
            }
        }
    }

    private var remedy: String { "Restore it from a copy of the archive, or take a new base with `tidemark backup --source \(incarnation.source)`." }

    /// - Returns: ids of other bases that hold content of this one.
    private mutating func check(_ id: String, _ sizes: [String: UInt64]) async throws -> Set<String> {
        try Task.checkCancellation()
        func key(_ name: String) -> String { "bases/\(incarnation.source)/\(incarnation.id)/\(id)/\(name)" }
        guard sizes["base.json"] != nil else {
            report.findings.append(
                VerifyFinding(.unfinished, object: key(""), "The base \(id) is not complete: it is being taken, or was interrupted and is removed by the next backup."))
            return []
        }
        guard !expiring.contains(BaseReference(source: incarnation.source, incarnation: incarnation.id, base: id)) else {
            report.findings.append(
                VerifyFinding(.unfinished, object: key(""), "An expiry is removing the base \(id), or was when it was interrupted; the next one goes on."))
            return []
        }
        let base: BaseRecord
        let record = catalog.baseKey("base.json", base: id, of: incarnation)
        let bytes: [UInt8]
        do { bytes = try await catalog.store.get(record) } catch let error as ArchiveError where error.code == .objectMissing { return [] }
        let before = report
        do {
            base = try Catalog.decode(bytes, key: record)
            guard base.id == id, base.parts.allSatisfy({ ObjectKey(key($0.name)) != nil }) else {
                throw ArchiveError(.archiveDamaged, "The record '\(record)' is not that of the base beside which it lies.")
            }
        } catch let error as ArchiveError where error.code == .archiveDamaged {
            report.findings.append(VerifyFinding(.recordDamaged, object: record.path, error.message, remedy: remedy))
            return []
        }
        report.bases += 1
        report.parts += base.parts.count
        var whole: [BaseRecord.Part] = []
        for part in base.parts {
            if let size = sizes[part.name], size == part.storedLength { whole.append(part) } else {
                let what = sizes[part.name].map { "has \($0) bytes; \(part.storedLength) were archived" } ?? "is missing"
                report.findings.append(VerifyFinding(.baseDamaged, object: key(part.name), "The part '\(part.name)' of the base \(id) \(what).", remedy: remedy))
            }
        }
        if options.contents { try await read(whole, of: base) }
        let origins = try await checkIndex(base)
        // An expiry may have removed it meanwhile.
        if report.findings.count > before.findings.count, try await catalog.store.keys(prefix: record.path, after: nil, limit: 1).isEmpty {
            report = before
            return []
        }
        return origins
    }

    private mutating func checkIndex(_ base: BaseRecord) async throws -> Set<String> {
        let index: TreeIndex
        let key = catalog.treeIndexKey(of: base, in: incarnation)
        do {
            if catalog.isSealed {
                // Which other bases hold content of this one is known to those who can read the paths.
                try await catalog.proveAtRest(key, sha256: base.indexSHA256)
                index = TreeIndex(entries: [], spans: try await catalog.spans(of: base, in: incarnation))
            } else {
                index = try await catalog.treeIndex(of: base, in: incarnation)
            }
        } catch let error as ArchiveError where error.code == .objectDamaged || error.code == .objectMissing {
            report.findings.append(VerifyFinding(.baseDamaged, object: key.path, error.message, remedy: remedy))
            return []
        }
        for span in index.spans where !coverage.contains(span) {
            report.findings.append(
                VerifyFinding(
                    .baseWithoutLog, object: catalog.baseKey("base.json", base: base.id, of: incarnation).path,
                    "The base \(base.id) cannot be restored: the log of stream \(span.stream) that was written while it was taken, from \(span.start) to \(span.end), is not whole in the archive.",
                    remedy: "Take a new base with `tidemark backup --source \(incarnation.source)`."))
        }
        return Set(index.entries.lazy.map(\.origin).filter { !$0.isEmpty })
    }

    private mutating func read(_ parts: [BaseRecord.Part], of base: BaseRecord) async throws {
        let total = parts.reduce(0) { $0 + $1.storedLength }
        var done: UInt64 = 0
        let (catalog, incarnation) = (catalog, incarnation)
        try await withThrowingTaskGroup(of: (BaseRecord.Part, ArchiveError?).self) { group in
            func finish(_ part: BaseRecord.Part, _ error: ArchiveError?) {
                done += part.storedLength
                progress("\(incarnation.source): base \(base.id) read", done, total)
                if let error {
                    report.findings.append(
                        VerifyFinding(.baseDamaged, object: catalog.baseKey(part.name, base: base.id, of: incarnation).path, error.message, remedy: remedy))
                } else {
                    report.provenParts += 1
                    report.provenBytes += part.storedLength
                }
            }
            for (number, part) in parts.enumerated() {
                if number >= Self.readers, let (part, error) = try await group.next() { finish(part, error) }
                group.addTask {
                    try Task.checkCancellation()
                    do {
                        if catalog.isSealed { try await catalog.proveAtRest(catalog.baseKey(part.name, base: base.id, of: incarnation), sha256: part.sha256) } else {
                            _ = try await catalog.read(part, of: base, in: incarnation)
                        }
                    } catch let error as ArchiveError
                        where error.code == .objectDamaged || error.code == .objectMissing
                    {
                        return (part, error)
                    }
                    return (part, nil)
                }
            }
            while let (part, error) = try await group.next() { finish(part, error) }
        }
    }
}
