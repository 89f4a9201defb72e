import ArchiveCore
import Foundation
import Pack
import Runtime
import Store

/// What is in an archive: the one place that knows the names of its objects. `docs/archive-format.md` describes them.
public struct Catalog: Sendable {
    public let store: any ObjectStore
    public let identity: ArchiveIdentity
    /// What opens encrypted content, and whom new content is encrypted for.
    public let keys: ArchiveKeys

    init(store: any ObjectStore, identity: ArchiveIdentity, keys: ArchiveKeys) {
        self.store = store
        self.identity = identity
        self.keys = keys
    }

    private static let identityKey = ObjectKey(known: "tidemark.json")

    /// Makes a new archive; an encrypted one when `keys` has recipients.
    ///
    /// - Throws: `.archiveExists` when there is one already, or anything else.
    public static func create(in store: any ObjectStore, at time: Moment, version: String, keys: ArchiveKeys = ArchiveKeys()) async throws -> Catalog {
        if let first = try await store.list(prefix: "", after: nil, limit: 1).first {
            if let existing = try? await Catalog.open(store) {
                throw ArchiveError(
                    .archiveExists, "\(store.description) is an archive already, created \(existing.identity.created).",
                    remedy: "Use it as it is, or name another place.")
            }
            throw ArchiveError(
                .archiveExists, "\(store.description) is not empty: it holds '\(first.key)', among others.",
                remedy: "Name an empty place for the archive.")
        }
        let encryption = keys.recipients.isEmpty ? nil : ArchiveIdentity.Encryption(recipients: keys.recipients.map(\.description))
        let identity = ArchiveIdentity(id: UUID().uuidString.lowercased(), created: time, createdBy: "tidemark \(version)", encryption: encryption)
        try await store.put(try encode(identity), at: identityKey)
        return Catalog(store: store, identity: identity, keys: keys)
    }

    /// - Throws: `.archiveMissing`, `.archiveNewer`, `.archiveDamaged`.
    public static func open(_ store: any ObjectStore, keys: ArchiveKeys = ArchiveKeys()) async throws -> Catalog {
        struct Version: Decodable { var format: Int }
        let bytes: [UInt8]
        let version: Version
        do {
            (bytes, version) = try await store.read(identityKey) { ($0, try decode($0, key: identityKey)) }
        } catch let error as ArchiveError where error.code == .objectMissing {
            throw ArchiveError(
                .archiveMissing, "There is no archive at \(store.description).",
                remedy: "If there was one, see whether its file system is mounted, and whether endpoint, account, bucket and folder are the right ones. `tidemark init` makes a new one.")
        }
        guard version.format <= ArchiveIdentity.encryptedFormat else {
            throw ArchiveError(
                .archiveNewer,
                "The archive at \(store.description) has format version \(version.format); this tidemark reads up to version \(ArchiveIdentity.encryptedFormat).",
                remedy: "Use the tidemark that wrote it, or a newer one.")
        }
        guard version.format >= 1 else {
            throw ArchiveError(.archiveDamaged, "'tidemark.json' at \(store.description) says format version \(version.format), which never was.")
        }
        let identity: ArchiveIdentity = try decode(bytes, key: identityKey)
        guard (identity.format == ArchiveIdentity.encryptedFormat) == (identity.encryption != nil) else {
            throw ArchiveError(
                .archiveDamaged, "'tidemark.json' at \(store.description) is of format version \(identity.format) and \(identity.encryption == nil ? "does not say" : "says") how the archive is encrypted.",
                remedy: "Restore the object from a copy of the archive, and find out who can write to the archive.")
        }
        guard identity.encryption?.scheme ?? "age" == "age" else {
            throw ArchiveError(
                .archiveNewer, "The archive at \(store.description) is encrypted with '\(identity.encryption?.scheme ?? "")', which this tidemark does not know.",
                remedy: "Use the tidemark that wrote it, or a newer one.")
        }
        // They are shown to people, and are never taken to encrypt with.
        guard (identity.encryption?.recipients ?? []).allSatisfy({ (try? AgeRecipient($0)) != nil }) else {
            throw ArchiveError(
                .archiveDamaged, "'tidemark.json' at \(store.description) names recipients that are no age keys.",
                remedy: "Restore the object from a copy of the archive, and find out who can write to the archive.")
        }
        return Catalog(store: store, identity: identity, keys: keys)
    }

