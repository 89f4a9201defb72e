import ArchiveCore
import Digests

/// Keys for an archive: whom new content is encrypted for, and what opens it. Both are empty for one that is not encrypted.
public struct ArchiveKeys: Sendable {
    public var recipients: [AgeRecipient]
    public var identities: [AgeIdentity]

    public init(recipients: [AgeRecipient] = [], identities: [AgeIdentity] = []) {
        self.recipients = recipients
        self.identities = identities
    }
}

extension PiecePacker {
    /// Encrypts a packed piece. Its frames stay where they are in what is encrypted; lengths and digests of the object are those of the age
    /// file.
    public static func seal(_ piece: PackedPiece, to recipients: [AgeRecipient]) throws(ArchiveError) -> PackedPiece {
        var sealed = piece
        let (file, headerLength) = try Age.seal(piece.object, to: recipients)
        sealed.object = file
        sealed.index.headerLength = UInt64(headerLength)
        sealed.index.storedLength = UInt64(file.count)
        sealed.index.storedSHA256 = SHA256.of(file)
        return sealed
    }
}

extension PieceIndex {
    /// The index as an encrypted archive stores it: the names of its events in an age file of their own.
    public func sealed(to recipients: [AgeRecipient]) throws(ArchiveError) -> PieceIndex {
        var index = self
        guard let names = index.takeNames() else { return index }
        var compressed: [UInt8] = []
        try Zstd.compress(names, level: 3, into: &compressed)
        index.sealedNames = try Age.seal(compressed, to: recipients).file
        return index
    }

    /// - Parameter name: what the index is called in errors.
    /// - Throws: `.keyMissing` without identities, `.keyWrong`, `.objectDamaged`.
    public func opened(with identities: [AgeIdentity], of name: String) throws(ArchiveError) -> PieceIndex {
        guard !sealedNames.isEmpty else { return self }
        var index = self
        let names = try Zstd.decompress(try Age.open(sealedNames, with: identities, of: name)[...], limit: 1 << 30)
        do { try index.putNames(names) } catch { throw ArchiveError(.objectDamaged, "The encrypted names in the index '\(name)' are damaged: \(error).") }
        return index
    }
}
