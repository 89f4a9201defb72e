import ArchiveCore
import CSystem
import Glibc

extension ArchiveError {
    /// A failed system call. Call at once: it reads `errno`.
    public static func system(_ doing: String, _ path: String, errno code: Int32 = Glibc.errno) -> ArchiveError {
        var buffer = [CChar](repeating: 0, count: 256)
        let text = strerror_r(code, &buffer, buffer.count) == 0 ? String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self) : "error \(code)"
        let remedy: String? =
            switch code {
            case ENOSPC, EDQUOT: "Free space on that file system; nothing that was already stored is lost."
            case EACCES, EPERM: "Run as a user who may do this, or change the permissions."
            case EROFS: "Mount the file system for writing."
            case EMFILE, ENFILE: "Raise the limit of open files (ulimit -n)."
            default: nil
            }
        return ArchiveError(.inputOutput, "Could not \(doing) '\(path)': \(text).", remedy: remedy)
    }
}

/// An open file descriptor with one owner.
public struct Descriptor: ~Copyable, Sendable {
    public let raw: Int32
    private let path: String

    /// Opens `path`; `O_CLOEXEC` is added. Calls `open`.
    public init(_ path: String, _ flags: Int32, mode: mode_t = 0o600) throws(ArchiveError) {
        var result: Int32
        repeat { result = open(path, flags | O_CLOEXEC, mode) } while result < 0 && errno == EINTR
        guard result >= 0 else { throw .system("open", path) }
        raw = result
        self.path = path
    }

    deinit { close(raw) }

    public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64? = nil) throws(ArchiveError) {
        var done = 0
        while done < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[done...])
            let n =
                if let offset { pwrite(raw, rest.baseAddress, rest.count, off_t(offset) + off_t(done)) } else {
                    Glibc.write(raw, rest.baseAddress, rest.count)
                }
            if n < 0 {
                if errno == EINTR { continue }
                throw .system("write to", path)
            }
            done += n
        }
    }

    public func write(_ bytes: [UInt8], at offset: Int64? = nil) throws(ArchiveError) {
        do { try bytes.withUnsafeBytes { try write($0, at: offset) } } catch { throw error as! ArchiveError }
    }

    /// Up to `count` bytes from `offset`; fewer only at the end of the file. Calls `pread`.
    public func read(at offset: Int64, count: Int) throws(ArchiveError) -> [UInt8] {
        var failed: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let n = pread(raw, buffer.baseAddress! + filled, count - filled, off_t(offset) + off_t(filled))
                if n == 0 { return }
                if n < 0 {
                    if errno == EINTR { continue }
                    failed = errno
                    return
                }
                filled += n
            }
        }
        guard failed == 0 else { throw .system("read", path, errno: failed) }
        return bytes
    }

    /// Calls `fsync`; never repeated after a failure, since the kernel may have dropped the pages.
    public func sync() throws(ArchiveError) { if fsync(raw) != 0 { throw .system("flush", path) } }
    public func syncData() throws(ArchiveError) { if fdatasync(raw) != 0 { throw .system("flush", path) } }
    public func truncate(to size: Int64) throws(ArchiveError) { if ftruncate(raw, off_t(size)) != 0 { throw .system("truncate", path) } }

    public func status() throws(ArchiveError) -> stat {
        var s = stat()
        guard fstat(raw, &s) == 0 else { throw .system("examine", path) }
        return s
    }

    /// Takes an exclusive lock that ends with the descriptor or its process. Calls `flock`.
    ///
    /// - Returns: `false` when somebody else holds it.
    public func lock() throws(ArchiveError) -> Bool {
        while flock(raw, LOCK_EX | LOCK_NB) != 0 {
            if errno == EINTR { continue }
            if errno == EWOULDBLOCK { return false }
            throw .system("lock", path)
        }
        return true
    }
}

/// Files and folders by path. Everything that writes is durable when it returns.
public enum Files {
    public static func exists(_ path: String) -> Bool {
        var s = stat()
        return lstat(path, &s) == 0
    }

    /// - Returns: `nil` when there is nothing at `path`. Does not follow a last symbolic link.
    public static func status(_ path: String) throws(ArchiveError) -> stat? {
        var s = stat()
        if lstat(path, &s) == 0 { return s }
        guard errno == ENOENT || errno == ENOTDIR else { throw .system("examine", path) }
        return nil
    }

    /// The whole file. - Throws: `.inputOutput`, also when it is larger than `limit` bytes.
    public static func read(_ path: String, limit: Int = 1 << 31) throws(ArchiveError) -> [UInt8] {
        let file = try Descriptor(path, O_RDONLY)
        let size = try Int(file.status().st_size)
        guard size <= limit else {
            throw ArchiveError(.inputOutput, "'\(path)' has \(size) bytes; at most \(limit) are read.")
        }
        if size > 0 { return try file.read(at: 0, count: size) }
        return try file.read(at: 0, count: 1 << 16)  // files of /proc say 0
    }

