import ArchiveCore
import Catalog
import Runtime
import Store
import Synchronization

/// The two ends of one copy, and what all that work on it share.
final class CopyTarget: Sendable {
    let primary: Catalog
    let copy: Catalog
    let limit: TransferLimit
    private let output: Log
    /// Objects that were reported: each is told once.
    private let reported = Mutex<Set<String>>([])

    /// Bytes that are in hand at once.
    static let memory = 64 << 20
    /// Objects that are remembered as reported.
    private static let maximumReported = 10_000

    init(primary: Catalog, copy: Catalog, output: Log) {
        self.primary = primary
        self.copy = copy
        self.output = output
        limit = TransferLimit(slots: max(1, copy.store.parallelism), bytes: Self.memory)
    }

    /// - Throws: `.twoHistories` when the copy has other bytes there.
    func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        do { try await copy.store.put(bytes, at: key) } catch let error as ArchiveError where error.code == .objectExists {
            throw ArchiveError(
                .twoHistories, "The copy at \(copy.store.description) holds other bytes as '\(key)' than the primary, \(primary.store.description).",
                remedy:
                    "Nothing more is copied there, and both were kept. See with `tidemark verify --contents` of each which one is whole; docs/copies.md says how to go on.",
                cause: error)
        }
    }

    func remove(_ key: ObjectKey) async throws {
        try await copy.store.remove(key)
    }

    /// Copies a small object that has no digest.
    ///
    /// - Returns: whether the copy has it now; not when it is gone from the primary since, or damaged there.
    @discardableResult
    func copyRecord(_ key: ObjectKey) async throws -> Bool {
        do {
            try await put(try await primary.storedRecord(key), at: key)
            return true
        } catch let error as ArchiveError where error.code == .objectMissing {
            return false
        } catch let error as ArchiveError where Self.isDamage(error) {
            report(key.path, error, "It was not copied.")
            return false
        }
    }

    func copyLag(of source: String) async throws {
        try await primary.copyLag(of: source, to: copy, at: now()) { report($0.path, $1, "It was not copied.") }
    }

    /// Tells once that an object of the primary could not be copied.
    func report(_ object: String, _ error: ArchiveError, _ consequence: String) {
        let isNew = reported.withLock { $0.count < Self.maximumReported && $0.insert(object).inserted }
        if isNew { output.error("\(error.message) \(consequence)") }
    }

    func info(_ text: String) { output.info(text) }

    /// Whether an error says that an object of the primary is not what was stored, which no repetition changes.
    static func isDamage(_ error: ArchiveError) -> Bool { error.code == .objectDamaged || error.code == .archiveDamaged }
}
