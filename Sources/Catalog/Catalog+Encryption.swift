import ArchiveCore
import Pack
import Store

/// What a reader of an index needs of the names in it.
public enum NamesInIndex: Sendable {
    /// They may be left out.
    case ifPossible
    /// Nothing can be done without them.
    case required
}

extension Catalog {
    public var isEncrypted: Bool { identity.encryption != nil }

    /// What the names of encrypted objects end in; empty in a plain archive.
    var sealedSuffix: String { isEncrypted ? ".age" : "" }

    /// The same archive for somebody who has no identity.
    public var withoutIdentities: Catalog { Catalog(store: store, identity: identity, keys: ArchiveKeys(recipients: keys.recipients)) }

    /// - Throws: `.encryptionDiffers` when there is nobody to encrypt for.
    func recipients() throws(ArchiveError) -> [AgeRecipient] {
        guard !keys.recipients.isEmpty else { throw noRecipients }
        return keys.recipients
    }

    private var noRecipients: ArchiveError {
        ArchiveError(
            .encryptionDiffers, "The archive at \(store.description) is encrypted, but the configuration names nobody to encrypt for.",
            remedy: "Put the recipients under `encrypt:` in the configuration. When the archive was created they were \(identity.encryption?.recipients.joined(separator: ", ") ?? ""); make sure that these keys are yours.")
    }

    /// Whether new content can be written as the archive and its configuration both want it.
    ///
    /// - Throws: `.encryptionDiffers` when one of the two wants it encrypted and the other does not.
    public func checkWriter() throws(ArchiveError) {
        if isEncrypted { _ = try recipients() } else if !keys.recipients.isEmpty {
            throw ArchiveError(
                .encryptionDiffers, "The configuration has recipients to encrypt for, but the archive at \(store.description) is not encrypted.",
                remedy: "Create a new archive at another place with `tidemark init`; one that exists is never encrypted afterwards. If this one was encrypted, its `tidemark.json` was changed: find out who can write to it.")
        }
    }

    func encryptedBeside(_ key: ObjectKey) -> ArchiveError {
        ArchiveError(
            .archiveDamaged, "\(store.description) is a plain archive by its `tidemark.json`, but holds the encrypted object '\(key)'.",
            remedy: "Somebody changed `tidemark.json`: restore it from a copy, and find out who can write to the archive.")
    }

    /// The recipients that the archive was created with, where those of the configuration are others.
    public var formerRecipients: [String]? {
        guard let encryption = identity.encryption, Set(encryption.recipients) != Set(keys.recipients.map(\.description)) else { return nil }
        return encryption.recipients
    }

    /// - Parameter what: what cannot be done without an identity, as the subject of a sentence.
    /// - Throws: `.keyMissing` when the archive is encrypted and no identity was given.
    public func checkIdentity(for what: String) throws(ArchiveError) {
        guard isEncrypted, keys.identities.isEmpty else { return }
        throw ArchiveError(
            .keyMissing, "The archive at \(store.description) is encrypted, and \(what) needs an identity that opens it.",
            remedy: "Give the file of an age identity with --identity FILE, in the configuration (encrypt: identity), or in TIDEMARK_IDENTITY.")
    }

    /// Looks whether the identities open a base, before anything is done that would have to be undone.
    ///
    /// - Throws: `.keyMissing`, `.keyWrong`.
    public func proveIdentity(by base: BaseRecord, in i: IncarnationRecord) async throws {
        guard isEncrypted, let part = base.parts.last else { return }
        let key = baseKey(part.name, base: base.id, of: i)
        let identities = keys.identities
        try await store.read(key, range: 0..<min(part.storedLength, AgeOpener.longestHeader)) { bytes in _ = try AgeOpener(bytes[...], with: identities, of: key.path) }
    }

    /// The content of a stored object, whether it is encrypted or not.
    func open(_ object: [UInt8], of key: ObjectKey) throws(ArchiveError) -> [UInt8] { try openWithHeader(object, of: key).content }