    /// Sees whether the archive that was opened is still at its place: a bucket can be emptied and a file system unmounted while an agent runs.
    ///
    /// - Throws: `.archiveMissing` when there is none or another one; what reading it throws.
    public func confirm() async throws {
        let found: Catalog
        do { found = try await Catalog.open(store) } catch let error as ArchiveError where error.code == .archiveMissing {
            throw ArchiveError(
                .archiveMissing, "The archive \(identity.id) is gone from \(store.description); nothing more is written there.",
                remedy: "See whether its file system is mounted and who emptied the place. If it is lost, start over: `tidemark init`, the agent, `tidemark backup`.")
        }
        guard found.identity == identity else {
            throw ArchiveError(
                .archiveMissing, "\(store.description) holds another archive now, \(found.identity.id), or its `tidemark.json` was changed; nothing more is written there.",
                remedy: "Mount the right file system or correct the URL; start the agent again if the new archive is the one that is meant.")
        }
    }

    /// Sees whether the archive takes an object: one that can be read may be full, or read-only. Puts an object below `probe/` and removes it.
    ///
    /// - Throws: what putting it throws. One that cannot be removed stays: a store that locks what it has lets go of it later.
    public func probeWrites() async throws {
        let probe = ObjectKey(known: "probe/write-\(hex(UInt64.random(in: .min ... .max), 16))")
        try await store.put([1], at: probe)
        do { try await store.remove(probe) } catch let error as ArchiveError {
            store.notice("the object '\(probe)', which tried whether the archive takes any, could not be removed: \(error.message)")
        }
    }

    // MARK: Incarnations

    public func sources() async throws -> [String] {
        var names: [String] = []
        for object in try await store.listAll(prefix: "sources/") {
            let parts = object.key.path.split(separator: "/")
            if parts.count == 3, names.last != String(parts[1]) { names.append(String(parts[1])) }
        }
        return names
    }

    /// The incarnations of a source, oldest first.
    public func incarnations(of source: String) async throws -> [IncarnationRecord] {
        let found: [IncarnationRecord] = try await records(below: "sources/\(source)/")
        return found.sorted { $0.number < $1.number }
    }

    public func record(_ incarnation: IncarnationRecord) async throws {
        try await store.put(
            try Self.encode(incarnation), at: ObjectKey(known: "sources/\(incarnation.source)/\(incarnation.id).json"))
    }

    // MARK: Log

    private func logPrefix(_ i: IncarnationRecord) -> String { "log/\(i.source)/\(i.id)/" }

    public func dataKey(_ name: PieceName, of i: IncarnationRecord) -> ObjectKey {
        ObjectKey(known: "\(logPrefix(i))\(name).\(name.suffix)\(sealedSuffix)")
    }

    private func indexKey(_ name: PieceName, of i: IncarnationRecord) -> ObjectKey { ObjectKey(known: dataKey(name, of: i).path + ".idx") }

    /// The piece that an object below the incarnation's log belongs to; `nil` for anything else.
    public func piece(at path: String) -> (name: PieceName, isIndex: Bool)? {
        var path = path
        let isIndex = path.hasSuffix(".idx")
        if isIndex { path.removeLast(4) }
        guard path.hasSuffix(sealedSuffix) else { return nil }
        path.removeLast(sealedSuffix.utf8.count)
        return PieceName(path: path).map { ($0, isIndex) }
    }

    /// A piece as it is stored. Pure work for one core; nothing is stored.
    public func pack(_ piece: LogPiece) throws(ArchiveError) -> PackedPiece {
        let packed = try PiecePacker.pack(piece)
        return isEncrypted ? try PiecePacker.seal(packed, to: recipients()) : packed
    }

    /// Stores a piece, then its index; a piece counts as archived when its index is there.
    ///
    /// - Throws: `.twoHistories` when other content lies under the same name.
    public func store(_ piece: PackedPiece, of i: IncarnationRecord) async throws {
        try await storeContent(piece, of: i)
        try await storeIndex(piece.name, piece.index, of: i)
    }

