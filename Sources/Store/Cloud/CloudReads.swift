import ArchiveCore

/// An answer of status 200 that is not what the service sends.
func unusableAnswer(_ store: String, _ request: HTTPRequest) -> ArchiveError {
    ArchiveError(
        .storeUnavailable, "The answer to \(request.summary) is not one that \(store) gives.",
        remedy: "See whether the URL names the service itself, and nothing in between, such as a proxy with a page for logging in, answers for it.")
}

/// Reads an object, or a range of it, with one request; three times where the answer is not what it says it is.
///
/// - Parameters:
///   - size: asks for the object's size; `nil`: it is missing.
///   - fetch: sends the request with a value for a header of ranges, and a limit of bytes; answers with 200, 206, 404 or 416.
///   - isWhole: whether a whole object has the checksum that the answer states.
/// - Throws: `.objectMissing`; `.objectDamaged` when the object ends before the range does, or a checksum is wrong three times.
func readObject(
    _ key: ObjectKey, range: Range<UInt64>?, from store: String, size: () async throws -> UInt64?,
    _ fetch: (_ range: String?, _ limit: Int) async throws -> HTTPResponse, isWhole: (HTTPResponse) -> Bool
) async throws -> [UInt8] {
    func short(_ range: Range<UInt64>, _ stated: UInt64?) async throws -> ArchiveError? {
        guard let total = if let stated { stated } else { try await size() } else { return .objectMissing(key, in: store) }
        return range.upperBound > total ? .objectShort(key, range, size: total) : nil
    }
    guard let range else {
        for _ in 0..<3 {
            let response = try await fetch(nil, key.largestSize)
            if response.status == 404 { throw ArchiveError.objectMissing(key, in: store) }
            if response.status == 200, isWhole(response) { return response.body }
        }
        throw ArchiveError(
            .objectDamaged, "The object '\(key)' came from \(store) three times with other bytes than its checksum says.",
            remedy: "See whether something between here and the service changes what it sends; a copy of the archive may have it whole.")
    }
    guard !range.isEmpty else {
        if let refusal = try await short(range, nil) { throw refusal }
        return []
    }
    for _ in 0..<3 {
        // An error's text may be longer than a short range.
        let response = try await fetch("bytes=\(range.lowerBound)-\(range.upperBound - 1)", max(range.count, 1 << 16))
        switch response.status {
        case 404: throw ArchiveError.objectMissing(key, in: store)
        case 206:
            let total = statedRange(response)
            if response.body.count == range.count, total.start.map({ $0 == range.lowerBound }) ?? true { return response.body }
            if let refusal = try await short(range, total.size) { throw refusal }
        case 416: if let refusal = try await short(range, statedRange(response).size) { throw refusal }
        default:
            // The whole object, from a service that does not know ranges.
            let bytes = response.body
            guard range.upperBound <= UInt64(bytes.count) else { throw ArchiveError.objectShort(key, range, size: UInt64(bytes.count)) }
            if isWhole(response) { return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)]) }
        }
    }
    throw ArchiveError(
        .storeUnavailable, "\(store) sent other bytes of '\(key)' than the \(range.count) from \(range.lowerBound) on that were asked for, three times.",
        remedy: "See whether something between here and the service changes what it sends.")
}

/// `Content-Range: bytes 0-9/100`, or `bytes */100`.
private func statedRange(_ response: HTTPResponse) -> (start: UInt64?, size: UInt64?) {
    guard let text = response["Content-Range"], text.hasPrefix("bytes ") else { return (nil, nil) }
    let parts = text.dropFirst(6).split(separator: "/")
    guard parts.count == 2 else { return (nil, nil) }
    return (parts[0].split(separator: "-").first.flatMap { UInt64($0) }, UInt64(parts[1]))
}

/// Runs `body` for each element, at most `width` at once.
func inParallel<Element: Sendable>(_ elements: [Element], width: Int, _ body: @escaping @Sendable (Element) async throws -> Void) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
        var rest = elements[...]
        for element in rest.prefix(width) { group.addTask { try await body(element) } }
        rest = rest.dropFirst(width)
        while try await group.next() != nil {
            if let element = rest.popFirst() { group.addTask { try await body(element) } }
        }
    }
}
