import ArchiveCore
import Digests
import Synchronization

/// What stands for an object's bytes.
struct Fingerprint: Sendable, Hashable {
    var size: UInt64
    /// Empty where it was not asked for.
    var md5: [UInt8]
    var crc32c: UInt32
    /// For services that sign it.
    var sha256: [UInt8]?
    /// Names the one who puts them, for services that keep it with the object; `nil`: they do not.
    var writer: String?

    init(_ bytes: [UInt8], withMD5: Bool = true) {
        size = UInt64(bytes.count)
        md5 = withMD5 ? MD5.of(bytes) : []
        var sum = CRC32C()
        sum.update(bytes)
        crc32c = sum.value
    }
}

/// What a service says of an object.
struct StoredState: Sendable, Hashable {
    /// Bytes.
    var size: UInt64
    var md5: [UInt8]?
    var crc32c: UInt32?
    var sha256: [UInt8]?
    /// Names this very writing of the object: a generation, an entity tag.
    var version: String?
    /// See `Fingerprint`.
    var writer: String?

    /// - Returns: `nil` when the service tells no checksum, and the size is right.
    func matches(_ mark: Fingerprint) -> Bool? {
        guard size == mark.size else { return false }
        if let sha256, let other = mark.sha256 { return sha256 == other }
        if let md5, !mark.md5.isEmpty { return md5 == mark.md5 && (crc32c == nil || crc32c == mark.crc32c) }
        return crc32c.map { $0 == mark.crc32c }
    }
}

/// What came of creating an object.
enum Creation: Sendable {
    /// With what the service says of it; `nil`: nothing.
    case created(StoredState?)
    /// The name is taken.
    case exists
    /// The bytes that came to the service were not those that were sent.
    case mangled(String)
}

/// What a service does for `WriteOnce`; keys are the archive's.
protocol WriteOnceService: Sendable {
    var description: String { get }
    /// What this service compares.
    func mark(_ bytes: [UInt8]) -> Fingerprint
    func create(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Creation
    func look(at key: ObjectKey) async throws -> StoredState?
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8]
    /// Removes an object if it is still this writing of it.
    func remove(_ key: ObjectKey, version: String) async throws
}

extension WriteOnceService {
    func mark(_ bytes: [UInt8]) -> Fingerprint { Fingerprint(bytes) }
}

/// Puts objects so that each is written once, and believes in none that it has not seen there.
final class WriteOnce<Service: WriteOnceService>: Sendable {
    /// Where it is tried whether the service refuses to write a name twice; stays there.
    static var probe: ObjectKey { ObjectKey(known: "probe/conditional") }
    /// How often a put is tried whose object is not there, or is damaged, afterwards.
    static var attempts: Int { 4 }

    private let service: Service
    /// Whether an answer that tells the right checksum counts as having seen the object.
    private let believesAnswers: Bool
    private let warn: @Sendable (String) -> Void
    /// Whether creating is refused where the name is taken; found out once.
    private let honoured = Mutex<Task<Bool, any Error>?>(nil)
    private let locks = KeyLocks()
    /// Who put the objects of which it is not known what came of it.
    private let unsure = Mutex<[ObjectKey: String]>([:])
    /// So many of them are remembered.
    private static var memory: Int { 1000 }

    init(_ service: Service, believesAnswers: Bool = false, warn: @escaping @Sendable (String) -> Void) {
        self.service = service
        self.believesAnswers = believesAnswers
        self.warn = warn
    }