    /// The same, and the length of what comes before the first encrypted chunk; 0 where it is not encrypted.
    func openWithHeader(_ object: [UInt8], of key: ObjectKey) throws(ArchiveError) -> (content: [UInt8], headerLength: UInt64) {
        guard isEncrypted else { return (object, 0) }
        let opener = try AgeOpener(object[...], with: keys.identities, of: key.path)
        return (try opener.open(object[opener.headerLength...], first: 0, isEnd: true), UInt64(opener.headerLength))
    }

    /// Whether encrypted content can only be proven as it is stored.
    var isSealed: Bool { isEncrypted && keys.identities.isEmpty }

    /// All frames of a stored piece, proven by its index; `nil` when they are encrypted and no identity was given: then only the object is
    /// proven.
    ///
    /// - Throws: `.objectDamaged`, `.keyWrong`.
    func prove(_ object: [UInt8], by index: PieceIndex, of key: ObjectKey) throws(ArchiveError) -> [[UInt8]]? {
        try PiecePacker.prove(object, by: index, of: key.path)
        guard !isSealed else { return nil }
        let (content, headerLength) = try openWithHeader(object, of: key)
        guard headerLength == index.headerLength else {
            throw ArchiveError(.objectDamaged, "The header of '\(key)' is not as long as its index says.")
        }
        return try PiecePacker.unpack(content, frames: index.frames, of: key.path)
    }

    /// An object as it is stored.
    public func seal(_ object: [UInt8]) throws(ArchiveError) -> [UInt8] { isEncrypted ? try Age.seal(object, to: recipients()).file : object }

    /// Some frames of a piece, from the chunks that hold them alone.
    func readSealed(_ key: ObjectKey, _ index: PieceIndex, _ wanted: [Int]) async throws -> [[UInt8]] {
        guard !wanted.isEmpty else { return [] }
        let layout = AgeLayout(headerLength: index.headerLength, length: index.storedLength)
        guard index.headerLength > 0, index.headerLength < min(index.storedLength, AgeOpener.longestHeader) else {
            throw ArchiveError(.objectDamaged, "The index of '\(key)' does not say where its encrypted content begins.", remedy: "`tidemark verify --reindex` can make indexes of WAL anew.")
        }
        for n in wanted where index.frames[n].offset >= layout.length || index.frames[n].length > layout.length - index.frames[n].offset {
            throw ArchiveError(.objectDamaged, "The index of '\(key)' places content behind the object's end.")
        }
        let identities = keys.identities
        let opener = try await store.read(key, range: 0..<index.headerLength) { bytes in
            let opener = try AgeOpener(bytes[...], with: identities, of: key.path)
            guard opener.headerLength == bytes.count else { throw ArchiveError(.objectDamaged, "The header of '\(key)' is not as long as its index says.") }
            return opener
        }
        var contents: [[UInt8]] = []
        for run in runs(wanted.map { index.frames[$0] }, in: layout) {
            contents += try await store.read(key, range: run.file) { bytes in
                let plain = try opener.open(bytes[...], first: run.first, isEnd: run.isEnd)
                return try PiecePacker.unpack(plain, from: AgeLayout.offset(ofChunk: run.first), frames: run.frames, of: key.path)
            }
        }
        return contents
    }

    private struct SealedRun {
        var file: Range<UInt64>
        var first: UInt64
        var isEnd: Bool
        var frames: [LogFrame]
    }

    /// Frames whose chunks touch are read in one request.
    private func runs(_ frames: [LogFrame], in layout: AgeLayout) -> [SealedRun] {
        var runs: [SealedRun] = []
        for frame in frames {
            let (file, first, isEnd) = layout.chunks(holding: frame.offset..<max(frame.offset &+ frame.length, frame.offset &+ 1))
            if let last = runs.last, file.lowerBound >= last.file.lowerBound, file.lowerBound <= last.file.upperBound {
                runs[runs.count - 1].file = last.file.lowerBound..<max(last.file.upperBound, file.upperBound)
                runs[runs.count - 1].isEnd = last.isEnd || isEnd
                runs[runs.count - 1].frames.append(frame)
            } else {
                runs.append(SealedRun(file: file, first: first, isEnd: isEnd, frames: [frame]))
            }
        }
        return runs
    }
}
