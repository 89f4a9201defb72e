import ArchiveCore
import Catalog
import Store

/// Copies the bases of one history: of each complete one its parts and indexes, then the record that makes it complete.
actor BaseCopy {
    nonisolated let incarnation: IncarnationRecord
    private let target: CopyTarget
    /// Bases that the copy has, and those that cannot be copied since the primary has them damaged.
    private var done: Set<String> = []
    private var damaged: Set<String> = []

    init(_ incarnation: IncarnationRecord, target: CopyTarget) {
        self.incarnation = incarnation
        self.target = target
    }

    /// Copies what is new.
    ///
    /// - Parameter thoroughly: also tries again what was damaged.
    /// - Returns: whether the copy has all complete bases of the primary.
    @discardableResult
    func round(thoroughly: Bool) async throws -> Bool {
        let ids = try await target.primary.baseIdentifiers(of: incarnation)
        for id in ids where !done.contains(id) && (thoroughly || !damaged.contains(id)) { try await copy(id) }
        try await removeUnfinished(but: Set(ids))
        damaged.formIntersection(ids)
        return damaged.isEmpty
    }

    private func copy(_ id: String) async throws {
        if try await target.copy.base(id, of: incarnation) != nil {
            done.insert(id)
            return
        }
        let record: (base: BaseRecord, bytes: [UInt8])
        do {
            // Not complete yet: the next round looks again.
            guard let stored = try await target.primary.storedBase(id, of: incarnation) else { return }
            record = stored
        } catch let error as ArchiveError where CopyTarget.isDamage(error) {
            refuse(id, key("base.json", id).path, error)
            return
        }
        let sizes = Dictionary(
            try await target.copy.store.listAll(prefix: "\(target.copy.baseFolder(of: incarnation))\(id)/").map { ($0.key, $0.size) }, uniquingKeysWith: { a, _ in a })
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                var flying = 0
                for part in record.base.parts where sizes[key(part.name, id)] != part.storedLength {
                    if flying >= max(1, target.copy.store.parallelism) {
                        try await group.next()
                        flying -= 1
                    }
                    flying += 1
                    group.addTask { try await self.copy(part.name, of: id, length: part.storedLength, sha256: part.sha256) }
                }
                try await group.waitForAll()
            }
            if let digest = record.base.spansSHA256 { try await copy("spans.zst", of: id, length: nil, sha256: digest) }
            try await copy(target.primary.treeIndexName, of: id, length: nil, sha256: record.base.indexSHA256)
            try await copyWarnings(of: id)
        } catch let error as ArchiveError where CopyTarget.isDamage(error) || error.code == .objectMissing {
            // It may be expired meanwhile: then what was copied of it is removed as that of any unfinished base.
            if error.code == .objectMissing, try await target.primary.store.keys(prefix: key("base.json", id).path, after: nil, limit: 1).isEmpty { return }
            refuse(id, key("base.json", id).path, error)
            return
        }
        try await target.put(record.bytes, at: key("base.json", id))
        damaged.remove(id)
        done.insert(id)
        target.info("the base \(id) of '\(incarnation.source)' is in \(target.copy.store.description)")
    }

    private nonisolated func key(_ name: String, _ id: String) -> ObjectKey { target.primary.baseKey(name, base: id, of: incarnation) }

    private nonisolated func copy(_ name: String, of id: String, length: UInt64?, sha256: String) async throws {
        guard let digest = bytes(hexadecimal: sha256) else {
            throw ArchiveError(.archiveDamaged, "The record of the base \(id) in \(target.primary.store.description) holds '\(sha256)' for a SHA-256.")
        }
        try await target.limit.run(Int(clamping: length ?? UInt64(CopyTarget.memory / 4))) {
            try await target.put(try await target.primary.proven(key(name, id), length: length, sha256: digest), at: key(name, id))
        }
    }

    /// What proves itself, being encrypted, and is there only where something went wrong.
    private func copyWarnings(of id: String) async throws {
        let key = key(Catalog.sealedWarnings, id)
        do { try await target.put(try await target.primary.store.get(key), at: key) } catch let error as ArchiveError where error.code == .objectMissing {}
    }

    private func refuse(_ id: String, _ object: String, _ error: ArchiveError) {
        damaged.insert(id)
        target.report(object, error, "The base \(id) was not copied to \(target.copy.store.description).")
    }

    /// Half of a base that the primary does not have any more. Complete ones stay until something decides that they are no longer kept.
    private func removeUnfinished(but kept: Set<String>) async throws {
        for id in try await target.copy.unfinishedBases(of: incarnation) where !kept.contains(id) {
            try await target.copy.removeUnfinishedBase(id, of: incarnation)
        }
    }
}

/// The bytes that pairs of hexadecimal digits mean; `nil` for anything else.
private func bytes(hexadecimal text: String) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard digits.count.isMultiple(of: 2) else { return nil }
    var result: [UInt8] = []
    for i in stride(from: 0, to: digits.count, by: 2) {
        guard let byte = UInt8(String(decoding: digits[i...i + 1], as: UTF8.self), radix: 16) else { return nil }
        result.append(byte)
    }
    return result
}
