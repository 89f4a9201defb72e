import ArchiveCore
import ArchiveTesting
import Digests
import Glibc
import Store
import Testing

@Suite("The transport", .timeLimit(.minutes(10)))
struct CurlTransportTests {
    private let transport = CurlTransport(options())

    @Test("sends method, path, query, headers and body as they are", arguments: [HTTPRequest.Method.get, .put, .post, .delete])
    func asIs(_ method: HTTPRequest.Method) async throws {
        let server = try tinyServer { head, body, connection in
            let seen = ["expect", "transfer-encoding", "content-type"].filter { head[$0] != nil }
            return connection.answer(
                200,
                [
                    ("X-Start", head.start), ("X-Agent", head["user-agent"] ?? ""), ("X-Empty", head["x-none"] ?? "missing"),
                    ("X-Seen", seen.joined()),
                ], body: body)
        }
        defer { server.stop() }
        var request = HTTPRequest(
            method, scheme: "http", host: "127.0.0.1:\(server.port)", path: "/a/../b%20c", query: [("list", nil), ("k", "a b/é")],
            headers: [("X-None", "")])
        if method == .put || method == .post { request.body = Array("some bytes".utf8) }
        let response = try await transport.send(request)
        #expect(response.status == 200)
        #expect(response["x-start"] == "\(method.rawValue) /a/../b%20c?list&k=a%20b%2F%C3%A9 HTTP/1.1")
        #expect(response["X-AGENT"] == "tidemark")
        #expect(response["x-empty"] == "")
        #expect(response["x-seen"] == "")
        #expect(response.body == request.body)
    }

    @Test("says the length of an empty body", arguments: [HTTPRequest.Method.put, .post])
    func empty(_ method: HTTPRequest.Method) async throws {
        let server = try tinyServer { head, _, connection in connection.answer(200, [("X-Length", head["content-length"] ?? "none")]) }
        defer { server.stop() }
        #expect(try await transport.send(HTTPRequest(method, scheme: "http", host: "127.0.0.1:\(server.port)", path: "/"))["x-length"] == "0")
    }

    @Test("uses a connection again")
    func reuse() async throws {
        let server = try tinyServer { _, _, connection in connection.answer(200, body: [1]) }
        defer { server.stop() }
        for _ in 0..<20 { _ = try await transport.send(get(server.port)) }
        #expect(server.connections == 1)
    }

    @Test("carries 64 requests at once")
    func parallel() async throws {
        let inside = Counter()
        let server = try tinyServer { head, _, connection in
            inside.add()
            while inside.value < 64 { usleep(1000) }  // nobody is answered before all have asked
            return connection.answer(200, body: Array(head.target.utf8))
        }
        defer { server.stop() }
        let port = server.port
        try await withThrowingTaskGroup(of: Void.self) { group in
            for n in 0..<64 {
                group.addTask {
                    let answer = try await transport.send(get(port, "/\(n)"))
                    #expect(answer.body == Array("/\(n)".utf8))
                }
            }
            try await group.waitForAll()
        }
    }

    @Test("moves 50 MB up and down unharmed")
    func large() async throws {
        let server = try tinyServer { _, body, connection in connection.answer(200, body: body) }
        defer { server.stop() }
        var random = SeededRandom(seed: 1)
        let bytes = [UInt8](unsafeUninitializedCapacity: 50_000_000) { buffer, count in
            for i in 0..<50_000_000 / 8 { UnsafeMutableRawBufferPointer(buffer).storeBytes(of: random.next(), toByteOffset: i * 8, as: UInt64.self) }
            count = 50_000_000
        }
        var request = HTTPRequest(.put, scheme: "http", host: "127.0.0.1:\(server.port)", path: "/", body: bytes, responseLimit: 50_000_000)
        #expect(SHA256.of(try await transport.send(request).body) == SHA256.of(bytes))
        request.responseLimit -= 1
        #expect(try await failure { try await transport.send(request) }.kind == .tooLong)
    }

