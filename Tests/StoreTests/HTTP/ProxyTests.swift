import ArchiveCore
import ArchiveTesting
import Store
import Testing

@Suite("Through a proxy", .timeLimit(.minutes(10)))
struct ProxyTests {
    @Test("plain requests name the whole address, and the proxy gets its own password")
    func plain() async throws {
        let proxy = try tinyServer { head, _, connection in
            connection.answer(200, [("X-Target", head.target), ("X-Proxy", head["proxy-authorization"] ?? "none")])
        }
        defer { proxy.stop() }
        let request = HTTPRequest(.get, scheme: "http", host: "store.invalid", path: "/a", headers: [("Authorization", "secret")])
        let answer = try await CurlTransport(options(proxy: "http://user:pass@127.0.0.1:\(proxy.port)")).send(request)
        #expect(answer["x-target"] == "http://store.invalid/a")
        #expect(answer["x-proxy"] == "Basic dXNlcjpwYXNz")
    }

    @Test("TLS goes through a tunnel, whose request has none of the headers")
    func tunnel() async throws {
        let seen = Counter()
        let proxy = try LoopbackServer { connection in
            guard let head = connection.head(), head.start == "CONNECT store.invalid:443 HTTP/1.1", head["authorization"] == nil else { return }
            seen.add()
            connection.write(Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8))
            if connection.read(exactly: 1) == [0x16] { seen.add() }
        }
        defer { proxy.stop() }
        let request = HTTPRequest(.get, host: "store.invalid", path: "/a", headers: [("Authorization", "secret")])
        let failure = try await failure { try await CurlTransport(options(proxy: "http://127.0.0.1:\(proxy.port)")).send(request) }
        #expect(seen.value == 2)
        #expect(failure.kind == .cut)
    }

    @Test("refusals of the proxy are told from those of the store", arguments: ["http", "https"])
    func refusal(_ scheme: String) async throws {
        let proxy = try tinyServer { _, _, connection in connection.answer(407, [("Proxy-Authenticate", "Basic realm=\"x\"")]) }
        defer { proxy.stop() }
        let transport = CurlTransport(options(proxy: "http://127.0.0.1:\(proxy.port)"))
        let failure = try await failure { try await transport.send(HTTPRequest(.get, scheme: scheme, host: "store.invalid", path: "/")) }
        #expect(failure.kind == .proxy && failure.message.contains("407"), "\(failure)")
    }

    @Test("a proxy that does not get through, or is not there, may be tried again")
    func trouble() async throws {
        let proxy = try tinyServer { _, _, connection in connection.answer(502) }
        defer { proxy.stop() }
        for port in [proxy.port, 1] {
            let transport = CurlTransport(options(proxy: "http://u:p@127.0.0.1:\(port)"))
            let failure = try await failure { try await transport.send(HTTPRequest(.get, host: "store.invalid", path: "/")) }
            #expect(failure.kind == .unreachable && failure.message.contains("127.0.0.1:\(port)") && !failure.message.contains("u:p"), "\(failure)")
        }
    }
}
