import ArchiveCore
import Synchronization
import Testing

@testable import Store

/// One name, kept in memory, with faults on the way.
private final class FaultyService: WriteOnceService {
    struct State {
        var bytes: [UInt8]?
        var writer: String?
        var version = 0
        /// The next creations arrive damaged, and are repeated below since the answer was lost.
        var losses = 0
        /// After them the service is away.
        var fails = false
        /// The next readings, and checksums told, are damaged on the way.
        var damagedReads = 0
        var damagedLooks = 0
        var writers = 0
        var creations = 0
    }
    let state = Mutex(State())
    let description = "faulty"
    let tellsChecksum: Bool
    init(tellsChecksum: Bool) { self.tellsChecksum = tellsChecksum }

    func mark(_ bytes: [UInt8]) -> Fingerprint {
        var mark = Fingerprint(bytes)
        mark.writer = state.withLock { state in
            state.writers += 1
            return "writer \(state.writers)"
        }
        return mark
    }

    func create(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Creation {
        try state.withLock { state in
            guard key != WriteOnce<FaultyService>.probe else { return .exists }
            state.creations += 1
            guard state.bytes == nil else { return .exists }
            state.version += 1
            state.writer = mark.writer
            state.bytes = bytes
            guard state.losses > 0 else { return .created(nil) }
            state.losses -= 1
            state.bytes?[0] ^= 0x55
            if state.fails { throw ArchiveError(.storeUnavailable, "The service is away.", remedy: "Wait.") }
            return .exists
        }
    }

    func look(at key: ObjectKey) async throws -> StoredState? {
        state.withLock { state in
            guard key != WriteOnce<FaultyService>.probe else { return StoredState(size: 1) }
            let damage: UInt32 = state.damagedLooks > 0 ? 1 : 0
            state.damagedLooks -= Int(damage)
            return state.bytes.map {
                StoredState(
                    size: UInt64($0.count), crc32c: tellsChecksum ? Fingerprint($0).crc32c ^ damage : nil, version: "\(state.version)", writer: state.writer)
            }
        }
    }

    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        try state.withLock { state in
            guard var bytes = state.bytes else { throw ArchiveError.objectMissing(key, in: description) }
            if state.damagedReads > 0 {
                state.damagedReads -= 1
                bytes[0] ^= 0x55
            }
            return bytes
        }
    }

    func remove(_ key: ObjectKey, version: String) async throws { state.withLock { if "\($0.version)" == version { $0.bytes = nil } } }
}

@Suite("Writing once over a line that damages and loses")
struct WriteOnceTests {
    private let key = ObjectKey(known: "log/x")
    private let bytes: [UInt8] = Array("what is written".utf8)

    @Test("what arrived damaged while its answer was lost is our own, and is written again", arguments: [true, false])
    func ours(_ tellsChecksum: Bool) async throws {
        let service = FaultyService(tellsChecksum: tellsChecksum)
        service.state.withLock { $0.losses = 2 }
        try await WriteOnce(service) { _ in }.put(bytes, at: key)
        #expect(service.state.withLock { $0.bytes } == bytes)
        #expect(service.state.withLock { $0.creations } == 3)
    }

    @Test("also when the service was away before that could be seen", arguments: [true, false])
    func later(_ tellsChecksum: Bool) async throws {
        let service = FaultyService(tellsChecksum: tellsChecksum)
        let writer = WriteOnce(service) { _ in }
        service.state.withLock { ($0.losses, $0.fails) = (1, true) }
        #expect(await #expect(throws: ArchiveError.self) { try await writer.put(bytes, at: key) }?.code == .storeUnavailable)
        #expect(service.state.withLock { $0.bytes } != bytes)
        try await writer.put(bytes, at: key)
        #expect(service.state.withLock { $0.bytes } == bytes)
        // From then on it is somebody's, ours too.
        #expect(await #expect(throws: ArchiveError.self) { try await writer.put(bytes + [0], at: key) }?.code == .objectExists)
        #expect(service.state.withLock { $0.bytes } == bytes)
    }

    @Test("another's object stays, whatever its size", arguments: [Array("what was written".utf8), Array("what is wr1tten".utf8)], [true, false])
    func others(_ present: [UInt8], _ tellsChecksum: Bool) async throws {
        let service = FaultyService(tellsChecksum: tellsChecksum)
        service.state.withLock { ($0.bytes, $0.writer) = (present, "somebody") }
        #expect(await #expect(throws: ArchiveError.self) { try await WriteOnce(service) { _ in }.put(bytes, at: key) }?.code == .objectExists)
        #expect(service.state.withLock { $0.bytes } == present)
    }

    @Test("a reading or a checksum that was damaged on its way makes no stranger of the same bytes", arguments: [true, false])
    func reading(_ tellsChecksum: Bool) async throws {
        let service = FaultyService(tellsChecksum: tellsChecksum)
        service.state.withLock { ($0.bytes, $0.writer, $0.damagedReads, $0.damagedLooks) = (bytes, "somebody", 1, 1) }
        try await WriteOnce(service) { _ in }.put(bytes, at: key)
        #expect(service.state.withLock { $0.bytes } == bytes)
    }
}
