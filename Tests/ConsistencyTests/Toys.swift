import ArchiveCore
import Source
import Store

/// A store whose listings cost nothing but what they yield, since worlds are listed thousands of times.
actor SortedStore: ObjectStore {
    private var keys: [ObjectKey] = []
    private var objects: [String: [UInt8]] = [:]
    private var isSorted = true
    nonisolated let description = "sorted"

    func put(_ bytes: [UInt8], at key: ObjectKey) throws {
        if let known = objects[key.path] {
            guard known == bytes else { throw ArchiveError.objectExists(key, in: description) }
            return
        }
        objects[key.path] = bytes
        isSorted = isSorted && keys.last.map { $0.path < key.path } ?? true
        keys.append(key)
    }

    func get(_ key: ObjectKey, range: Range<UInt64>?) throws -> [UInt8] {
        guard let bytes = objects[key.path] else { throw ArchiveError.objectMissing(key, in: description) }
        return range.map { Array(bytes[Int($0.lowerBound)..<Int($0.upperBound)]) } ?? bytes
    }

    /// Where keys begin that are not before `text`; for ASCII the order of strings is that of bytes.
    private func place(_ text: String) -> Int {
        if !isSorted { keys.sort { $0.path < $1.path } }
        isSorted = true
        var low = 0
        var high = keys.count
        while low < high {
            let middle = (low + high) / 2
            if keys[middle].path < text { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func list(prefix: String, after key: String?, limit: Int) -> [ObjectInfo] {
        var result: [ObjectInfo] = []
        var at = place(max(prefix, key ?? ""))
        if at < keys.count, keys[at].path == key { at += 1 }
        while at < keys.count, result.count < limit, keys[at].path.hasPrefix(prefix) {
            result.append(ObjectInfo(key: keys[at], size: UInt64(objects[keys[at].path]?.count ?? 0)))
            at += 1
        }
        return result
    }

    func folders(below prefix: String) -> [String] {
        var names: [String] = []
        var at = place(prefix)
        while at < keys.count, keys[at].path.hasPrefix(prefix) {
            let rest = keys[at].path.dropFirst(prefix.utf8.count)
            guard let slash = rest.firstIndex(of: "/") else {
                at += 1
                continue
            }
            names.append(String(rest[..<slash]))
            // What follows `/` in ASCII is `0`.
            at = place(prefix + rest[..<slash] + "0")
        }
        return names
    }

    func remove(_ key: ObjectKey) {
        guard objects.removeValue(forKey: key.path) != nil else { return }
        let at = place(key.path)
        keys.remove(at: at)
    }
}

private struct NothingToRestore: RestoreTarget {
    func prepare(base: BaseRecord, recover: RecoveryMode, bindir: String?) async throws {}
    func replay(_ job: RestoreJob) async throws -> RestoreOutcome { RestoreOutcome(facts: []) }
}

/// A log of commits in pieces of equal size, such as a database's.
struct AnchorKind: ComponentKind {
    static let pieceSize: UInt64 = 2048
    let kind = "anchor"
    var restoreTarget: any RestoreTarget { NothingToRestore() }
    func describe(offset: UInt64) -> String { "\(offset)" }
    let streamsMayBeginEmpty = false
    let firstOffset: UInt64 = 0
    let carriesFences = true

    static func name(_ piece: UInt64, _ branch: UInt32) -> String { hex(UInt64(branch), 8) + hex(piece, 16) }
    func pieceName(endingAt offset: UInt64, branch: UInt32, of incarnation: IncarnationRecord) -> PieceName? {
        offset > 0 ? PieceName(branch: branch, name: Self.name((offset - 1) / Self.pieceSize, branch)) : nil
    }
}

/// Many logs in packs, such as a storage's partitions.
struct StorageKind: ComponentKind {
    let kind = "storage"
    var restoreTarget: any RestoreTarget { NothingToRestore() }
    func describe(offset: UInt64) -> String { "\(offset)" }
    let streamsMayBeginEmpty = true
    let firstOffset: UInt64 = 1
    let carriesFences = false
    func pieceName(endingAt offset: UInt64, branch: UInt32, of incarnation: IncarnationRecord) -> PieceName? { nil }
}
