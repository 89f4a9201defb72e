import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Synchronization

/// An archive in a directory: one file for each object.
///
/// An object is written aside below `.tmp`, flushed, and linked to its name, which fails when the name is taken; then the folder
/// is flushed. A process keeps its unfinished files in a folder of its own that it holds locked, so that whoever comes next can
/// tell what a dead process left and remove it.
public final class FileStore: ObjectStore {
    private struct State {
        /// Folders known to exist durably.
        var folders: Set<String> = []
        var aside: Aside?
        var counter: UInt64 = 0
    }
    private final class Aside: Sendable {
        let path: String
        let lock: LockedFolder
        init(path: String, lock: LockedFolder) {
            self.path = path
            self.lock = lock
        }
    }
    private final class LockedFolder: Sendable {
        let descriptor: Descriptor
        init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    }

    private let root: String
    private let state = Mutex(State())

    public init(path: String) { root = path }

    deinit { state.withLock { if let aside = $0.aside { rmdir(aside.path) } } }

    public var description: String { "file://\(root)" }

    public func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        try await blocking { try self.putNow(bytes, at: key) }
    }

    public func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        try await blocking { try self.getNow(key, range: range) }
    }

    public func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        try await blocking {
            guard limit > 0, Files.exists(self.root) else { return [] }
            var found: [ObjectInfo] = []
            try self.walk("", prefix: prefix, after: key, limit: limit, into: &found)
            return found
        }
    }

    public func folders(below prefix: String) async throws -> [String] {
        try await blocking {
            let path = "\(self.root)/\(prefix.dropLast())"
            guard Files.exists(path) else { return [] }
            // A folder that lost its last object does not count.
            return try Files.names(in: path).filter { name in
                guard let status = try Files.status("\(path)/\(name)"), status.st_mode & S_IFMT == S_IFDIR else { return false }
                return try !Files.rawNames(in: "\(path)/\(name)").isEmpty
            }
        }
    }

    public func remove(_ key: ObjectKey) async throws {
        try await blocking {
            let path = "\(self.root)/\(key.path)"
            guard unlink(path) == 0 || errno == ENOENT || errno == ENOTDIR else { throw ArchiveError.system("remove", path) }
        }
    }

    private func putNow(_ bytes: [UInt8], at key: ObjectKey) throws {
        precondition(bytes.count <= ObjectKey.maximumSize)
        let path = "\(root)/\(key.path)"
        if try same(bytes, at: path, key: key) { return }
        try ensureFolder(Files.parent(of: path))
        let aside = try asideFolder()
        let number = state.withLock { state in
            state.counter += 1
            return state.counter
        }
        let temporary = "\(aside.path)/\(number)"
        defer { unlink(temporary) }
        let file = try Descriptor(temporary, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        try file.write(bytes)
        try file.sync()
        while link(temporary, path) != 0 {
            guard errno == EEXIST else { throw ArchiveError.system("store the object", path) }
            if try same(bytes, at: path, key: key) { return }
        }
        try Files.syncDirectory(Files.parent(of: path))
    }

    /// Whether the very bytes lie there already. - Throws: `.objectExists` when others do.
    private func same(_ bytes: [UInt8], at path: String, key: ObjectKey) throws -> Bool {
        guard let status = try Files.status(path) else { return false }
        guard status.st_mode & S_IFMT == S_IFREG, Int(status.st_size) == bytes.count, try Files.read(path, limit: bytes.count) == bytes
        else { throw ArchiveError.objectExists(key, in: description) }
        // Somebody else's copy may not have been flushed yet.
        try Descriptor(path, O_RDONLY).sync()
        try Files.syncDirectory(Files.parent(of: path))
        return true
    }

    private func getNow(_ key: ObjectKey, range: Range<UInt64>?) throws -> [UInt8] {
        let path = "\(root)/\(key.path)"
        guard Files.exists(path) else { throw ArchiveError.objectMissing(key, in: description) }
        let file = try Descriptor(path, O_RDONLY)
        let size = try UInt64(file.status().st_size)
        let wanted = range ?? 0..<size
        guard wanted.upperBound <= size else { throw ArchiveError.objectShort(key, wanted, size: size) }
        let bytes = try file.read(at: Int64(wanted.lowerBound), count: wanted.count)
        guard bytes.count == wanted.count else { throw ArchiveError.objectShort(key, wanted, size: UInt64(bytes.count)) }
        return bytes
    }

    private func ensureFolder(_ path: String) throws {
        if state.withLock({ $0.folders.contains(path) }), Files.exists(path) { return }
        try Files.makeDirectory(path)
        state.withLock { _ = $0.folders.insert(path) }
    }

    private func asideFolder() throws -> Aside {
        if let aside = state.withLock({ $0.aside }) { return aside }
        try ensureFolder("\(root)/.tmp")
        try removeAbandoned()
        let made = try lockedFolder()
        let first = state.withLock { state in
            if state.aside == nil { state.aside = made }
            return state.aside
        }
        if let first, first !== made { rmdir(made.path) }
        return first ?? made
    }

    /// Makes a folder of our own. Between its making and its locking another process may take it for abandoned and remove it: then
    /// another one is made.
    private func lockedFolder() throws -> Aside {
        for _ in 0..<100 {
            let path = "\(root)/.tmp/\(hex(UInt64.random(in: .min ... .max), 16))"
            guard mkdir(path, 0o700) == 0 else { throw ArchiveError.system("create the directory", path) }
            let descriptor: Descriptor
            do throws(ArchiveError) { descriptor = try Descriptor(path, O_RDONLY | O_DIRECTORY) } catch {
                if !Files.exists(path) { continue }
                throw error
            }
            guard try descriptor.lock(), Files.exists(path) else { continue }
            return Aside(path: path, lock: LockedFolder(descriptor))
        }
        throw ArchiveError(.inputOutput, "No folder for unfinished objects could be kept in '\(root)/.tmp'.")
    }

    /// Removes what processes that are gone left half written.
    private func removeAbandoned() throws {
        for name in try Files.names(in: "\(root)/.tmp") {
            let path = "\(root)/.tmp/\(name)"
            let descriptor: Descriptor
            do throws(ArchiveError) { descriptor = try Descriptor(path, O_RDONLY) } catch {
                if !Files.exists(path) { continue }
                throw error
            }
            // Locked until it is gone, so that its maker cannot lock it in between.
            if try descriptor.lock() { try Files.removeTree(path) }
            withExtendedLifetime(descriptor.raw) {}
        }
    }

    /// Objects in byte order of their whole keys: a folder sorts as if its name ended in `/`.
    private func walk(_ folder: String, prefix: String, after: String?, limit: Int, into found: inout [ObjectInfo]) throws {
        let path = folder.isEmpty ? root : "\(root)/\(folder)"
        var names: [(name: String, isFolder: Bool, size: UInt64)] = []
        for raw in try Files.rawNames(in: path) {
            let name = String(decoding: raw, as: UTF8.self)
            if folder.isEmpty && name == ".tmp" { continue }
            let key = folder.isEmpty ? name : "\(folder)/\(name)"
            // Neither below the prefix nor above it: not worth a look.
            guard key.hasPrefix(prefix) || prefix.hasPrefix(key + "/") else { continue }
            guard let status = try Files.status("\(root)/\(key)") else { continue }
            switch status.st_mode & S_IFMT {
            case S_IFDIR: names.append((name + "/", true, 0))
            case S_IFREG: names.append((name, false, UInt64(status.st_size)))
            default: continue
            }
        }
        names.sort { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        for entry in names {
            guard found.count < limit else { return }
            let key = folder.isEmpty ? entry.name : "\(folder)/\(entry.name)"
            if entry.isFolder {
                // Everything in the folder comes before or at `after`.
                if let after, !after.hasPrefix(key), key.utf8.lexicographicallyPrecedes(after.utf8) { continue }
                try walk(String(key.dropLast()), prefix: prefix, after: after, limit: limit, into: &found)
            } else {
                if let after, !after.utf8.lexicographicallyPrecedes(key.utf8) { continue }
                guard key.hasPrefix(prefix), let object = ObjectKey(key) else { continue }
                found.append(ObjectInfo(key: object, size: entry.size))
            }
        }
    }
}
