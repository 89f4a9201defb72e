import ArchiveCore
import Foundation
import Synchronization
import Testing

@testable import Store

/// Answers requests as a test says, and keeps them.
final class ScriptedTransport: HTTPTransport {
    private let answer: @Sendable (HTTPRequest) async throws -> HTTPResponse
    private let seen = Mutex<[HTTPRequest]>([])

    init(_ answer: @escaping @Sendable (HTTPRequest) async throws -> HTTPResponse) { self.answer = answer }

    var requests: [HTTPRequest] { seen.withLock { $0 } }

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        seen.withLock { $0.append(request) }
        return try await answer(request)
    }
}

/// What stores said.
final class Warnings: Sendable {
    private let texts = Mutex<[String]>([])
    var all: [String] { texts.withLock { $0 } }
    func add(_ text: String) { texts.withLock { $0.append(text) } }
}

let scriptedTime = Moment("2026-11-24T02:53:30Z")!

func openScripted(
    _ url: String, _ transport: ScriptedTransport, environment: [String: String] = [:], warnings: Warnings = Warnings(), at time: Moment = scriptedTime
) throws -> any ObjectStore {
    // Patient: the machine may be slow, and what is scripted ends by itself.
    try StoreLocation(url).open(
        StoreContext(
            transport: { _ in transport }, environment: { environment[$0] }, now: { time }, retries: RetryPolicy(patience: 86_400), warn: { warnings.add($0) }))
}

func json(_ object: [String: Any], status: Int = 200, headers: [(name: String, value: String)] = []) throws -> HTTPResponse {
    HTTPResponse(status: status, headers: headers, body: Array(try JSONSerialization.data(withJSONObject: object)))
}

/// A bucket in memory that can be told to misbehave.
final class ScriptedBucket: Sendable {
    struct Object: Sendable {
        var bytes: [UInt8]
        var generation: Int
    }
    /// By whole name.
    let objects = Mutex<[String: Object]>([:])
    private let counter = Mutex(0)

    func refusal(_ status: Int, _ reason: String, _ message: String = "") throws -> HTTPResponse {
        try json(["error": ["code": status, "message": message, "errors": [["reason": reason]]]], status: status)
    }

    func describe(_ name: String, _ object: Object) throws -> HTTPResponse {
        let mark = Fingerprint(object.bytes)
        return try json([
            "name": name, "size": "\(mark.size)", "md5Hash": Data(mark.md5).base64EncodedString(), "crc32c": GCSHashes.text(crc32c: mark.crc32c),
            "generation": "\(object.generation)",
        ])
    }

    /// The parts of an upload: its metadata, and the object's bytes.
    static func parts(_ request: HTTPRequest) throws -> (metadata: [String: String], bytes: [UInt8]) {
        let type = try #require(request["Content-Type"])
        let boundary = try #require(type.firstRange(of: "boundary=").map { type[$0.upperBound...] })
        let data = Data(request.body)
        let head = try #require(data.range(of: Data("\r\n\r\n".utf8)))
        let middle = try #require(data.range(of: Data("\r\n--\(boundary)\r\nContent-Type: application/octet-stream\r\n\r\n".utf8)))
        let end = try #require(data.range(of: Data("\r\n--\(boundary)--\r\n".utf8), options: .backwards))
        let metadata = try JSONDecoder().decode([String: String].self, from: data[head.upperBound..<middle.lowerBound])
        return (metadata, Array(data[middle.upperBound..<end.lowerBound]))
    }

    func answer(_ request: HTTPRequest, ignoringConditions: Bool = false) throws -> HTTPResponse {
        if request.method == .post {
            let (metadata, bytes) = try Self.parts(request)
            let name = try #require(metadata["name"])
            let isConditional = request.query.contains { $0.name == "ifGenerationMatch" && $0.value == "0" }
            let generation = counter.withLock { count in
                count += 1
                return count
            }
            let object = Object(bytes: bytes, generation: generation)
            let isTaken = objects.withLock { objects in
                if isConditional, !ignoringConditions, objects[name] != nil { return true }
                objects[name] = object
                return false
            }
            return isTaken ? try refusal(412, "conditionNotMet") : try describe(name, object)
        }
        let name = try #require(request.path.firstRange(of: "/o/").map { request.path[$0.upperBound...] }?.removingPercentEncoding)
        guard let object = objects.withLock({ $0[name] }) else { return try refusal(404, "notFound", "No such object: bucket/\(name)") }
        if request.method == .delete {
            if let wanted = request.query.first(where: { $0.name == "ifGenerationMatch" })?.value, wanted != "\(object.generation)" {
                return try refusal(412, "conditionNotMet")
            }
            objects.withLock { $0[name] = nil }
            return HTTPResponse(status: 204)
        }
        guard request.query.contains(where: { $0.name == "alt" }) else { return try describe(name, object) }
        return HTTPResponse(
            status: 200, headers: [("x-goog-hash", "crc32c=" + GCSHashes.text(crc32c: Fingerprint(object.bytes).crc32c))], body: object.bytes)
    }
}