    @Test("gives HEAD's answer without a body, and redirections as they are")
    func head() async throws {
        let server = try tinyServer { head, _, connection in
            head.method == "HEAD"
                ? connection.answer(200, [("Content-Length", "123456789")]) : connection.answer(307, [("Location", "http://127.0.0.1:1/other")])
        }
        defer { server.stop() }
        let known = try await transport.send(HTTPRequest(.head, scheme: "http", host: "127.0.0.1:\(server.port)", path: "/", responseLimit: 0))
        #expect(known["content-length"] == "123456789" && known.body.isEmpty)
        #expect(try await transport.send(get(server.port)).status == 307)
    }

    @Test("takes the last block of headers, chunked bodies, and bodies that end with the connection")
    func shapes() async throws {
        let server = try tinyServer { head, _, connection in
            switch head.target {
            case "/continue":
                connection.write(Array("HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\n".utf8))
                connection.write(Array("HTTP/1.1 201 Created\r\nX-A:  2 \r\nContent-Length: 1\r\n\r\nx".utf8))
            case "/chunked":
                connection.write(Array("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-A: trailer\r\n\r\n".utf8))
            default: connection.write(Array("HTTP/1.1 200 OK\r\n\r\nuntil the end".utf8))
            }
            return head.target != "/"
        }
        defer { server.stop() }
        let created = try await transport.send(get(server.port, "/continue"))
        #expect(created.status == 201 && created.headers.map(\.value) == ["2", "1"] && created.body == Array("x".utf8))
        let chunked = try await transport.send(get(server.port, "/chunked"))
        #expect(chunked.body == Array("abcde".utf8) && chunked["x-a"] == nil)
        #expect(try await transport.send(get(server.port)).body == Array("until the end".utf8))
    }