    /// Names in a folder but `.` and `..`, in byte order. Calls `readdir`.
    public static func names(in path: String) throws(ArchiveError) -> [String] {
        try rawNames(in: path).map { String(decoding: $0, as: UTF8.self) }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// The same as bytes, unsorted, for names that need not be UTF-8.
    public static func rawNames(in path: String) throws(ArchiveError) -> [[UInt8]] {
        try rawNames(at: Array(path.utf8CString))
    }

    /// What a name in a folder stands for.
    public enum EntryKind: Sendable { case file, folder, other }

    /// What is in a folder but `.` and `..`, unsorted, with its kind: mostly without looking at each, since most file systems say it in
    /// the folder. What vanishes meanwhile is left out. Calls `readdir`, and `lstat` where the kind is not known.
    ///
    /// - Parameter body: called with each name; ends the reading by returning `false`.
    public static func forEachEntry(in path: String, _ body: ([UInt8], EntryKind) throws -> Bool) throws {
        guard let folder = opendir(path) else { throw ArchiveError.system("list", path) }
        defer { closedir(folder) }
        while true {
            errno = 0
            guard let entry = readdir(folder) else { break }
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: UInt8.self, capacity: 256) { Array(UnsafeBufferPointer(start: $0, count: strlen($0))) }
            }
            if name == [0x2E] || name == [0x2E, 0x2E] { continue }
            let kind: EntryKind
            switch Int(entry.pointee.d_type) {
            case Int(DT_REG): kind = .file
            case Int(DT_DIR): kind = .folder
            case Int(DT_UNKNOWN):
                guard let status = try status("\(path)/\(String(decoding: name, as: UTF8.self))") else { continue }
                kind = status.st_mode & S_IFMT == S_IFREG ? .file : status.st_mode & S_IFMT == S_IFDIR ? .folder : .other
            default: kind = .other
            }
            guard try body(name, kind) else { return }
        }
        guard errno == 0 else { throw ArchiveError.system("list", path) }
    }

    /// The same for a path that need not be UTF-8 either, ending in 0.
    public static func rawNames(at path: [CChar]) throws(ArchiveError) -> [[UInt8]] {
        guard let folder = opendir(path) else { throw .system("list", display(path)) }
        defer { closedir(folder) }
        var names: [[UInt8]] = []
        while true {
            errno = 0
            guard let entry = readdir(folder) else { break }
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: UInt8.self, capacity: 256) { Array(UnsafeBufferPointer(start: $0, count: strlen($0))) }
            }
            if name != [0x2E] && name != [0x2E, 0x2E] { names.append(name) }
        }
        guard errno == 0 else { throw .system("list", display(path)) }
        return names
    }

    private static func display(_ path: [CChar]) -> String {
        String(decoding: path.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func strlen(_ p: UnsafePointer<UInt8>) -> Int { Int(Glibc.strlen(UnsafeRawPointer(p).assumingMemoryBound(to: CChar.self))) }

    /// Creates a folder and its missing parents, each made durable.
    public static func makeDirectory(_ path: String, mode: mode_t = 0o700) throws(ArchiveError) {
        if mkdir(path, mode) == 0 { return try syncDirectory(parent(of: path)) }
        switch errno {
        case EEXIST:
            var s = stat()
            guard stat(path, &s) == 0, s.st_mode & S_IFMT == S_IFDIR else {
                throw ArchiveError(.inputOutput, "'\(path)' is there and is not a directory.")
            }
        case ENOENT where parent(of: path) != path:
            try makeDirectory(parent(of: path), mode: mode)
            try makeDirectory(path, mode: mode)
        default: throw .system("create the directory", path)
        }
    }

    public static func syncDirectory(_ path: String) throws(ArchiveError) {
        try Descriptor(path, O_RDONLY | O_DIRECTORY).sync()
    }

    /// Makes everything written to the file system that holds `path` durable. Calls `syncfs`.
    public static func syncFileSystem(of path: String) throws(ArchiveError) {
        let folder = try Descriptor(path, O_RDONLY | O_DIRECTORY)
        guard tidemark_syncfs(folder.raw) == 0 else { throw .system("flush the file system of", path) }
    }

    public static func rename(_ from: String, to: String) throws(ArchiveError) {
        guard Glibc.rename(from, to) == 0 else { throw .system("rename '\(from)' to", to) }
        try syncDirectory(parent(of: to))
    }

    /// Removes a file or a whole tree; nothing there is fine. Does not follow symbolic links.
    public static func removeTree(_ path: String) throws(ArchiveError) { try removeTree(at: Array(path.utf8CString)) }

    private static func removeTree(at path: [CChar]) throws(ArchiveError) {
        if unlink(path) == 0 || errno == ENOENT { return }
        guard errno == EISDIR || errno == EPERM else { throw .system("remove", display(path)) }
        for name in try rawNames(at: path) {
            try removeTree(at: Array(path[..<(path.count - 1)]) + [0x2F] + name.map(CChar.init(bitPattern:)) + [0])
        }
        guard rmdir(path) == 0 || errno == ENOENT else { throw .system("remove", display(path)) }
    }

    /// Writes a file aside, makes it durable and gives it its name. `replace: false` fails when the name is taken.
    public static func writeDurably(_ bytes: [UInt8], to path: String, mode: mode_t = 0o600) throws(ArchiveError) {
        let aside = "\(path).\(getpid()).\(UInt32.random(in: 0...UInt32.max)).tmp"
        do {
            let file = try Descriptor(aside, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
            try file.write(bytes)
            try file.sync()
        } catch {
            unlink(aside)
            throw error
        }
        do { try rename(aside, to: path) } catch {
            unlink(aside)
            throw error
        }
    }

    public static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
