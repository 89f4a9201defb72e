/// What an HTTP request is answered with.
public struct Answer: Sendable, Hashable {
    public var status: Int
    public var type: String
    public var body: [UInt8]
    /// Methods that there are, for 405; `nil`: none need be named.
    public var allow: String?

    public init(status: Int, type: String, body: [UInt8], allow: String? = nil) {
        self.status = status
        self.type = type
        self.body = body
        self.allow = allow
    }

    /// Plain text, with its line end.
    static func text(_ status: Int, _ text: String, allow: String? = nil) -> Answer {
        Answer(status: status, type: "text/plain; charset=utf-8", body: Array("\(text)\n".utf8), allow: allow)
    }
}