    /// The first half of `store`. Pieces may be stored side by side; their indexes are stored in log order, so that what counts as
    /// archived never has a hole.
    public func storeContent(_ piece: PackedPiece, of i: IncarnationRecord) async throws {
        precondition(!isEncrypted || piece.index.headerLength > 0, "a piece of an encrypted archive was not encrypted")
        do { try await store.put(piece.object, at: dataKey(piece.name, of: i)) } catch let error as ArchiveError
            where error.code == .objectExists
        {
            // The same content may be there in other bytes: of another release of the compressor, or encrypted with other keys.
            if let stored = try await archivedIndex(piece.name, of: i), stored.frames.map(\.sha256) == piece.index.frames.map(\.sha256) {
                return
            }
            throw twoHistories(piece.name, i, error)
        }
    }

    /// The second half of `store`.
    public func storeIndex(_ name: PieceName, _ index: PieceIndex, of i: IncarnationRecord) async throws {
        let bytes = isEncrypted ? try index.sealed(to: recipients()).encoded() : index.encoded()
        do { try await store.put(bytes, at: indexKey(name, of: i)) } catch let error as ArchiveError
            where error.code == .objectExists
        {
            if let stored = try await archivedIndex(name, of: i), stored.frames.map(\.sha256) == index.frames.map(\.sha256) { return }
            throw twoHistories(name, i, error)
        }
    }

    private func twoHistories(_ name: PieceName, _ i: IncarnationRecord, _ cause: ArchiveError) -> ArchiveError {
        ArchiveError(
            .twoHistories, "'\(name)' of '\(i.source)' is in the archive with other content: two histories have the same name.",
            remedy: "Both were kept. If the source was restored or rewound outside of tidemark, archive it under a new name; see docs/incidents.md.",
            cause: cause)
    }

    private func archivedIndex(_ name: PieceName, of i: IncarnationRecord) async throws -> PieceIndex? {
        do { return try await index(of: name, of: i) } catch let error as ArchiveError where error.code == .objectMissing { return nil }
    }

    public func remove(_ name: PieceName, of i: IncarnationRecord) async throws {
        // The index first: without it the piece no longer counts.
        try await store.remove(indexKey(name, of: i))
        try await store.remove(dataKey(name, of: i))
    }

    /// Removes pieces that others replaced.
    public func remove(_ names: [PieceName], of i: IncarnationRecord) async throws {
        try await store.remove(names.map { indexKey($0, of: i) })
        try await store.remove(names.map { dataKey($0, of: i) })
    }

    /// Archived pieces in log order, from `first` on.
    public func pieces(of i: IncarnationRecord, from first: PieceName? = nil) async throws -> [PieceName] {
        try await listing(of: i, from: first).indexed
    }

    /// What lies in the log's folders: pieces with an index, and those without, which were never acknowledged.
    ///
    /// - Parameter branch: only this branch's folder; `nil`: all.
    func listing(of i: IncarnationRecord, from first: PieceName?, only branch: UInt32? = nil) async throws -> (indexed: [PieceName], orphans: [PieceName]) {
        let prefix = logPrefix(i)
        // Everything of `first` sorts after its bare name.
        let objects = try await store.listAll(
            prefix: prefix + (branch.map { hex(UInt64($0), 8) + "/" } ?? ""), after: first.map { prefix + $0.description })
        var data: [PieceName] = []
        var indexed: Set<PieceName> = []
        for object in objects {
            guard let (name, isIndex) = piece(at: String(object.key.path.dropFirst(prefix.utf8.count))) else {
                guard isEncrypted || !object.key.path.contains(".age") else { throw encryptedBeside(object.key) }
                continue
            }
            if isIndex { indexed.insert(name) } else { data.append(name) }
        }
        return (data.filter { indexed.contains($0) }, data.filter { !indexed.contains($0) })
    }

    /// Archived pieces with their indexes, in log order, from `first` on; see `forEachPiece`.
    public func indexedPieces(of i: IncarnationRecord, from first: PieceName? = nil) async throws -> [(name: PieceName, index: PieceIndex)] {
        var result: [(name: PieceName, index: PieceIndex)] = []
        try await forEachPiece(of: i, from: first) { name, index in
            if name.part == nil { result.removeAll { $0.name.part != nil && $0.name.name == name.name && $0.name.branch == name.branch } }
            result.append((name, index))
            return true
        }
        return result
    }

