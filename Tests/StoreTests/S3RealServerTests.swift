import ArchiveCore
import Testing

@testable import Store

@Suite("S3, by a real server")
struct S3RealServerTests {
    @Test("reads a large object in pieces, and what lies within it")
    func pieces() async throws {
        let store = try await S3Server.shared().store()
        let size = Int(S3Objects.pieceSize) * 2 + 54_321
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            for i in 0..<size { buffer[i] = UInt8(truncatingIfNeeded: (i &* 2_654_435_761) >> 13) }
            count = size
        }
        let key = ObjectKey(known: "base/part+1@x=y")
        try await store.put(bytes, at: key)
        #expect(try await store.get(key) == bytes)
        #expect(try await store.get(key, range: 16_000_000..<17_000_000) == Array(bytes[16_000_000..<17_000_000]))
    }

    @Test("removes many at once, some of which are gone, and nothing else")
    func removes() async throws {
        let store = try await S3Server.shared().store()
        let keys = (0..<20).map { ObjectKey(known: "k/\($0)+=@") }
        for key in keys { try await store.put([1], at: key) }
        try await store.remove(keys[3])
        try await store.remove(Array(keys[..<15]) + [ObjectKey(known: "never/there")])
        #expect(try await store.listAll(prefix: "").map(\.key) == keys[15...].sorted())
        #expect(store.deletesMany.withLock { $0 }, "the server knows DeleteObjects")
    }

    @Test("refuses a bucket that is not there, by name")
    func noBucket() async throws {
        let server = try await S3Server.shared()
        let store = try server.store(bucket: "not-there-" + String(UInt32.random(in: .min ... .max)))
        let error = await refusal { try await store.put([1], at: ObjectKey(known: "a")) }
        #expect(error.code == .storeRefused && error.message.contains("there is no bucket"))
        #expect(await refusal { try await store.listAll(prefix: "") }.message.contains("NoSuchBucket"))
    }

    @Test("finds foreign objects in its folder and passes them over")
    func foreign() async throws {
        let server = try await S3Server.shared()
        let folder = "t" + String(UInt64.random(in: .min ... .max), radix: 16)
        let store = try server.store(folder: folder)
        for name in ["a%20b", "%C3%A4/x", "z%25", "b/c"] {
            #expect(try await server.ask(.put, "/\(server.bucket)/\(folder)/\(name)", body: "x").status == 200)
        }
        #expect(try await store.listAll(prefix: "").map(\.key.path) == ["b/c"])
        #expect(try await store.list(prefix: "", after: nil, limit: 1).map(\.key.path) == ["b/c"])
        #expect(try await store.folders(below: "") == ["b"])
    }
}
