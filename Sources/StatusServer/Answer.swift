/// What an HTTP request is answered with.
public struct Answer: Sendable, Hashable {
    public var status: Int
    public var type: String
    public var body: [UInt8]

    public init(status: Int, type: String, body: [UInt8]) {
        self.status = status
        self.type = type
        self.body = body
    }
}
