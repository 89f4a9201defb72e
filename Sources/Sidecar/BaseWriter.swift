import ArchiveCore
import Digests
import Catalog
import Pack
import Runtime
import Source
import Synchronization

/// Makes one tar of what a source gives, cuts it into parts, and stores the parts while the source goes on.
///
/// The source calls from a thread of its own; `drain` runs the workers.
final class BaseWriter: TreeSink, Sendable {
    /// Bytes of tar in a part, before compression.
    static let partSize = 16 << 20
    /// Parts in work at a time; each holds its tar and its object, 32 MiB, while it is compressed, and its object while it is stored.
    private var workers: Int { min(3, catalog.store.parallelism) }

    private struct RawPart: Sendable {
        var number: Int
        var offset: UInt64
        var bytes: [UInt8]
    }
    private struct State {
        var buffer: [UInt8] = []
        /// Where the next byte goes in the tar.
        var offset: UInt64 = 0
        var entries: [TreeEntry] = []
        /// Bytes that the file being written still lacks, and its size.
        var missing: UInt64 = 0
        var size: UInt64 = 0
        var parts = 0
        var content: UInt64 = 0
        var failure: (any Error)?
    }

    private let state = Mutex(State())
    private let queue = BoundedQueue<RawPart>(limit: 1)
    private let catalog: Catalog
    private let incarnation: IncarnationRecord
    private let id: String
    private let report: @Sendable (UInt64, UInt64?) -> Void

    init(
        catalog: Catalog, incarnation: IncarnationRecord, id: String, report: @escaping @Sendable (UInt64, UInt64?) -> Void
    ) {
        self.catalog = catalog
        self.incarnation = incarnation
        self.id = id
        self.report = report
    }

    // MARK: From the source

    func directory(_ entry: TreeEntry) throws { try add(entry) }
    func symlink(_ entry: TreeEntry) throws { try add(entry) }
    func file(_ entry: TreeEntry) throws { try add(entry) }

    private func add(_ entry: TreeEntry) throws {
        try endFile()
        let header = TarWriter.header(entry)
        try append(header)
        state.withLock { state in
            var entry = entry
            entry.offset = state.offset
            state.entries.append(entry)
            if entry.kind == .file {
                state.missing = entry.size
                state.size = entry.size
                state.content += entry.size
            }
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer) throws {
        let missing = state.withLock { $0.missing }
        let taken = min(UInt64(bytes.count), missing)
        try append(UnsafeRawBufferPointer(rebasing: bytes[..<Int(taken)]))
        state.withLock { $0.missing -= taken }
    }

    func discard(under path: [UInt8]) throws {
        try endFile()
        state.withLock { state in
            state.entries.removeAll { entry in
                entry.path.count > path.count && entry.path.starts(with: path) && entry.path[path.count] == UInt8(ascii: "/")
                    || entry.path == path
            }
        }
    }

    func progress(bytes: UInt64, of total: UInt64?) { report(bytes, total) }

    /// Fills what a file that shrank lacks, and its last block.
    private func endFile() throws {
        let (missing, size) = state.withLock { ($0.missing, $0.size) }
        var rest = missing
        let zeros = [UInt8](repeating: 0, count: Int(min(rest, 1 << 20)))
        while rest > 0 {
            let n = min(rest, UInt64(zeros.count))
            try append(zeros[..<Int(n)])
            rest -= n
        }
        state.withLock {
            $0.missing = 0
            $0.size = 0
        }
        try append(TarWriter.padding(after: size))
    }

    private func append(_ bytes: some Collection<UInt8>) throws {
        if try bytes.withContiguousStorageIfAvailable({ try append(UnsafeRawBufferPointer($0)) }) == nil {
            try Array(bytes).withUnsafeBytes { try append($0) }
        }
    }

    private func append(_ bytes: UnsafeRawBufferPointer) throws {
        var done = 0
        while done < bytes.count {
            let full: RawPart? = state.withLock { state in
                if state.buffer.capacity < Self.partSize { state.buffer.reserveCapacity(Self.partSize) }
                let n = min(bytes.count - done, Self.partSize - state.buffer.count)
                state.buffer.append(contentsOf: bytes[done..<done + n])
                state.offset += UInt64(n)
                done += n
                return state.buffer.count == Self.partSize ? Self.cut(&state) : nil
            }
            if let full { try hand(full) }
        }
    }

    private static func cut(_ state: inout State) -> RawPart {
        state.parts += 1
        let part = RawPart(number: state.parts, offset: state.offset - UInt64(state.buffer.count), bytes: state.buffer)
        state.buffer = []
        return part
    }

    private func hand(_ part: RawPart) throws {
        guard queue.give(part) else {
            throw state.withLock { $0.failure } ?? ArchiveError(.interrupted, "The base backup was interrupted.")
        }
    }

    /// Ends the tar. Blocks like the others.
    func finish() throws {
        try endFile()
        try append(TarWriter.end)
        let last = state.withLock { $0.buffer.isEmpty ? nil : Self.cut(&$0) }
        if let last { try hand(last) }
        queue.finish()
    }

    /// Lets the source's thread and the workers go.
    func fail(_ error: any Error) {
        state.withLock { if $0.failure == nil { $0.failure = error } }
        queue.finish(error)
    }

    var result: (entries: [TreeEntry], content: UInt64) { state.withLock { ($0.entries, $0.content) } }

    // MARK: To the store

    /// Compresses and stores parts until `finish`.
    func drain() async throws -> [BaseRecord.Part] {
        do {
            return try await withThrowingTaskGroup(of: [BaseRecord.Part].self) { group in
                for _ in 0..<workers { group.addTask { try await self.work() } }
                var parts: [BaseRecord.Part] = []
                while let some = try await group.next() { parts += some }
                return parts.sorted { $0.offset < $1.offset }
            }
        } catch {
            fail(error)
            throw error
        }
    }

    private func work() async throws -> [BaseRecord.Part] {
        var parts: [BaseRecord.Part] = []
        do {
            while var raw = try await queue.receive() {
                try Task.checkCancellation()
                let digits = String(raw.number)
                let length = UInt64(raw.bytes.count)
                let (object, suffix, digest) = try await blocking { [catalog, bytes = raw.bytes] in
                    let (object, suffix) = try catalog.pack(part: bytes)
                    return (object, suffix, hexText(SHA256.of(object)))
                }
                raw.bytes = []
                let name = "part-\(String(repeating: "0", count: max(0, 6 - digits.count)))\(digits)\(suffix)"
                try await catalog.store.put(object, at: catalog.baseKey(name, base: id, of: incarnation))
                parts.append(
                    .init(
                        name: name, offset: raw.offset, length: length, storedLength: UInt64(object.count),
                        sha256: digest))
            }
        } catch {
            fail(error)
            throw error
        }
        return parts
    }
}
