import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Store

/// Moves the files of a directory into a store or out of it, as the agent and a restore move objects, for `integration/bench store`.
/// Test support: no part of `tidemark`.
@main
struct StoreBench {
    static func main() async {
        returnFreedMemory()
        do {
            let words = CommandLine.arguments.dropFirst()
            guard words.count == 3, let url = words.dropFirst().first, let directory = words.last else {
                throw ArchiveError(.usage, "store-bench takes put or get, a URL and a directory.")
            }
            let store = try StoreLocation(url).open(
                StoreContext(
                    transport: { CurlTransport($0) }, environment: { getenv($0).map { String(cString: $0) } }, now: { now() },
                    warn: { Log("store").warning($0) }))
            let begun = ContinuousClock.now
            let moved = switch words.first {
            case "put": try await put(directory, into: store)
            case "get": try await get(store, into: directory)
            default: throw ArchiveError(.usage, "store-bench takes put or get.")
            }
            let taken = (ContinuousClock.now - begun).components
            var usage = rusage()
            getrusage(__rusage_who_t(0), &usage)  // RUSAGE_SELF
            print(
                "{\"objects\": \(moved.objects), \"bytes\": \(moved.bytes), \"seconds\": \(Double(taken.seconds) + Double(taken.attoseconds) / 1e18), \"peakKiB\": \(usage.ru_maxrss)}")
        } catch {
            let text = Array("error: \(error)\n".utf8)
            _ = write(2, text, text.count)
            exit(1)
        }
    }

    private static func put(_ directory: String, into store: any ObjectStore) async throws -> (objects: Int, bytes: Int) {
        var moved = (objects: 0, bytes: 0)
        let names = try await blocking { try Files.names(in: directory).sorted() }
        try await inOrder(names, width: store.parallelism) { name in
            guard let key = ObjectKey(name) else { throw ArchiveError(.usage, "'\(name)' is no name for an object.") }
            let bytes = try await blocking { try Files.read("\(directory)/\(name)", limit: ObjectKey.maximumSize) }
            try await store.put(bytes, at: key)
            return bytes.count
        } visit: { _, bytes in
            moved = (moved.objects + 1, moved.bytes + bytes)
            return true
        }
        return moved
    }

    private static func get(_ store: any ObjectStore, into directory: String) async throws -> (objects: Int, bytes: Int) {
        var moved = (objects: 0, bytes: 0)
        try await blocking { try Files.makeDirectory(directory) }
        let keys = try await store.listAll(prefix: "").map(\.key).filter { !$0.path.contains("/") }
        try await inOrder(keys, width: store.parallelism) { key in
            let bytes = try await store.get(key)
            try await blocking {
                let file = try Descriptor("\(directory)/\(key)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
                try file.write(bytes)
            }
            return bytes.count
        } visit: { _, bytes in
            moved = (moved.objects + 1, moved.bytes + bytes)
            return true
        }
        return moved
    }
}
