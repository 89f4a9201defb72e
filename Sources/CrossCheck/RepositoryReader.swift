import ArchiveCore
import DurableIO
import Glibc

/// Reads one restored repository: with libgit2, and with Git where that does not suffice. Used by one thread at a time.
final class RepositoryReader {
    private enum Objects { case library(ObjectDatabase), program }
    private enum References { case library(ReferenceDatabase), program }

    private let path: String
    private let program: GitProgram
    private let objects: Objects
    private let format: Format
    private var references: References?

    /// What the repository's own configuration says about it.
    struct Format: Hashable {
        var isSHA256 = false
        var isReftable = false
    }

    /// - Parameter path: the repository's directory, not below a symbolic link.
    /// - Throws: `.inputOutput`: why it cannot be read, in words that follow its name.
    init(_ path: String, in storage: RestoredStorage) throws {
        self.path = path
        program = GitProgram(repository: path)
        format = try Self.format(of: path)
        if let fault = try storage.alternates(of: path).fault { throw ArchiveError(.inputOutput, fault) }
        if format.isSHA256 { objects = .program } else {
            do { objects = .library(try ObjectDatabase(objects: path + "/objects")) } catch { objects = .program }
        }
    }

    /// Digits of an id.
    var idLength: Int { format.isSHA256 ? 64 : 40 }

    /// - Throws: `.inputOutput` when neither libgit2 nor Git can read the repository.
    func states(of ids: [String]) throws -> [ObjectState] {
        switch objects {
        case .library(let database): return ids.map { database.state(of: $0) }
        case .program: return try program.states(of: ids)
        }
    }

    func state(of reference: String, id: String) -> ReferenceState {
        let references: References
        if let known = self.references { references = known } else {
            references = open()
            self.references = references
        }
        switch references {
        case .library(let database): return database.state(of: reference, id: id)
        case .program: return program.state(of: reference, id: id)
        }
    }

    private func open() -> References {
        if format.isSHA256 || format.isReftable { return .program }
        do { return .library(try ReferenceDatabase(repository: path)) } catch { return .program }
    }

    /// Reads `extensions.objectFormat` and `extensions.refStorage`. Git decides on everything else that it may find there.
    static func format(of repository: String) throws -> Format {
        var format = Format()
        let file = "\(repository)/config"
        guard let status = try Files.status(file) else { return format }
        guard status.st_mode & S_IFMT == S_IFREG else { throw ArchiveError(.inputOutput, "its configuration is not a file") }
        var section = ""
        for line in String(decoding: try Files.read(file, limit: 1 << 20), as: UTF8.self).split(separator: "\n") {
            var text = line.filter { $0 != " " && $0 != "\t" && $0 != "\r" && $0 != "\"" }.lowercased()[...]
            if text.hasPrefix("[") {
                guard let end = text.firstIndex(of: "]") else { continue }
                section = String(text[text.index(after: text.startIndex)..<end])
                text = text[text.index(after: end)...]
            }
            guard section == "extensions" else { continue }
            if text.hasPrefix("objectformat=") { format.isSHA256 = !text.hasPrefix("objectformat=sha1") }
            if text.hasPrefix("refstorage=") { format.isReftable = !text.hasPrefix("refstorage=files") }
        }
        return format
    }
}
