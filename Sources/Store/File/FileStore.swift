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
            var found: [ObjectInfo] = []
            var last = key
            // What is removed between the reading of a folder and the look at the file is not there: the page is filled up behind it.
            while found.count < limit {
                let wanted = limit - found.count
                let keys = try self.keysNow(prefix: prefix, after: last, limit: wanted)
                for key in keys {
                    guard let status = try Files.status("\(self.root)/\(key.path)") else { continue }
                    found.append(ObjectInfo(key: key, size: UInt64(status.st_size)))
                }
                guard keys.count == wanted else { break }
                last = keys.last?.path
            }
            return found
        }
    }

    public func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey] {
        try await blocking { try self.keysNow(prefix: prefix, after: key, limit: limit) }
    }

    public func folders(below prefix: String) async throws -> [String] {
        try await blocking {
            let path = "\(self.root)/\(prefix.dropLast())"
            guard Files.exists(path) else { return [] }
            var names: [String] = []
            try Files.forEachEntry(in: path) { name, kind in
                if kind == .folder { names.append(String(decoding: name, as: UTF8.self)) }
                return true
            }
            // A folder that lost its last object does not count.
            return try names.filter { name in
                var isEmpty = true
                try Files.forEachEntry(in: "\(path)/\(name)") { _, _ in
                    isEmpty = false
                    return false
                }
                return !isEmpty
            }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
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
        try checkPresence()
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
        try giveToOwner(temporary)
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
        let (isKnown, hasRoot) = state.withLock { ($0.folders.contains(path), $0.folders.contains(root)) }
        if isKnown, Files.exists(path) { return }
        // A directory that was there and is gone was moved, or its file system is not mounted any more.
        guard !hasRoot || Files.exists(root) else {
            throw ArchiveError(.storeUnavailable, "The directory '\(root)' is gone.", remedy: "See whether its file system is mounted.")
        }
        var made: [String] = []
        var missing = path
        while missing != root, missing.hasPrefix(root), !Files.exists(missing) {
            made.append(missing)
            missing = Files.parent(of: missing)
        }
        try Files.makeDirectory(path)
        for folder in made { try giveToOwner(folder) }
        state.withLock { $0.folders.formUnion([path, root]) }
    }

    /// What root writes, as in a restore, belongs to whom the archive belongs: its agent has to read and remove it.
    private func giveToOwner(_ path: String) throws {
        guard geteuid() == 0, let owner = try Files.status(root), owner.st_uid != 0 else { return }
        guard lchown(path, owner.st_uid, owner.st_gid) == 0 else { throw ArchiveError.system("change the owner of", path) }
    }

    /// The folder that this process holds there is gone only when everything else may be gone too.
    ///
    /// - Throws: `.storeUnavailable`.
    private func checkPresence() throws {
        guard let aside = state.withLock({ $0.aside }), !Files.exists(aside.path), Files.exists(root) else { return }
        throw ArchiveError(
            .storeUnavailable, "The directory '\(root)' was emptied, or what was mounted there is not any more.",
            remedy: "Mount its file system again. If it was emptied on purpose, start this tidemark again.")
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
            try giveToOwner(path)
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

    private func keysNow(prefix: String, after: String?, limit: Int) throws -> [ObjectKey] {
        // Nothing above the prefix's last folder is worth a look.
        let folder = prefix.lastIndex(of: "/").map { String(prefix[...$0]) } ?? ""
        guard limit > 0, try Files.status("\(root)/\(folder)").map({ $0.st_mode & S_IFMT == S_IFDIR }) ?? false else { return [] }
        var found: [ObjectKey] = []
        try walk(folder, Array(prefix.utf8.dropFirst(folder.utf8.count)), after: after.map { Array($0.utf8) }, limit: limit, into: &found)
        return found
    }

    /// Keys in byte order: a folder sorts as if its name ended in `/`.
    ///
    /// - Parameters:
    ///   - folder: empty, or a path that ends in `/`.
    ///   - start: what the names in it begin with.
    private func walk(_ folder: String, _ start: [UInt8], after: [UInt8]?, limit: Int, into found: inout [ObjectKey]) throws {
        var rest: ArraySlice<UInt8> = []
        if let after {
            if after.starts(with: folder.utf8) { rest = after.dropFirst(folder.utf8.count) } else if folder.utf8.lexicographicallyPrecedes(after) { return }
        }
        var names: [[UInt8]] = []
        try Files.forEachEntry(in: "\(root)/\(folder)") { name, kind in
            guard kind != .other, name.starts(with: start), !(folder.isEmpty && name == Self.aside) else { return true }
            let name = kind == .folder ? name + [Self.slash] : name
            // A folder that `after` lies in may hold what comes behind it.
            if precedes(rest, name[...]) || kind == .folder && rest.starts(with: name) { names.append(name) }
            return true
        }
        names.sort { precedes($0[...], $1[...]) }
        for name in names {
            guard found.count < limit else { return }
            let key = folder + String(decoding: name, as: UTF8.self)
            if name.last == Self.slash {
                try walk(key, [], after: after, limit: limit, into: &found)
            } else if let object = ObjectKey(key) {
                found.append(object)
            }
        }
    }

    private static let slash = UInt8(ascii: "/")
    private static let aside = Array(".tmp".utf8)
}

/// Whether `a` comes before `b` in byte order. Calls `memcmp`.
private func precedes(_ a: ArraySlice<UInt8>, _ b: ArraySlice<UInt8>) -> Bool {
    let shared = min(a.count, b.count)
    guard shared > 0 else { return a.count < b.count }
    let order = a.withUnsafeBytes { a in b.withUnsafeBytes { b in memcmp(a.baseAddress!, b.baseAddress!, shared) } }
    return order == 0 ? a.count < b.count : order < 0
}
