import ArchiveCore
import DurableIO
import Glibc

/// A directory of restored repositories. Paths come from a database and from alternates: none is believed, no symbolic link is followed.
struct RestoredStorage: Sendable {
    let root: String

    enum Place: Sendable, Hashable {
        case repository(String)
        case missing
        /// Why the path is not looked at.
        case hostile(String)
    }

    /// - Parameter path: below the storage.
    func locate(_ path: String) throws -> Place {
        if let reason = Self.fault(in: path) { return .hostile(reason) }
        var at = root
        for part in path.split(separator: "/") {
            at += "/\(part)"
            guard let status = try Files.status(at) else { return .missing }
            switch status.st_mode & S_IFMT {
            case S_IFDIR: continue
            case S_IFLNK: return .hostile("'\(at.dropFirst(root.count + 1))' is a symbolic link")
            default: return .missing
            }
        }
        return try isRepository(at) ? .repository(at) : .missing
    }

    /// Why `path` cannot be one below a storage; `nil`: it can.
    static func fault(in path: String) -> String? {
        let bytes = Array(path.utf8)
        if bytes.isEmpty { return "the path is empty" }
        if bytes.count > 1024 { return "the path is \(bytes.count) bytes long" }
        if bytes.contains(where: { $0 < 0x20 || $0 == 0x7F }) { return "the path has control characters" }
        if bytes[0] == 0x2F { return "the path is absolute" }
        if bytes.split(separator: 0x2F).contains(where: { $0.count > 255 }) { return "a part of the path is longer than 255 bytes" }
        return isSafeRelativePath(bytes) ? nil : "the path would leave the storage"
    }

    private func isRepository(_ path: String) throws -> Bool {
        for (name, kind) in [("objects", S_IFDIR), ("refs", S_IFDIR), ("HEAD", S_IFREG)] {
            guard let status = try Files.status("\(path)/\(name)"), status.st_mode & S_IFMT == kind else { return false }
        }
        return true
    }

    // MARK: Alternates

    /// The object directories that a repository borrows from, by their paths below the storage, the nested ones too; and the first
    /// fault: one that leads out of the storage, through a symbolic link, or nowhere.
    func alternates(of repository: String, depth: Int = 0) throws -> (found: [String], fault: String?) {
        let file = "\(repository)/objects/info/alternates"
        guard let status = try Files.status(file) else { return ([], nil) }
        guard status.st_mode & S_IFMT == S_IFREG else { return ([], "its list of alternates is not a file") }
        guard depth < 5 else { return ([], "its alternates are nested more than five deep") }
        var result: (found: [String], fault: String?) = ([], nil)
        for line in String(decoding: try Files.read(file, limit: 1 << 20), as: UTF8.self).split(separator: "\n") where !line.hasPrefix("#") {
            let text = String(line)
            guard !text.hasPrefix("/"), let path = Self.resolve("\(repository.dropFirst(root.count + 1))/objects", text) else {
                result.fault = result.fault ?? "its alternate '\(text)' leads out of the restored storage"
                continue
            }
            guard path.hasSuffix("/objects"), case .repository(let owner) = try locate(String(path.dropLast("/objects".count))) else {
                result.fault = result.fault ?? "its alternate '\(text)' is missing: there is no repository at '\(path)'"
                continue
            }
            result.found.append(path)
            let nested = try alternates(of: owner, depth: depth + 1)
            result.found += nested.found
            result.fault = result.fault ?? nested.fault
        }
        return result
    }

    /// `relative` seen from `base`, both below the storage; `nil` when it leaves it.
    private static func resolve(_ base: String, _ relative: String) -> String? {
        var parts = base.split(separator: "/").map(String.init)
        for part in relative.split(separator: "/", omittingEmptySubsequences: true) {
            switch part {
            case ".": continue
            case "..":
                if parts.isEmpty { return nil }
                parts.removeLast()
            default: parts.append(String(part))
            }
        }
        let path = parts.joined(separator: "/")
        return fault(in: path) == nil ? path : nil
    }

    // MARK: All repositories

    /// Gives the path of every repository below the storage to `body`, in no particular order.
    func forEachRepository(_ body: (String) throws -> Void) throws { try walk("", body) }

    private func walk(_ path: String, _ body: (String) throws -> Void) throws {
        let full = path.isEmpty ? root : "\(root)/\(path)"
        if !path.isEmpty, try isRepository(full) { return try body(path) }
        for name in try Files.names(in: full) {
            let child = path.isEmpty ? name : "\(path)/\(name)"
            // Gitaly's own things.
            if child == "+gitaly" { continue }
            if let status = try Files.status("\(root)/\(child)"), status.st_mode & S_IFMT == S_IFDIR { try walk(child, body) }
        }
    }

    // MARK: Quarantine

    var quarantine: String { root + ".quarantine" }

    /// Moves a repository out of the storage, beside it, on the same file system.
    ///
    /// - Returns: where it lies now.
    /// - Throws: `.targetNotEmpty` when something is there already; nothing is ever overwritten.
    func moveAside(_ path: String) throws -> String {
        guard case .repository(let full) = try locate(path) else { throw ArchiveError(.inputOutput, "'\(path)' is no repository any more.") }
        let place = "\(quarantine)/\(path)"
        guard !Files.exists(place) else {
            throw ArchiveError(.targetNotEmpty, "'\(place)' is there already.", remedy: "Move it elsewhere and try again; nothing was overwritten.")
        }
        let owner = try Files.status(root)
        var made: [String] = []
        var parent = Files.parent(of: place)
        while !Files.exists(parent) {
            made.append(parent)
            parent = Files.parent(of: parent)
        }
        for directory in made.reversed() {
            try Files.makeDirectory(directory)
            if geteuid() == 0, let owner, lchown(directory, owner.st_uid, owner.st_gid) != 0 { throw ArchiveError.system("give its owner to", directory) }
        }
        try Files.rename(full, to: place)
        try Files.syncDirectory(Files.parent(of: full))
        return place
    }
}