    /// Visits archived pieces in log order, from `first` on, reading a few indexes ahead, until `visit` returns `false`.
    ///
    /// An agent may be at work: it removes tails once their closed piece is archived. Then the rest is listed anew, and a closed piece
    /// may be visited after some of its own tails were, which it replaces.
    ///
    /// - Parameter branch: only this branch; `nil`: all.
    public func forEachPiece(
        of i: IncarnationRecord, from first: PieceName? = nil, only branch: UInt32? = nil, visit: (PieceName, PieceIndex) throws -> Bool
    ) async throws {
        var closed = first
        var visited: Set<PieceName> = []
        var attempts = 0
        while true {
            do {
                let names = try await listing(of: i, from: closed, only: branch).indexed.filter { !visited.contains($0) }
                try await inOrder(names, width: store.parallelism) { name in try await index(of: name, of: i) } visit: { name, index in
                    attempts = 0
                    if name.part == nil {
                        closed = name
                        visited = [name]
                    } else {
                        visited.insert(name)
                    }
                    return try visit(name, index)
                }
                return
            } catch let error as ArchiveError where error.code == .objectMissing {
                attempts += 1
                guard attempts < 10 else { throw error }
            }
        }
    }

    /// - Parameter names: whether subjects and details of events are wanted, which an encrypted archive keeps to itself. Where they are not,
    ///   they are left out when no identity opens them.
    /// - Throws: `.objectMissing`, `.objectDamaged`; `.keyMissing` and `.keyWrong` when `names` are wanted.
    public func index(of name: PieceName, of i: IncarnationRecord, names: NamesInIndex = .ifPossible) async throws -> PieceIndex {
        let key = indexKey(name, of: i)
        return try await store.read(key) { bytes in
            let index: PieceIndex
            do { index = try PieceIndex(decoding: bytes) } catch {
                throw ArchiveError(.objectDamaged, "The index '\(key)' is damaged: \(error).", remedy: "Take a new base with `tidemark backup`.")
            }
            do { return try index.opened(with: keys.identities, of: key.path) } catch let error as ArchiveError where names == .ifPossible && (error.code == .keyMissing || error.code == .keyWrong) {
                return index
            }
        }
    }

    /// The content of a piece, or of some of its frames, proven by length and digest.
    public func read(_ name: PieceName, index: PieceIndex, frames: [Int]? = nil, of i: IncarnationRecord) async throws -> [[UInt8]] {
        let key = dataKey(name, of: i)
        guard let frames else {
            return try await store.read(key) { bytes in
                guard UInt64(bytes.count) == index.storedLength else {
                    throw ArchiveError(
                        .objectDamaged, "The object '\(key)' has \(bytes.count) bytes; \(index.storedLength) were archived.",
                        remedy: "Restore to a time before it, or from a newer base; `tidemark window` lists what can be reached.")
                }
                return try PiecePacker.unpack(try open(bytes, of: key), frames: index.frames, of: key.path)
            }
        }
        if isEncrypted { return try await readSealed(key, index, frames) }
        var contents: [[UInt8]] = []
        for run in runs(frames.map { index.frames[$0] }) {
            let range = run[0].offset..<run[run.count - 1].offset + run[run.count - 1].length
            contents += try await store.read(key, range: range) { try PiecePacker.unpack($0, from: range.lowerBound, frames: run, of: key.path) }
        }
        return contents
    }

    /// Neighbours in the object are read in one request.
    private func runs(_ frames: [LogFrame]) -> [[LogFrame]] {
        var runs: [[LogFrame]] = []
        for frame in frames {
            if let last = runs.last?.last, last.offset + last.length == frame.offset { runs[runs.count - 1].append(frame) } else {
                runs.append([frame])
            }
        }
        return runs
    }

    // MARK: Branches, gaps, watermarks

    public func record(_ branch: BranchRecord, of i: IncarnationRecord) async throws {
        let folder = "branches/\(i.source)/\(i.id)/"
        if !branch.fileName.isEmpty { try await store.put(branch.file, at: ObjectKey(known: folder + branch.fileName)) }
        try await store.put(try Self.encode(branch), at: ObjectKey(known: "\(folder)\(hex(UInt64(branch.branch), 8)).json"))
    }

