import ArchiveCore

/// Status lines and header fields as they come in, line by line; the last block counts, so those of 100 Continue and of proxies go.
struct ResponseHead: Sendable {
    /// Bytes of all lines of an answer that are taken.
    static let limit = 256 << 10

    private(set) var headers: [(name: String, value: String)] = []
    /// Whether the block's empty line was seen.
    private(set) var isComplete = false
    private var size = 0

    /// - Returns: `false` when the head is longer than any that is true.
    mutating func add(line bytes: some Collection<UInt8>) -> Bool {
        size += bytes.count
        guard size <= Self.limit else { return false }
        let line = String(decoding: bytes, as: UTF8.self)
        if line.hasPrefix("HTTP/") {
            headers = []
            isComplete = false
        } else if isComplete {
            // Trailers of a chunked body: nothing here depends on them.
        } else if line.utf8.first == UInt8(ascii: " ") || line.utf8.first == UInt8(ascii: "\t"), let last = headers.indices.last {
            headers[last].value += " " + Self.trimmed(line[...])
        } else if let colon = line.firstIndex(of: ":") {
            headers.append((String(line[..<colon]), Self.trimmed(line[line.index(after: colon)...])))
        } else if Self.trimmed(line[...]).isEmpty {
            isComplete = true
        }
        return true
    }

    /// What the server says that the body's length is.
    var contentLength: Int? { headers.last { $0.name.lowercased() == "content-length" }.flatMap { Int($0.value) } }

    private static func trimmed(_ text: Substring) -> String {
        var text = text
        while let last = text.unicodeScalars.last, last == " " || last == "\t" || last == "\r" || last == "\n" { text.unicodeScalars.removeLast() }
        while let first = text.unicodeScalars.first, first == " " || first == "\t" { text.unicodeScalars.removeFirst() }
        return String(text)
    }
}
