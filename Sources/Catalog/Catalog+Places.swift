import ArchiveCore
import Digests
import Foundation
import Pack
import Store

/// What else holds the same archive: how several places are read as one, and what a copy needs to know of an archive's objects.
extension Catalog {
    /// For `FallbackStore`.
    public static var placeRules: PlaceRules {
        PlaceRules(
            identityKey: ObjectKey(known: "tidemark.json"),
            archive: { bytes in
                struct Identity: Decodable { var format: Int; var id: String }
                guard let identity = try? JSONDecoder().decode(Identity.self, from: Data(bytes)) else { return nil }
                return identity.format >= 1 && !identity.id.isEmpty ? identity.id : nil
            }, isReplaced: isReplaced)
    }

    /// Whether an agent removed this object since another one holds what it held: a tail of a closed piece, an older watermark or checkpoint.
    private static func isReplaced(_ key: ObjectKey, in store: any ObjectStore) async throws -> Bool {
        guard let slash = key.path.lastIndex(of: "/") else { return false }
        let folder = key.path[...slash]
        let name = key.path[key.path.index(after: slash)...]
        if folder.hasPrefix("watermarks/") || folder.hasPrefix("positions/") {
            return try await !store.keys(prefix: String(folder), after: key.path, limit: 1).isEmpty
        }
        guard folder.hasPrefix("log/"), name.contains(".tail."), let dot = name.firstIndex(of: ".") else { return false }
        // A tail's name goes on with a hexadecimal digit, that of the closed piece with a small letter.
        let closed = "\(folder)\(name[...dot])"
        return try await store.keys(prefix: closed, after: closed + "G", limit: 3).contains { $0.path.hasSuffix(".idx") }
    }
}

/// An archive's objects as a copy moves them: byte for byte, each proven by what is recorded of it.
extension Catalog {
    public func logFolder(of i: IncarnationRecord) -> String { "log/\(i.source)/\(i.id)/" }
    public func recordKey(of i: IncarnationRecord) -> ObjectKey { ObjectKey(known: "sources/\(i.source)/\(i.id).json") }
    /// Folders of records that the log needs: where branches left others, and holes.
    public func recordFolders(of i: IncarnationRecord) -> [String] { ["branches", "gaps"].map { "\($0)/\(i.source)/\(i.id)/" } }
    public func watermarkFolder(of i: IncarnationRecord) -> String { "watermarks/\(i.source)/\(i.id)/" }
    public func checkpointFolder(of i: IncarnationRecord) -> String { "positions/\(i.source)/\(i.id)/" }
    public func chapterFolder(of i: IncarnationRecord) -> String { "chapters/\(i.source)/\(i.id)/" }
    public func baseFolder(of i: IncarnationRecord) -> String { "bases/\(i.source)/\(i.id)/" }

    /// A piece's stored content and index, the content proven by length and digest.
    ///
    /// - Throws: `.objectMissing`, `.objectDamaged`.
    public func stored(_ name: PieceName, of i: IncarnationRecord) async throws -> (content: [UInt8], index: [UInt8]) {
        let data = dataKey(name, of: i)
        guard let key = ObjectKey(data.path + ".idx") else { throw ArchiveError.objectMissing(data, in: store.description) }
        let (bytes, index) = try await store.read(key) { bytes in
            do { return (bytes, try PieceIndex(decoding: bytes)) } catch {
                throw ArchiveError(.objectDamaged, "The index '\(key)' in \(store.description) is damaged: \(error).")
            }
        }
        let content = try await proven(data, length: index.storedLength, sha256: index.storedSHA256)
        return (content, bytes)
    }

    /// An object that must have a length and a digest.
    public func proven(_ key: ObjectKey, length: UInt64?, sha256: [UInt8]) async throws -> [UInt8] {
        try await store.read(key) { bytes in
            guard length.map({ $0 == UInt64(bytes.count) }) ?? true else {
                throw ArchiveError(.objectDamaged, "The object '\(key)' in \(store.description) has \(bytes.count) bytes; \(length ?? 0) were archived.")
            }
            guard SHA256.of(bytes) == sha256 else {
                throw ArchiveError(.objectDamaged, "The object '\(key)' in \(store.description) is damaged: its SHA-256 is not the recorded one.")
            }
            return bytes
        }
    }

    /// A chapter's stored bytes, proven by what they say.
    public func stored(_ name: ChapterName, of i: IncarnationRecord) async throws -> (bytes: [UInt8], chapter: Chapter) {
        let chapter = try await chapter(name, of: i)
        return (try await store.get(ObjectKey(known: chapterFolder(of: i) + name.path)), chapter)
    }

    /// The record of a complete base, as it is stored; `nil` when the base is not complete.
    public func storedBase(_ id: String, of i: IncarnationRecord) async throws -> (base: BaseRecord, bytes: [UInt8])? {
        let key = baseKey("base.json", base: id, of: i)
        do {
            return try await store.read(key) { bytes in
                let base: BaseRecord = try Self.decode(bytes, key: key)
                return (base, bytes)
            }
        } catch let error as ArchiveError where error.code == .objectMissing { return nil }
    }

    /// A small record that has no digest, proven by whether it can be read: JSON, a checkpoint, a file that tells of a branch.
    ///
    /// - Throws: `.objectMissing`, `.archiveDamaged`.
    public func storedRecord(_ key: ObjectKey) async throws -> [UInt8] {
        try await store.read(key) { bytes in
            if key.path.hasPrefix("positions/") { _ = try Self.checkpoint(bytes, key) }
            if key.path.hasSuffix(".json") || bytes.first == UInt8(ascii: "{") {
                do { _ = try JSONSerialization.jsonObject(with: Data(bytes)) } catch {
                    throw ArchiveError(.archiveDamaged, "The record '\(key)' in \(store.description) is damaged.", cause: error)
                }
            }
            return bytes
        }
    }

    private static func checkpoint(_ bytes: [UInt8], _ key: ObjectKey) throws -> Checkpoint {
        do { return try Checkpoint(decoding: try Zstd.decompress(bytes[...], limit: 1 << 32)) } catch {
            throw ArchiveError(.archiveDamaged, "The checkpoint '\(key)' is damaged: \(error).", remedy: "Remove that one object.")
        }
    }

    /// The newest closed piece that the last checkpoint covers; `nil` when there is none that can be read.
    public func checkpointedPiece(of i: IncarnationRecord) async throws -> PieceName? {
        guard let key = try await store.listAll(prefix: checkpointFolder(of: i)).last?.key else { return nil }
        do {
            return try await store.read(key) { try Self.checkpoint($0, key) }.lastPiece.max { $0.key < $1.key }?.value
        } catch let error as ArchiveError where error.code == .archiveDamaged || error.code == .objectMissing { return nil }
    }
}
