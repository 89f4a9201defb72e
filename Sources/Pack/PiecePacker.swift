import ArchiveCore

/// A piece of log as it is stored.
public struct PackedPiece: Sendable {
    public var name: PieceName
    public var object: [UInt8]
    public var index: PieceIndex
}

public enum PiecePacker {
    /// Compresses and digests a piece. Pure work for one core; nothing is stored.
    public static func pack(_ piece: LogPiece, level: Int32 = Zstd.defaultLevel) throws(ArchiveError) -> PackedPiece {
        var object: [UInt8] = []
        var frames: [LogFrame] = []
        var compressor = try Zstd.Compressor(level: level)
        for raw in piece.frames {
            let offset = object.count
            try compressor.compress(raw, into: &object)
            frames.append(
                LogFrame(
                    offset: UInt64(offset), length: UInt64(object.count - offset), rawLength: UInt64(raw.count),
                    sha256: SHA256.of(raw)))
        }
        let index = PieceIndex(
            spans: piece.spans, events: piece.events, frames: frames, storedLength: UInt64(object.count),
            storedSHA256: SHA256.of(object), fences: piece.fences)
        return PackedPiece(name: piece.name, object: object, index: index)
    }

    /// Reads frames back and proves each by length and digest.
    ///
    /// - Parameter base: offset in the object at which `bytes` begins.
    /// - Throws: `.objectDamaged` with the piece's name.
    public static func unpack(
        _ bytes: [UInt8], from base: UInt64 = 0, frames: [LogFrame], of name: String
    ) throws(ArchiveError) -> [[UInt8]] {
        var contents: [[UInt8]] = []
        contents.reserveCapacity(frames.count)
        var decompressor = try Zstd.Decompressor()
        for frame in frames {
            guard frame.offset >= base, frame.offset - base <= UInt64(bytes.count),
                frame.length <= UInt64(bytes.count) - (frame.offset - base)
            else { throw damaged(name, "it has \(bytes.count) bytes and a frame ends at \(frame.offset &+ frame.length)") }
            let start = Int(frame.offset - base)
            let raw: [UInt8]
            do { raw = try decompressor.decompress(bytes[start..<start + Int(frame.length)], limit: frame.rawLength) } catch {
                throw damaged(name, String(error.message.dropLast()))
            }
            guard UInt64(raw.count) == frame.rawLength, SHA256.of(raw) == frame.sha256 else {
                throw damaged(name, "its content's SHA-256 is not the recorded one")
            }
            contents.append(raw)
        }
        return contents
    }

    private static func damaged(_ name: String, _ why: String) -> ArchiveError {
        ArchiveError(
            .objectDamaged, "The archived log '\(name)' is damaged: \(why).",
            remedy: "Restore to a time before it, or from a newer base; `tidemark window` lists what can be reached.")
    }
}
