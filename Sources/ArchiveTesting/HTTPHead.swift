/// The head of a request or an answer of HTTP/1.1, as far as tests need it.
public struct HTTPHead: Sendable {
    /// `GET /path HTTP/1.1`, or `HTTP/1.1 200 OK`.
    public var start: String
    public var fields: [(name: String, value: String)] = []

    public init(start: String, fields: [(name: String, value: String)] = []) {
        self.start = start
        self.fields = fields
    }

    public var method: String { String(start.prefix { $0 != " " }) }
    /// With its query.
    public var target: String { start.split(separator: " ").dropFirst().first.map(String.init) ?? "" }
    public var status: Int { start.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0 }

    public subscript(_ name: String) -> String? {
        get { fields.first { $0.name.lowercased() == name.lowercased() }?.value }
        set {
            fields.removeAll { $0.name.lowercased() == name.lowercased() }
            if let newValue { fields.append((name, newValue)) }
        }
    }

    public var length: Int { self["content-length"].flatMap { Int($0) } ?? 0 }

    public var bytes: [UInt8] { Array((start + "\r\n" + fields.map { "\($0.name): \($0.value)\r\n" }.joined() + "\r\n").utf8) }
}

extension LoopbackConnection {
    /// Reads up to the empty line; `nil` at the end.
    public func head() -> HTTPHead? {
        guard let start = text() else { return nil }
        var head = HTTPHead(start: start)
        while let line = text() {
            if line.isEmpty { return head }
            let colon = line.firstIndex(of: ":") ?? line.endIndex
            head.fields.append((String(line[..<colon]), String(line[colon...].drop { $0 == ":" || $0 == " " })))
        }
        return nil
    }

    private func text() -> String? { line().map { String(decoding: $0.filter { $0 != 13 && $0 != 10 }, as: UTF8.self) } }

    /// Writes an answer with its length.
    @discardableResult
    public func answer(_ status: Int, _ fields: [(name: String, value: String)] = [], body: [UInt8] = []) -> Bool {
        var head = HTTPHead(start: "HTTP/1.1 \(status) Answer", fields: fields)
        if head["content-length"] == nil { head["Content-Length"] = "\(body.count)" }
        return write(head.bytes + body)
    }
}
