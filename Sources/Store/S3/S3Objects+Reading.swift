import ArchiveCore

extension S3Objects {
    /// Objects are read in pieces of this size, several at a time.
    static let pieceSize: UInt64 = 16 << 20
    static let piecesAtOnce = 4

    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] {
        if let range {
            if range.isEmpty {
                guard let found = try await look(at: key) else { throw ArchiveError.objectMissing(key, in: description) }
                guard range.upperBound <= found.size else { throw ArchiveError.objectShort(key, range, size: found.size) }
                return []
            }
            let piece = try await self.piece(key, range, tag: nil)
            guard range.upperBound <= piece.total else { throw ArchiveError.objectShort(key, range, size: piece.total) }
            return piece.bytes
        }
        let first = try await piece(key, 0..<Self.pieceSize, tag: nil, whole: true)
        guard first.total > UInt64(first.bytes.count) else { return first.bytes }
        guard first.total <= UInt64(key.largestSize), let tag = first.tag else {
            throw ArchiveError(.objectDamaged, "The object '\(key)' in \(description) has \(first.total) bytes, more than one of its name can have.",
                remedy: "See whether the URL names the archive, and what wrote this object: Tidemark did not.")
        }
        var pieces: [UInt64: [UInt8]] = [0: first.bytes]
        var next = UInt64(first.bytes.count)
        try await withThrowingTaskGroup(of: (UInt64, [UInt8]).self) { group in
            func add() {
                guard next < first.total else { return }
                let range = next..<min(next + Self.pieceSize, first.total)
                next = range.upperBound
                group.addTask { (range.lowerBound, try await self.piece(key, range, tag: tag).bytes) }
            }
            for _ in 0..<Self.piecesAtOnce { add() }
            while let (start, bytes) = try await group.next() {
                pieces[start] = bytes
                add()
            }
        }
        var result: [UInt8] = []
        result.reserveCapacity(Int(first.total))
        for start in pieces.keys.sorted() { result += pieces.removeValue(forKey: start) ?? [] }
        guard UInt64(result.count) == first.total else { throw odd(key, "its pieces do not add up") }
        return result
    }

    private struct Piece {
        var bytes: [UInt8]
        /// Of the whole object, in bytes.
        var total: UInt64
        var tag: String?
    }

    private func odd(_ key: ObjectKey, _ why: String) -> ArchiveError {
        ArchiveError(
            .storeUnavailable, "\(description) answered oddly to GetObject of '\(key)': \(why).",
            remedy: "See what stands between here and the service.")
    }

    /// - Parameters:
    ///   - tag: the entity tag that the object must still have.
    ///   - whole: whether the object may be longer, and be answered whole.
    private func piece(_ key: ObjectKey, _ range: Range<UInt64>, tag: String?, whole: Bool = false) async throws -> Piece {
        var headers: [(name: String, value: String)] = [("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")]
        if let tag { headers.append(("If-Match", tag)) }
        let response = try await service.send(
            S3Request(
                action: .get, method: .get, key: location.prefix + key.path, headers: headers, limit: whole ? key.largestSize : range.count,
                check: { Self.fault($0, range) }))
        switch response.status {
        case 206:
            guard let told = ContentRange(response["content-range"]) else { throw odd(key, "it named no range") }
            guard tag == nil || response["etag"] == nil || response["etag"] == tag else { throw odd(key, "it changed while it was read") }
            return Piece(bytes: response.body, total: told.total, tag: response["etag"])
        case 200:
            // Whoever knows no ranges answers with everything.
            let total = UInt64(response.body.count)
            if whole { return Piece(bytes: response.body, total: total, tag: response["etag"]) }
            guard range.upperBound <= total else { throw ArchiveError.objectShort(key, range, size: total) }
            return Piece(bytes: Array(response.body[Int(range.lowerBound)..<Int(range.upperBound)]), total: total, tag: response["etag"])
        case 416:
            guard let found = try await look(at: key) else { throw ArchiveError.objectMissing(key, in: description) }
            if whole, found.size == 0 { return Piece(bytes: [], total: 0, tag: found.version) }
            guard range.upperBound > found.size else { throw odd(key, "it called a range unsatisfiable that is within the object") }
            throw ArchiveError.objectShort(key, range, size: found.size)
        case 404:
            let answer = S3Answer(response)
            guard answer.code != "NoSuchBucket", !answer.isForeign else { throw failure(.get, response, key) }
            throw ArchiveError.objectMissing(key, in: description)
        case 412: throw odd(key, "it changed while it was read")
        default: throw failure(.get, response, key)
        }
    }

    /// What in an answer to a request for `range` cannot be; it may have been cut off on the way.
    private static func fault(_ response: HTTPResponse, _ range: Range<UInt64>) -> String? {
        switch response.status {
        case 206:
            guard let told = ContentRange(response["content-range"]) else { return "the answer to a range names none" }
            guard told.range.lowerBound == range.lowerBound, told.range.upperBound == min(range.upperBound, told.total) else {
                return "the answer is another range"
            }
            return told.range.count == response.body.count ? nil : "the answer has \(response.body.count) bytes of \(told.range.count)"
        case 200:
            guard let length = response["content-length"].flatMap(Int.init), length != response.body.count else { return nil }
            return "the answer has \(response.body.count) bytes of \(length)"
        default: return nil
        }
    }
}

/// `bytes 0-9/100` (RFC 9110, Content-Range).
struct ContentRange: Sendable, Hashable {
    var range: Range<UInt64>
    var total: UInt64

    init?(_ text: String?) {
        guard let text, text.hasPrefix("bytes ") else { return nil }
        let parts = text.dropFirst(6).split { $0 == "-" || $0 == "/" }.map { UInt64($0) }
        guard parts.count == 3, let first = parts[0], let last = parts[1], let total = parts[2], first <= last, last < total else { return nil }
        range = first..<last + 1
        self.total = total
    }
}
