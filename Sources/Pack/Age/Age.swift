import ArchiveCore

/// Files in the age v1 format (C2SP's `age.md`), for X25519 recipients, in memory. `age -d -i FILE` opens what this seals.
public enum Age {
    /// Seals `plain` so that any one of the recipients can open it.
    ///
    /// - Returns: the file, and the length of what comes before its first chunk.
    /// - Precondition: there is a recipient.
    public static func seal(_ plain: [UInt8], to recipients: [AgeRecipient]) throws(ArchiveError) -> (file: [UInt8], headerLength: Int) {
        let fileKey = randomBytes(AgeX25519.fileKeySize)
        let nonce = randomBytes(AgeHeader.nonceSize)
        precondition(!recipients.isEmpty && recipients.count <= AgeHeader.maximumStanzas)
        let header: [UInt8]
        do { header = try AgeHeader.encoded(fileKey: fileKey, recipients: recipients) + nonce } catch { throw Self.error(error, "what is to be encrypted") }
        let stream = AgeStream(fileKey: fileKey, nonce: nonce)
        let length = header.count + AgeStream.sealedLength(plain.count)
        let file = [UInt8](unsafeUninitializedCapacity: length) { output, count in
            _ = output.update(fromContentsOf: header)
            plain.withUnsafeBytes { stream.seal($0, into: output.baseAddress! + header.count) }
            count = length
        }
        return (file, header.count)
    }

    /// Opens a whole file.
    ///
    /// - Parameter name: what the file is called in errors.
    /// - Throws: `.keyMissing` without identities, `.keyWrong`, `.objectDamaged`.
    public static func open(_ file: [UInt8], with identities: [AgeIdentity], of name: String) throws(ArchiveError) -> [UInt8] {
        let opener = try AgeOpener(file[...], with: identities, of: name)
        return try opener.open(file[opener.headerLength...], first: 0, isEnd: true)
    }

    static func error(_ failure: AgeFailure, _ name: String, identities: Int = 0) -> ArchiveError {
        switch failure {
        case .header(let why): ArchiveError(.objectDamaged, "'\(name)' is not a whole age file: in its header, \(why).", remedy: damaged)
        case .payload(let why): ArchiveError(.objectDamaged, "'\(name)' is encrypted and damaged: \(why).", remedy: damaged)
        case .authentication: ArchiveError(.objectDamaged, "'\(name)' is encrypted and damaged: its header was changed.", remedy: damaged)
        case .passphrase: ArchiveError(.keyWrong, "'\(name)' is encrypted with a passphrase.", remedy: "Decrypt it with age first.")
        case .noMatch:
            ArchiveError(
                .keyWrong, identities == 1 ? "The one identity that was given does not open '\(name)'." : "None of the \(identities) identities that were given opens '\(name)'.",
                remedy: "Give the identity of one of the recipients that it was encrypted for, with --identity FILE; keys that were in use earlier open what was archived then.")
        }
    }

    private static let damaged = "Restore the object from a copy of the archive, or take a new base."
}

/// An age file whose header was opened; opens its payload, or any run of its chunks.
public struct AgeOpener: Sendable {
    private let stream: AgeStream
    private let name: String
    /// Bytes before the first chunk.
    public let headerLength: Int
    /// Bytes that hold everything before the first chunk of any file that is read.
    public static let longestHeader = UInt64(AgeHeader.maximumSize + AgeHeader.nonceSize)

    /// - Parameter bytes: the file, or at least everything before its first chunk.
    /// - Throws: `.keyMissing` without identities, `.keyWrong`, `.objectDamaged`.
    public init(_ bytes: ArraySlice<UInt8>, with identities: [AgeIdentity], of name: String) throws(ArchiveError) {
        guard !identities.isEmpty else {
            throw ArchiveError(
                .keyMissing, "'\(name)' is encrypted, and no identity was given.",
                remedy: "Give the file of an age identity that opens it with --identity FILE, in the configuration (encrypt: identity), or in TIDEMARK_IDENTITY.")
        }
        do throws(AgeFailure) {
            let header = try AgeHeader(parsing: bytes)
            let key = try header.fileKey(with: identities)
            let start = bytes.startIndex + header.length
            guard bytes.count - header.length >= AgeHeader.nonceSize else { throw .header("the nonce behind it is cut short") }
            stream = AgeStream(fileKey: key, nonce: Array(bytes[start..<start + AgeHeader.nonceSize]))
            headerLength = header.length + AgeHeader.nonceSize
        } catch { throw Age.error(error, name, identities: identities.count) }
        self.name = name
    }

    /// - Parameters:
    ///   - chunks: whole chunks, in their order.
    ///   - first: number of the first of them.
    ///   - isEnd: whether the file ends with the last of them.
    /// - Throws: `.objectDamaged`.
    public func open(_ chunks: ArraySlice<UInt8>, first: UInt64, isEnd: Bool) throws(ArchiveError) -> [UInt8] {
        do { return try stream.open(chunks, first: first, isEnd: isEnd) } catch { throw Age.error(error, name) }
    }
}

/// Where the content of a sealed file lies in it. Numbers are bytes.
public struct AgeLayout: Sendable, Hashable {
    public var headerLength: UInt64
    /// Length of the whole file.
    public var length: UInt64

    public init(headerLength: UInt64, length: UInt64) {
        self.headerLength = headerLength
        self.length = length
    }

    /// The whole chunks that hold a part of the content, as a part of the file.
    ///
    /// - Parameter range: not empty.
    public func chunks(holding range: Range<UInt64>) -> (file: Range<UInt64>, first: UInt64, isEnd: Bool) {
        let (size, sealed) = (UInt64(AgeStream.chunkSize), UInt64(AgeStream.sealedChunkSize))
        let first = range.lowerBound / size
        let start = min(length, headerLength &+ first &* sealed)
        let end = min(length, headerLength &+ ((range.upperBound - 1) / size + 1) &* sealed)
        return (start..<max(start, end), first, end == length)
    }

    /// Where the content of chunk `first` begins in the content.
    public static func offset(ofChunk first: UInt64) -> UInt64 { first * UInt64(AgeStream.chunkSize) }
}