    /// - Throws: `.objectExists`; `.storeUnavailable` when the object is not there, or damaged, after all attempts.
    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        precondition(bytes.count <= ObjectKey.maximumSize)
        if try await refusesSecondWrite() { return try await write(bytes, at: key, lookFirst: false) }
        // Between the look and the put, nobody else of this process may come.
        await locks.lock(key)
        defer { locks.unlock(key) }
        try await write(bytes, at: key, lookFirst: true)
    }

    /// Whether the service honours conditions; asks it once.
    func refusesSecondWrite() async throws -> Bool {
        let task = honoured.withLock { state in
            if let state { return state }
            let task = Task { try await self.tryTwice() }
            state = task
            return task
        }
        do { return try await task.value } catch {
            honoured.withLock { if $0 == task { $0 = nil } }
            throw error
        }
    }

    private func tryTwice() async throws -> Bool {
        for byte in [UInt8(ascii: "a"), UInt8(ascii: "b")] {
            if case .exists = try await service.create([byte], service.mark([byte]), at: Self.probe), try await service.look(at: Self.probe) != nil { return true }
        }
        warn(
            "\(service.description) writes a name twice even if it is asked not to; before each object is put, it is looked whether there is one. "
                + "Two agents that write one name at the same moment would not be noticed.")
        return false
    }

    private func write(_ bytes: [UInt8], at key: ObjectKey, lookFirst: Bool) async throws {
        var mark = service.mark(bytes)
        mark.writer = unsure.withLock { $0.removeValue(forKey: key) } ?? mark.writer
        do { try await write(bytes, mark, at: key, lookFirst: lookFirst) } catch {
            if (error as? ArchiveError)?.code != .objectExists, let writer = mark.writer {
                unsure.withLock { if $0.count < Self.memory { $0[key] = writer } }
            }
            throw error
        }
    }

    private func write(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey, lookFirst: Bool) async throws {
        var reason = ""
        for attempt in 0..<Self.attempts {
            if attempt > 0 { warn("'\(key)' is put into \(service.description) again: \(reason)") }
            if lookFirst, try await standing(bytes, mark, at: key) == .same { return }
            switch try await service.create(bytes, mark, at: key) {
            case .exists:
                switch try await standing(bytes, mark, at: key) {
                case .same: return
                case .nothing: reason = "the service said that it exists, and it is not there"
                case .removed: reason = "other bytes are stored than were sent"
                }
            case .mangled(let why): reason = why
            case .created(let answer):
                if let answer, answer.matches(mark) == false {
                    reason = "other bytes arrived than were sent"
                    if let version = answer.version { try await service.remove(key, version: version) }
                    continue
                }
                if believesAnswers, answer?.matches(mark) == true { return }
                guard let found = try await service.look(at: key) else {
                    reason = "the service said that it was stored, and it is not there"
                    continue
                }
                if found.matches(mark) == true { return }
                if found.matches(mark) == false, let version = found.version, version == answer?.version {
                    reason = "other bytes are stored than were sent"
                    try await service.remove(key, version: version)
                    continue
                }
                // No checksum to compare with, or another's object.
                if try await standing(bytes, mark, at: key) == .same { return }
                reason = "it was gone right after it was stored"
            }
        }
        throw ArchiveError(
            .storeUnavailable, "The object '\(key)' could not be stored in \(service.description): \(reason), \(Self.attempts) times.",
            remedy: "See whether something between here and the service, such as a proxy, changes or answers requests; it is tried again.")
    }

    /// What has the name.
    private enum Standing { case same, nothing, removed }

    /// Looks at what has the name. What an attempt of our own left, of which the answer was lost and the bytes were damaged on the way, is
    /// removed.
    ///
    /// - Throws: `.objectExists` when another's bytes are there.
    private func standing(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Standing {
        guard let found = try await service.look(at: key) else { return .nothing }
        var isSame = found.matches(mark) == true
        if !isSame, found.size == mark.size {
            do {
                // Twice, since what differs may have been damaged on the way here, as may the checksum.
                for _ in 0..<2 where !isSame { isSame = try await service.get(key, range: nil) == bytes }
            } catch let error as ArchiveError where error.code == .objectMissing { return .nothing }
        }
        if isSame { return .same }
        guard let writer = mark.writer, found.writer == writer, let version = found.version else {
            throw ArchiveError.objectExists(key, in: service.description)
        }
        try await service.remove(key, version: version)
        return .removed
    }
}

/// One holder for each key at a time.
final class KeyLocks: Sendable {
    /// Who waits for a key that somebody holds.
    private let waiting = Mutex<[ObjectKey: [CheckedContinuation<Void, Never>]]>([:])

    func lock(_ key: ObjectKey) async {
        await withCheckedContinuation { continuation in
            let isFree = waiting.withLock { waiting in
                guard waiting[key] == nil else {
                    waiting[key]?.append(continuation)
                    return false
                }
                waiting[key] = []
                return true
            }
            if isFree { continuation.resume() }
        }
    }

    func unlock(_ key: ObjectKey) {
        let next = waiting.withLock { waiting -> CheckedContinuation<Void, Never>? in
            if waiting[key]?.isEmpty != false {
                waiting[key] = nil
                return nil
            }
            return waiting[key]?.removeFirst()
        }
        next?.resume()
    }
}
