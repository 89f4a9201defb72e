import ArchiveCore
import Digests

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

    /// Proves a stored object, encrypted or not, by the length and digest that its index has.
    ///
    /// - Throws: `.objectDamaged` with the object's name.
    public static func prove(_ object: [UInt8], by index: PieceIndex, of name: String) throws(ArchiveError) {
        guard UInt64(object.count) == index.storedLength else {
            throw damaged(name, "it has \(object.count) bytes; \(index.storedLength) were archived")
        }
        guard SHA256.of(object) == index.storedSHA256 else { throw damaged(name, "its SHA-256 is not the recorded one") }
    }

    /// The frames that a stored object is made of, found out without its index; each is proven by its own checksum only.
    ///
    /// - Throws: `.objectDamaged` when it is anything but a row of whole frames.
    public static func frames(of object: [UInt8]) throws(ArchiveError) -> (frames: [LogFrame], contents: [[UInt8]]) {
        var frames: [LogFrame] = []
        var contents: [[UInt8]] = []
        var decompressor = try Zstd.Decompressor()
        var at = 0
        while at < object.count {
            let length = try Zstd.frameLength(object[at...])
            let raw = try decompressor.decompress(object[at..<at + length], limit: UInt64(ObjectKey.maximumSize))
            frames.append(LogFrame(offset: UInt64(at), length: UInt64(length), rawLength: UInt64(raw.count), sha256: SHA256.of(raw)))
            contents.append(raw)
            at += length
        }
        return (frames, contents)
    }

    private static func damaged(_ name: String, _ why: String) -> ArchiveError {
        ArchiveError(
            .objectDamaged, "The archived log '\(name)' is damaged: \(why).",
            remedy: "Restore to a time before it, or from a newer base; `tidemark window` lists what can be reached.")
    }
}
