import ArchiveCore
import Digests
import Pack
import Runtime
import Store

extension Catalog {
    private func prefix(_ i: IncarnationRecord) -> String { "bases/\(i.source)/\(i.id)/" }

    public func baseKey(_ name: String, base: String, of i: IncarnationRecord) -> ObjectKey {
        ObjectKey(known: "\(prefix(i))\(base)/\(name)")
    }

    /// Complete bases, oldest first: those whose `base.json` is there.
    public func bases(of i: IncarnationRecord) async throws -> [BaseRecord] {
        var records: [BaseRecord] = []
        try await inOrder(try await baseIdentifiers(of: i), width: store.parallelism) { id in try await base(id, of: i) } visit: { _, base in
            if let base { records.append(base) }
            return true
        }
        return records.sorted { $0.started < $1.started }
    }

    /// Ids of all bases, unfinished ones included, oldest first: they begin with the time at which the base was begun.
    public func baseIdentifiers(of i: IncarnationRecord) async throws -> [String] { try await store.folders(below: prefix(i)) }

    /// - Returns: `nil` when the base is not complete.
    public func base(_ id: String, of i: IncarnationRecord) async throws -> BaseRecord? {
        guard let key = ObjectKey("\(prefix(i))\(id)/base.json") else { return nil }
        do { return try await record(key) as BaseRecord } catch let error as ArchiveError where error.code == .objectMissing {
            return nil
        }
    }

    /// Stores the index and then the record of a base whose parts are stored.
    public func record(_ base: BaseRecord, index: TreeIndex, of i: IncarnationRecord) async throws -> BaseRecord {
        var object: [UInt8] = []
        try Zstd.compress(index.encoded(), level: 3, into: &object)
        object = try seal(object)
        var spans: [UInt8] = []
        try Zstd.compress(TreeIndex(entries: [], spans: index.spans).encoded(), level: 3, into: &spans)
        var base = base
        let warnings = base.warnings
        if isEncrypted, !warnings.isEmpty {
            // They may name files.
            try await store.put(try seal(Array((warnings.joined(separator: "\n") + "\n").utf8)), at: baseKey(Self.sealedWarnings, base: base.id, of: i))
            base.warnings = ["\(warnings.count) warning\(warnings.count == 1 ? "" : "s"), encrypted in \(Self.sealedWarnings)"]
        }
        let origins = Set(index.entries.lazy.map(\.origin).filter { !$0.isEmpty })
        base.origins = origins.isEmpty ? nil : origins.sorted()
        base.indexSHA256 = hexText(SHA256.of(object))
        base.spansSHA256 = hexText(SHA256.of(spans))
        try await store.put(spans, at: baseKey("spans.zst", base: base.id, of: i))
        try await store.put(object, at: treeIndexKey(of: base, in: i))
        try await store.put(try Self.encode(base), at: baseKey("base.json", base: base.id, of: i))
        base.warnings = warnings
        return base
    }

    /// A part of a base as it is stored: its object, and what the part's name ends in. Pure work for one core; nothing is stored.
    public func pack(part content: [UInt8]) throws(ArchiveError) -> (object: [UInt8], suffix: String) {
        var object: [UInt8] = []
        try Zstd.compress(content, into: &object)
        return (try seal(object), ".tar.zst" + sealedSuffix)
    }

    /// The name of a base's index in the base's folder.
    public var treeIndexName: String { "index.zst\(sealedSuffix)" }
    /// The same of what went wrong in an encrypted archive, where something did.
    public static let sealedWarnings = "warnings.txt.age"

    func treeIndexKey(of base: BaseRecord, in i: IncarnationRecord) -> ObjectKey { baseKey(treeIndexName, base: base.id, of: i) }

    /// - Throws: `.objectMissing`, `.objectDamaged`; `.keyMissing` and `.keyWrong` where it is encrypted.
    public func treeIndex(of base: BaseRecord, in i: IncarnationRecord) async throws -> TreeIndex {
        let key = treeIndexKey(of: base, in: i)
        return try await index(key, sha256: base.indexSHA256) { try open($0, of: key) }
    }

    /// Proves a base's index, or a part of it, as it is stored, without opening it.
    func proveAtRest(_ key: ObjectKey, sha256: String) async throws {
        try await store.read(key) { object in
            guard hexText(SHA256.of(object)) == sha256 else { throw damaged(key, "its SHA-256 is not the recorded one") }
        }
    }

    /// The base's windows alone, which a plan needs without the paths.
    public func spans(of base: BaseRecord, in i: IncarnationRecord) async throws -> [LogSpan] {
        guard let digest = base.spansSHA256 else { return try await treeIndex(of: base, in: i).spans }
        return try await index(baseKey("spans.zst", base: base.id, of: i), sha256: digest) { $0 }.spans
    }

    private func index(_ key: ObjectKey, sha256: String, open: @Sendable ([UInt8]) throws -> [UInt8]) async throws -> TreeIndex {
        try await store.read(key) { object in
            guard hexText(SHA256.of(object)) == sha256 else { throw damaged(key, "its SHA-256 is not the recorded one") }
            do { return try TreeIndex(decoding: try Zstd.decompress(try open(object)[...], limit: 1 << 33)) } catch let error as WireError {
                throw damaged(key, error.description)
            }
        }
    }

    /// The content of a part, proven by length and digest.
    public func read(_ part: BaseRecord.Part, of base: BaseRecord, in i: IncarnationRecord) async throws -> [UInt8] {
        let key = baseKey(part.name, base: base.id, of: i)
        return try await store.read(key) { object in
            guard UInt64(object.count) == part.storedLength else {
                throw damaged(key, "it has \(object.count) bytes instead of \(part.storedLength)")
            }
            guard hexText(SHA256.of(object)) == part.sha256 else { throw damaged(key, "its SHA-256 is not the recorded one") }
            let content = try Zstd.decompress(try open(object, of: key)[...], limit: part.length)
            guard UInt64(content.count) == part.length else { throw damaged(key, "it holds \(content.count) bytes instead of \(part.length)") }
            return content
        }
    }

    /// Removes what an unfinished backup left: a base's objects without `base.json`.
    public func removeUnfinishedBase(_ id: String, of i: IncarnationRecord) async throws {
        let objects = try await store.listAll(prefix: "\(prefix(i))\(id)/")
        guard !objects.contains(where: { $0.key.path.hasSuffix("/base.json") }) else { return }
        try await store.remove(objects.map(\.key))
    }

    /// Ids of bases that were begun and not finished.
    public func unfinishedBases(of i: IncarnationRecord) async throws -> [String] {
        var unfinished: [String] = []
        for id in try await baseIdentifiers(of: i) where try await base(id, of: i) == nil { unfinished.append(id) }
        return unfinished
    }

    private func damaged(_ key: ObjectKey, _ why: String) -> ArchiveError {
        ArchiveError(
            .objectDamaged, "The base's object '\(key)' is damaged: \(why).",
            remedy: "Restore from another base (`tidemark list` names them) and take a new one.")
    }
}
