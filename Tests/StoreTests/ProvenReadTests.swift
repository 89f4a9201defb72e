import ArchiveCore
import Synchronization
import Testing

@testable import Store

/// A store of one object, whose reads are scripted.
private final class ScriptedReads: ObjectStore {
    private let answers: Mutex<[[UInt8]]>
    let notices = Mutex<[String]>([])
    let description = "scripted"

    init(_ answers: [[UInt8]]) { self.answers = Mutex(answers) }

    func put(_ bytes: [UInt8], at key: ObjectKey) throws { throw ArchiveError(.inputOutput, "This store is for reading.") }
    func get(_ key: ObjectKey, range: Range<UInt64>?) throws -> [UInt8] {
        try answers.withLock { answers in
            guard !answers.isEmpty else { throw ArchiveError.objectMissing(key, in: description) }
            return answers.removeFirst()
        }
    }
    func list(prefix: String, after key: String?, limit: Int) -> [ObjectInfo] { [] }
    func folders(below prefix: String) -> [String] { [] }
    func remove(_ key: ObjectKey) {}
    func notice(_ message: String) { notices.withLock { $0.append(message) } }
    var left: Int { answers.withLock { $0.count } }
}

@Suite("Reads that are proven")
struct ProvenReadTests {
    private let key = ObjectKey(known: "a")
    private func prove(_ bytes: [UInt8]) throws -> [UInt8] {
        guard bytes == [1, 2, 3] else { throw ArchiveError(.objectDamaged, "The object 'a' is damaged.") }
        return bytes
    }

    @Test("what is whole is read once")
    func whole() async throws {
        let store = ScriptedReads([[1, 2, 3], [9]])
        #expect(try await store.read(key, proving: prove) == [1, 2, 3])
        #expect(store.left == 1)
        #expect(store.notices.withLock { $0 } == [])
    }

    @Test("what was damaged on the way is read again, and told")
    func onTheWay() async throws {
        let store = ScriptedReads([[1, 2, 4], [1, 2, 3]])
        #expect(try await store.read(key, proving: prove) == [1, 2, 3])
        #expect(store.notices.withLock { $0.count } == 1)
        #expect(store.notices.withLock { $0.first?.contains("'a' arrived damaged from scripted") } == true)
    }

    @Test("what is damaged where it lies is refused", arguments: [[[1, 2, 4], [1, 2, 4]], [[1, 2, 4], [7]]] as [[[UInt8]]])
    func atRest(_ answers: [[UInt8]]) async throws {
        let store = ScriptedReads(answers)
        let error = await #expect(throws: ArchiveError.self) { try await store.read(key, proving: prove) }
        #expect(error?.code == .objectDamaged)
        #expect(store.notices.withLock { $0 } == [])
    }

    @Test("other failures are not repeated here")
    func missing() async throws {
        let store = ScriptedReads([])
        let error = await #expect(throws: ArchiveError.self) { try await store.read(key, proving: prove) }
        #expect(error?.code == .objectMissing)
    }
}
