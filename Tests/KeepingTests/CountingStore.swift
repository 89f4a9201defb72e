import ArchiveCore
import Store

/// A store in memory whose listings cost little, and that fails at one of its calls and at all that come after it, as a process that dies does.
actor CountingStore: ObjectStore {
    private(set) var objects: [String: [UInt8]] = [:]
    private var sorted: [String]?
    private(set) var changes = 0
    private var limit = Int.max
    /// Whether the change at which it fails is made.
    private var isMade = false
    private(set) var removed: [String] = []
    private var locks: [String: Moment] = [:]
    private var refusal: ArchiveError?
    private var hook: (@Sendable (String) async throws -> Void)?
    nonisolated let description = "counting"

    init(_ objects: [String: [UInt8]] = [:]) { self.objects = objects }

    /// Dies at the change of that number, counted from now on.
    func die(at change: Int, made: Bool) {
        changes = 0
        limit = change
        isMade = made
    }
    func lock(_ key: String, until: Moment) { locks[key] = until }
    func refusePuts(_ error: ArchiveError?) { refusal = error }
    /// Is called before each object is put, with its key.
    func beforePut(_ hook: (@Sendable (String) async throws -> Void)?) { self.hook = hook }

    private func change(_ body: () throws -> Void) throws {
        changes += 1
        guard changes < limit else {
            if changes == limit, isMade { try body() }
            throw ArchiveError(.storeUnavailable, "The process died.")
        }
        try body()
    }

    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        if let hook { try await hook(key.path) }
        if let refusal { throw refusal }
        guard objects[key.path, default: bytes] == bytes else { throw ArchiveError.objectExists(key, in: description) }
        try change {
            if objects.updateValue(bytes, forKey: key.path) == nil { sorted = nil }
        }
    }

    func get(_ key: ObjectKey, range: Range<UInt64>?) throws -> [UInt8] {
        guard let bytes = objects[key.path] else { throw ArchiveError.objectMissing(key, in: description) }
        return range.map { Array(bytes[Int($0.lowerBound)..<Int($0.upperBound)]) } ?? bytes
    }

    private func names() -> [String] {
        let names = sorted ?? objects.keys.sorted()
        sorted = names
        return names
    }

    /// Where names begin that are not before `text`; for ASCII the order of strings is that of bytes.
    private func place(_ text: String, in names: [String]) -> Int {
        var (low, high) = (0, names.count)
        while low < high {
            let middle = (low + high) / 2
            if names[middle] < text { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func list(prefix: String, after key: String?, limit: Int) -> [ObjectInfo] {
        let names = names()
        var found: [ObjectInfo] = []
        var at = place(max(prefix, key ?? ""), in: names)
        while at < names.count, found.count < limit, names[at].hasPrefix(prefix) {
            if names[at] != key { found.append(ObjectInfo(key: ObjectKey(known: names[at]), size: UInt64(objects[names[at]]?.count ?? 0))) }
            at += 1
        }
        return found
    }

    func folders(below prefix: String) -> [String] {
        let names = names()
        var found: [String] = []
        var at = place(prefix, in: names)
        while at < names.count, names[at].hasPrefix(prefix) {
            let rest = names[at].dropFirst(prefix.count)
            if let slash = rest.firstIndex(of: "/"), found.last != String(rest[..<slash]) { found.append(String(rest[..<slash])) }
            at += 1
        }
        return found
    }

    func remove(_ key: ObjectKey) throws {
        try change {
            removed.append(key.path)
            if objects.removeValue(forKey: key.path) != nil { sorted = nil }
        }
    }

    func lockedUntil(_ key: ObjectKey) -> Moment? { locks[key.path] }

    func forgetRemoved() { removed = [] }
}
