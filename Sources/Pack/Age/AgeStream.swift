/// The payload of an age file: chunks of 64 KiB, each sealed for itself under its number, the last one marked as the last.
struct AgeStream: Sendable {
    static let chunkSize = 64 << 10
    static let sealedChunkSize = chunkSize + ChaChaPoly.tagSize

    private let key: [UInt8]

    init(fileKey: [UInt8], nonce: [UInt8]) { key = hkdf(fileKey, salt: nonce, info: "payload") }

    /// Length of the payload of `count` bytes, without the nonce.
    static func sealedLength(_ count: Int) -> Int { count + chunks(count) * ChaChaPoly.tagSize }

    private static func chunks(_ count: Int) -> Int { max(1, (count + chunkSize - 1) / chunkSize) }

    private static func nonce(_ number: UInt64, isFinal: Bool) -> [UInt8] {
        var nonce = [UInt8](repeating: 0, count: 12)
        for i in 0..<8 { nonce[10 - i] = UInt8(truncatingIfNeeded: number >> UInt64(8 * i)) }
        nonce[11] = isFinal ? 1 : 0
        return nonce
    }

    /// Seals all of `plain` into `output`, which has room for `sealedLength`.
    func seal(_ plain: UnsafeRawBufferPointer, into output: UnsafeMutablePointer<UInt8>) {
        let chunks = Self.chunks(plain.count)
        let cipher = ChaChaPoly(key: key)
        for number in 0..<chunks {
            let chunk = UnsafeRawBufferPointer(rebasing: plain[number * Self.chunkSize..<min(plain.count, (number + 1) * Self.chunkSize)])
            cipher.seal(chunk, nonce: Self.nonce(UInt64(number), isFinal: number == chunks - 1), into: output + number * Self.sealedChunkSize)
        }
    }

    /// Opens a run of whole chunks.
    ///
    /// - Parameters:
    ///   - first: number of the first of them.
    ///   - isEnd: whether the file ends with the last of them.
    func open(_ sealed: ArraySlice<UInt8>, first: UInt64, isEnd: Bool) throws(AgeFailure) -> [UInt8] {
        let rest = sealed.count % Self.sealedChunkSize
        let chunks = (sealed.count + Self.sealedChunkSize - 1) / Self.sealedChunkSize
        guard chunks > 0 else { throw .payload("it ends before its last chunk") }
        guard isEnd || rest == 0 else { throw .payload("a chunk within it is cut short") }
        guard rest == 0 || rest >= ChaChaPoly.tagSize else { throw .payload("its last chunk is cut short") }
        guard rest != ChaChaPoly.tagSize || chunks == 1 && first == 0 else { throw .payload("its last chunk is empty") }
        var bad: UInt64?
        let cipher = ChaChaPoly(key: key)
        let plain = [UInt8](unsafeUninitializedCapacity: sealed.count - chunks * ChaChaPoly.tagSize) { output, count in
            // Room for one byte, so that there is a place to point to for an empty content.
            withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1) { spare in
                let start = output.baseAddress ?? spare.baseAddress!
                sealed.withUnsafeBytes { bytes in
                    for number in 0..<chunks {
                        let chunk = bytes[number * Self.sealedChunkSize..<min(bytes.count, (number + 1) * Self.sealedChunkSize)]
                        let nonce = Self.nonce(first + UInt64(number), isFinal: isEnd && number == chunks - 1)
                        guard cipher.open(UnsafeRawBufferPointer(rebasing: chunk), nonce: nonce, into: start + number * Self.chunkSize) else {
                            bad = first + UInt64(number)
                            return
                        }
                    }
                }
            }
            count = bad == nil ? sealed.count - chunks * ChaChaPoly.tagSize : 0
        }
        if let bad { throw .payload("chunk \(bad) was changed, or is not where it was") }
        return plain
    }
}
