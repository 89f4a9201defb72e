import ArchiveCore
import DurableIO
import Glibc
import Synchronization

/// Received WAL on our own disk: one raw file for each segment that the archive does not have yet.
///
/// Files that are no longer needed are kept, up to two, and used again, so that appending does not have to grow a file.
final class Spool: Sendable {
    let directory: String
    let segmentSize: UInt64
    private static let suffix = ".partial"
    private static let sparePrefix = "spare-"
    private let spares = Mutex<[String]>([])

    init(stateDirectory: String, segmentSize: UInt64) throws {
        directory = stateDirectory + "/spool"
        self.segmentSize = segmentSize
        try Files.makeDirectory(directory)
        for name in try Files.names(in: directory) where name.hasPrefix(Self.sparePrefix) {
            spares.withLock { $0.append(directory + "/" + name) }
        }
        for name in try segments() { try removeUnfinished(path(name)) }
    }

    /// Removes a file that was still being filled with zeros when its process was killed: nothing was received into it.
    private func removeUnfinished(_ path: String) throws {
        guard let size = try Files.status(path)?.st_size, size < off_t(segmentSize) else { return }
        let bytes = try Descriptor(path, O_RDONLY).read(at: 0, count: Int(size))
        if bytes.allSatisfy({ $0 == 0 }) { try Files.removeTree(path) }
    }

    func path(_ segment: String) -> String { "\(directory)/\(segment)\(Self.suffix)" }

    /// Names of the segments that have a file, in log order.
    func segments() throws -> [String] {
        try Files.names(in: directory).filter { $0.hasSuffix(Self.suffix) && $0.utf8.count == 24 + Self.suffix.utf8.count }
            .map { String($0.dropLast(Self.suffix.utf8.count)) }
    }

    /// Opens the file of a segment that begins to be received, durably named.
    func open(_ segment: String) throws -> SpoolFile {
        let path = path(segment)
        if !Files.exists(path) {
            // The older one: the newer may be wanted to read back what comes before.
            if let spare = spares.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) {
                try Files.rename(spare, to: path)
            } else {
                let file = try Descriptor(path, O_WRONLY | O_CREAT | O_EXCL)
                let zeros = [UInt8](repeating: 0, count: 1 << 18)
                var at: UInt64 = 0
                while at < segmentSize {
                    try file.write(zeros, at: Int64(at))
                    at += UInt64(zeros.count)
                }
                try Files.syncDirectory(directory)
            }
        }
        return SpoolFile(try Descriptor(path, O_WRONLY))
    }

    func read(_ segment: String) throws -> [UInt8] {
        let bytes = try Descriptor(path(segment), O_RDONLY).read(at: 0, count: Int(segmentSize))
        guard bytes.count == segmentSize else {
            throw ArchiveError(
                .logDamaged, "The spooled segment '\(path(segment))' has \(bytes.count) bytes instead of \(segmentSize).",
                remedy: "Remove it; it is asked from the server again, if that still has it.")
        }
        return bytes
    }

    /// The content of a segment that the archive has, as long as its file was not used again; `nil` afterwards.
    func readDiscarded(_ segment: String) throws -> [UInt8]? {
        let spare = "\(directory)/\(Self.sparePrefix)\(segment)"
        guard try Files.status(spare)?.st_size == off_t(segmentSize) else { return nil }
        return try Descriptor(spare, O_RDONLY).read(at: 0, count: Int(segmentSize))
    }

    /// Lets go of a segment that the archive has.
    func discard(_ segment: String) throws {
        let path = path(segment)
        guard Files.exists(path) else { return }
        let spare = "\(directory)/\(Self.sparePrefix)\(segment)"
        guard try Files.status(path)?.st_size == off_t(segmentSize), spares.withLock({ $0.count < 2 }) else {
            return try Files.removeTree(path)
        }
        guard rename(path, spare) == 0 else { throw ArchiveError.system("rename '\(path)' to", spare) }
        spares.withLock { $0.append(spare) }
    }
}

/// An open file of the spool; shared by the thread that writes and the one that makes it durable.
final class SpoolFile: Sendable {
    private let descriptor: Descriptor
    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws { try descriptor.write(bytes, at: offset) }
    func syncData() throws { try descriptor.syncData() }
}