    public func branches(of i: IncarnationRecord) async throws -> [BranchRecord] {
        try await records(below: "branches/\(i.source)/\(i.id)/")
    }

    public func record(_ gap: GapRecord, of i: IncarnationRecord) async throws {
        do { try await store.put(try Self.encode(gap), at: key(of: gap, in: i)) } catch let
            error as ArchiveError where error.code == .objectExists
        {
            // The same hole, noticed before.
        }
    }

    func key(of gap: GapRecord, in i: IncarnationRecord) -> ObjectKey {
        let name = "\(gap.stream)-\(hex(UInt64(gap.branch), 8))-\(hex(gap.start, 16))-\(hex(gap.end, 16)).json"
        return ObjectKey(known: "gaps/\(i.source)/\(i.id)/\(name)")
    }

    public func gaps(of i: IncarnationRecord) async throws -> [GapRecord] {
        try await records(below: "gaps/\(i.source)/\(i.id)/")
    }

    func records<T: Decodable & Sendable>(below prefix: String) async throws -> [T] {
        var found: [T] = []
        let keys = try await store.listAll(prefix: prefix).map(\.key).filter { $0.path.hasSuffix(".json") }
        try await inOrder(keys, width: store.parallelism) { key in try await record(key) as T } visit: { _, record in
            found.append(record)
            return true
        }
        return found
    }

    private func watermarkPrefix(_ i: IncarnationRecord) -> String { "watermarks/\(i.source)/\(i.id)/" }

    /// Records that everything committed up to `time` is archived, in place of older such records.
    ///
    /// - Parameter totals: of everything that is archived, for plans that tell what lies behind their cut.
    public func advanceWatermark(to time: Moment, replacing old: Moment?, totals: LogTotals, of i: IncarnationRecord) async throws {
        guard time.rawValue > 0, old.map({ $0 < time }) ?? true else { return }
        func key(_ t: Moment) -> ObjectKey {
            let digits = String(t.rawValue)
            return ObjectKey(known: watermarkPrefix(i) + String(repeating: "0", count: 20 - digits.count) + digits)
        }
        try await store.put(try Self.encode(Watermark(time: "\(time)", totals: totals)), at: key(time))
        if let old { try await store.remove(key(old)) }
    }

    private struct Watermark: Codable {
        var time: String
        var totals: LogTotals
    }

    public func watermark(of i: IncarnationRecord) async throws -> Moment? { try await watermarkAndTotals(of: i)?.time }

    /// The newest watermark, and how much was archived by then, as far as that was recorded.
    public func watermarkAndTotals(of i: IncarnationRecord) async throws -> (time: Moment, totals: LogTotals?)? {
        var attempts = 0
        while true {
            guard let key = try await store.listAll(prefix: watermarkPrefix(i)).last?.key, let digits = Int64(key.path.split(separator: "/").last ?? "")
            else { return nil }
            let time = Moment(rawValue: digits)
            do {
                let totals: LogTotals? = try await store.read(key) { bytes in
                    // The first archives held the time alone.
                    guard bytes.first == UInt8(ascii: "{") else { return nil }
                    let record: Watermark = try Self.decode(bytes, key: key)
                    return record.totals
                }
                return (time, totals)
            } catch let error as ArchiveError where error.code == .objectMissing {
                // An agent at work replaced it by a newer one meanwhile.
                attempts += 1
                guard attempts < 10 else { throw error }
            }
        }
    }

    // MARK: JSON

    static func encode(_ record: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(record)) + [0x0A]
    }

    func record<T: Decodable & Sendable>(_ key: ObjectKey) async throws -> T { try await store.read(key) { try Self.decode($0, key: key) } }

    static func decode<T: Decodable>(_ bytes: [UInt8], key: ObjectKey) throws -> T {
        do { return try JSONDecoder().decode(T.self, from: Data(bytes)) } catch {
            throw ArchiveError(
                .archiveDamaged, "The record '\(key)' could not be read.", remedy: "Restore the object from a copy of the archive.",
                cause: error)
        }
    }
}
