import Digests
import Glibc

/// One request and its answer, on their way through a fault proxy.
struct FaultExchange {
    let client: LoopbackConnection
    let request: HTTPHead
    let upstream: Int
    let delay: Double
    /// Hears what was done, before the client can know.
    let count: (FaultProxy.Kind) -> Void

    /// - Returns: whether the client's connection goes on.
    func run(_ wanted: FaultProxy.Kind) -> Bool {
        var kind = wanted
        if [.cutUpload, .corruptUpload].contains(kind), request.length == 0 { kind = .pass }
        if kind == .lie, request.method != "PUT" { kind = .pass }
        switch kind {
        case .drop:
            count(kind)
            return false
        case .garbage:
            count(kind)
            client.write(Array("\u{1}\u{2}\u{3} this is no answer\r\n\r\n".utf8))
            return false
        case .stall:
            count(kind)
            client.waitForEnd()
            return false
        case .error500, .error503, .error429, .lie:
            guard let body = client.read(exactly: request.length) else { return false }
            count(kind)
            switch kind {
            case .error503: return client.answer(503, [("Retry-After", "1")])
            case .error429: return client.answer(429, [("Retry-After", "1")])
            case .lie: return client.answer(200, [("ETag", "\"\(hexText(MD5.of(body)))\"")])
            default: return client.answer(500)
            }
        default: break
        }
        if kind == .delay { usleep(UInt32(delay * 1e6)) }
        guard let server = LoopbackConnection(port: upstream) else { return false }
        defer { server.close() }
        if kind == .cutUpload { count(kind) }
        guard forwardRequest(to: server, kind) else { return false }
        return forwardAnswer(from: server, kind)
    }

    private func forwardRequest(to server: LoopbackConnection, _ kind: FaultProxy.Kind) -> Bool {
        var request = request
        if request["expect"] != nil {
            request["Expect"] = nil
            client.write(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8))
        }
        request["Connection"] = "close"
        server.write(request.bytes)
        let length = request.length
        guard copyBody(from: client, to: server, kind == .cutUpload ? length / 2 : length, flipping: kind == .corruptUpload ? length / 2 : nil) else {
            return false
        }
        return kind != .cutUpload
    }

    private func forwardAnswer(from server: LoopbackConnection, _ kind: FaultProxy.Kind) -> Bool {
        guard var answer = server.head() else { return false }
        while answer.status / 100 == 1 {
            guard let next = server.head() else { return false }
            answer = next
        }
        answer["Connection"] = nil
        let hasBody = request.method != "HEAD" && answer.status != 204 && answer.status != 304
        let length = hasBody ? answer.length : 0
        let isOpen = hasBody && answer["content-length"] == nil
        var kind = kind
        if [.truncate, .corruptAnswer].contains(kind), length == 0 { kind = .pass }
        count(kind)
        switch kind {
        case .dropAnswer: return false
        case .cutAnswer where length == 0:
            client.write(answer.bytes.prefix(answer.bytes.count / 2))
            return false
        case .cutAnswer:
            client.write(answer.bytes)
            _ = copyBody(from: server, to: client, length / 2)
            return false
        case .truncate:
            answer["Content-Length"] = "\(length / 2)"
            client.write(answer.bytes)
            return copyBody(from: server, to: client, length / 2)
        default:
            if isOpen { answer["Connection"] = "close" }
            client.write(answer.bytes)
            guard !isOpen else {
                // Chunked, or as long as the connection: either way as it comes.
                while let some = server.read(atMost: 1 << 16), client.write(some) {}
                return false
            }
            return copyBody(from: server, to: client, length, flipping: kind == .corruptAnswer ? length / 2 : nil)
        }
    }

    /// - Parameter flipping: the place of a byte to change.
    /// - Returns: `false` when a side ended first.
    private func copyBody(from source: LoopbackConnection, to target: LoopbackConnection, _ length: Int, flipping: Int? = nil) -> Bool {
        var done = 0
        while done < length {
            guard var some = source.read(atMost: min(1 << 16, length - done)) else { return false }
            if let flipping, (done..<done + some.count).contains(flipping) { some[flipping - done] ^= 0x55 }
            guard target.write(some) else { return false }
            done += some.count
        }
        return true
    }
}