    @Test(
        "names what is wrong with an answer",
        arguments: [
            ("", .cut), ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", .cut), ("HTTP/1.1 200 OK\r\nContent-Le", .cut),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", .cut), ("what is this\r\n\r\n", .malformed),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", .cut), ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", .tooLong),
            ("HTTP/1.1 200 OK\r\n\r\n" + String(repeating: "x", count: 1001), .tooLong),
        ] as [(String, HTTPFailure.Kind)])
    func wrong(_ answer: String, _ kind: HTTPFailure.Kind) async throws {
        let server = try tinyServer { _, _, connection in
            connection.write(Array(answer.utf8))
            return false
        }
        defer { server.stop() }
        let failure = try await failure { try await transport.send(get(server.port, limit: 1000)) }
        #expect(failure.kind == kind, "\(failure)")
        #expect(failure.message.contains("127.0.0.1:\(server.port)"))
    }

    @Test("takes 256 KiB of headers and no more")
    func longHead() async throws {
        let server = try tinyServer { _, _, connection in
            connection.write(Array("HTTP/1.1 200 OK\r\n".utf8))
            while connection.write(Array("X-Long: \(String(repeating: "y", count: 1000))\r\n".utf8)) {}
            return false
        }
        defer { server.stop() }
        let failure = try await failure { try await transport.send(get(server.port)) }
        #expect(failure.kind == .malformed && failure.message.contains("262144 bytes of headers"))
    }

    @Test("does not wait for ever: nobody listens, the name is unknown, no byte comes, no connection stands")
    func patience() async throws {
        let server = try tinyServer { head, _, connection in
            if head.target == "/half" { connection.write(Array("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345".utf8)) }
            connection.waitForEnd()
            return false
        }
        defer { server.stop() }
        for path in ["/none", "/half"] {
            let stalled = try await failure { try await CurlTransport(options(stall: 0.3)).send(get(server.port, path)) }
            #expect(stalled.kind == .timeout && stalled.message == "No byte moved between here and 127.0.0.1:\(server.port) for 0.3 s.")
        }
        server.stop()
        let refused = try await failure { try await transport.send(get(1)) }
        #expect(refused.kind == .unreachable && refused.message == "Could not connect to 127.0.0.1:1: Connection refused.")
        let unknown = try await failure { try await transport.send(HTTPRequest(.get, scheme: "http", host: "no-such-host.invalid", path: "/")) }
        #expect(unknown.kind == .unknownName && unknown.message == "The name of no-such-host.invalid:80 is unknown.")
    }

    @Test("an upload that nobody reads is a stall as well")
    func fullUpload() async throws {
        let server = try LoopbackServer { connection in
            _ = connection.head()
            usleep(2_000_000)
        }
        defer { server.stop() }
        let request = HTTPRequest(.put, scheme: "http", host: "127.0.0.1:\(server.port)", path: "/", body: [UInt8](repeating: 7, count: 64 << 20))
        #expect(try await failure { try await CurlTransport(options(stall: 0.5)).send(request) }.kind == .timeout)
    }

    @Test("ends a request when it is cancelled, wherever it is, and its neighbours go on")
    func cancellation() async throws {
        let arrived = Counter()
        let server = try tinyServer { head, _, connection in
            if head.target == "/quick" { return connection.answer(200) }
            arrived.add()
            connection.waitForEnd()
            return false
        }
        defer { server.stop() }
        let port = server.port
        let stalled = (0..<10).map { _ in Task { try await transport.send(get(port, "/stall")) } }
        while arrived.value < 10 { try await Task.sleep(for: .milliseconds(5)) }
        // Their own end would be a timeout, long after.
        for task in stalled { task.cancel() }
        for task in stalled { #expect(try await failure { try await task.value }.kind == .cancelled) }
        #expect(try await transport.send(get(port, "/quick")).status == 200)
        // Cancelled before it began.
        let late = Task {
            while !Task.isCancelled { await Task.yield() }
            return try await transport.send(get(port, "/quick"))
        }
        late.cancel()
        #expect(try await failure { try await late.value }.kind == .cancelled)
    }

    @Test("refuses what is no request")
    func noRequest() async throws {
        var request = get(1)
        request.headers = [("X", "a\r\nY: b")]
        #expect(try await failure { try await transport.send(request) }.kind == .request)
        for scheme in ["ftp", "file", ""] {
            #expect(try await failure { try await transport.send(HTTPRequest(.get, scheme: scheme, host: "h", path: "/")) }.kind == .request)
        }
    }

    @Test("shows neither query nor headers")
    func secrets() async throws {
        let server = try tinyServer { head, _, connection in
            if head.target.hasPrefix("/junk") { connection.write(Array("junk\r\n\r\n".utf8)) }
            if head.target.hasPrefix("/stall") { connection.waitForEnd() }
            return false
        }
        defer { server.stop() }
        for (port, path, limit) in [(server.port, "/cut", 10), (server.port, "/junk", 10), (server.port, "/stall", 10), (1, "/", 10)] {
            var request = get(port, path, limit: limit)
            request.query = [("X-Amz-Signature", "QUERYSECRET")]
            request.headers = [("Authorization", "HEADERSECRET")]
            for proxy in ["", "http://u:PROXYSECRET@127.0.0.1:1", "nonsense://u:PROXYSECRET@127.0.0.1:1", "http://u:PROXYSECRET@127.0.0.1:port"] {
                let failure = try await failure { try await CurlTransport(options(stall: 0.2, proxy: proxy)).send(request) }
                #expect(!"\(failure)".contains("SECRET"), "\(failure)")
                let transport = CurlTransport(options(stall: 0.2, proxy: proxy))
                let client = HTTPClient(transport, service: "s3://b", now: { Moment(nanoseconds: 0) }, policy: .once)
                let error = await #expect(throws: ArchiveError.self) { try await client.ask(request) }
                #expect(error.map { "\($0)".contains("SECRET") } == false)
            }
        }
    }
}
