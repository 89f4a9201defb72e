import ArchiveCore
import CZstd

/// Zstandard frames, each with a checksum and its content's size.
public enum Zstd {
    /// Fast enough to keep up with a WAL sender on one core, and well below lz4's bytes.
    public static let defaultLevel: Int32 = 1

    /// Makes frames one after the other with one context, which is dear to set up for a small frame.
    public struct Compressor: ~Copyable {
        private let context: OpaquePointer

        /// - Throws: `.inputOutput` when the library is out of memory.
        public init(level: Int32 = defaultLevel) throws(ArchiveError) {
            guard let context = ZSTD_createCCtx() else { throw ArchiveError(.inputOutput, "zstd could not allocate a context.") }
            self.context = context
            // Neither fails: zstd brings a level into its range.
            ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)
            ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
        }

        deinit { ZSTD_freeCCtx(context) }

        /// Compresses `bytes` into one frame appended to `output`.
        public mutating func compress(_ bytes: [UInt8], into output: inout [UInt8]) throws(ArchiveError) {
            var failure: ArchiveError?
            // Room for the worst case, of which only what is needed is ever touched.
            let frame = [UInt8](unsafeUninitializedCapacity: ZSTD_compressBound(bytes.count)) { buffer, count in
                let result = bytes.withUnsafeBytes { ZSTD_compress2(context, buffer.baseAddress, buffer.count, $0.baseAddress, $0.count) }
                do throws(ArchiveError) { count = try check(result) } catch { failure = error }
            }
            if let failure { throw failure }
            if output.isEmpty { output = frame } else { output += frame }
        }
    }

    /// Compresses `bytes` into one frame appended to `output`.
    ///
    /// - Throws: `.inputOutput` when the library is out of memory.
    public static func compress(_ bytes: [UInt8], level: Int32 = defaultLevel, into output: inout [UInt8]) throws(ArchiveError) {
        var compressor = try Compressor(level: level)
        try compressor.compress(bytes, into: &output)
    }

    /// Reads frames one after the other with one context.
    public struct Decompressor: ~Copyable {
        private let context: OpaquePointer

        /// - Throws: `.inputOutput` when the library is out of memory.
        public init() throws(ArchiveError) {
            guard let context = ZSTD_createDCtx() else { throw ArchiveError(.inputOutput, "zstd could not allocate a context.") }
            self.context = context
        }

        deinit { ZSTD_freeDCtx(context) }

        /// Decompresses the one frame that `bytes` is. The frame must say its content's size, as ours do.
        ///
        /// - Parameter limit: the most bytes that are expected; a hostile frame cannot make us use more memory.
        /// - Throws: `.objectDamaged`.
        public mutating func decompress(_ bytes: ArraySlice<UInt8>, limit: UInt64) throws(ArchiveError) -> [UInt8] {
            let size = bytes.withUnsafeBytes { ZSTD_getFrameContentSize($0.baseAddress, $0.count) }
            // "Unknown" and "error" are the two largest numbers.
            guard size <= limit else {
                throw ArchiveError(.objectDamaged, "A zstd frame is damaged, or larger than the \(limit) bytes that were expected.")
            }
            var failure: ArchiveError?
            let output = [UInt8](unsafeUninitializedCapacity: Int(size)) { buffer, count in
                let result = bytes.withUnsafeBytes {
                    ZSTD_decompressDCtx(context, buffer.baseAddress, buffer.count, $0.baseAddress, $0.count)
                }
                do throws(ArchiveError) { count = try check(result) } catch { failure = error }
            }
            if let failure { throw failure }
            return output
        }
    }

    /// One frame with a context of its own; see `Decompressor`.
    public static func decompress(_ bytes: ArraySlice<UInt8>, limit: UInt64) throws(ArchiveError) -> [UInt8] {
        var decompressor = try Decompressor()
        return try decompressor.decompress(bytes, limit: limit)
    }

    /// Bytes of the frame that `bytes` begin with.
    ///
    /// - Throws: `.objectDamaged` when they begin with no frame, or end within it.
    public static func frameLength(_ bytes: ArraySlice<UInt8>) throws(ArchiveError) -> Int {
        try check(bytes.withUnsafeBytes { ZSTD_findFrameCompressedSize($0.baseAddress, $0.count) })
    }

    private static func check(_ result: Int) throws(ArchiveError) -> Int {
        guard ZSTD_isError(result) == 0 else {
            throw ArchiveError(.objectDamaged, "zstd failed: \(String(cString: ZSTD_getErrorName(result))).")
        }
        return result
    }
}
