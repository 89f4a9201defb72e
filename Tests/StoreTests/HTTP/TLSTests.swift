import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Store
import Testing

@Suite("TLS", .timeLimit(.minutes(10)))
struct TLSTests {
    private let directory: TemporaryDirectory
    private var certificate: String { directory.path + "/certificate.pem" }

    init() async throws {
        directory = try TemporaryDirectory()
        let made = try await Subprocess([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", directory.path + "/key.pem", "-out", directory.path + "/certificate.pem",
        ]).run()
        try #require(made.status == 0, "\(made.errors)")
    }

    private static let script = """
        import http.server, os, ssl, sys
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_GET(self):
                body = self.connection.version().encode()
                self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
            def log_message(self, *arguments): pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1] + "/certificate.pem", sys.argv[1] + "/key.pem")
        if sys.argv[2] == "old":
            context.set_ciphers("ALL:@SECLEVEL=0"); context.minimum_version = ssl.TLSVersion.TLSv1; context.maximum_version = ssl.TLSVersion.TLSv1_1
        server.socket = context.wrap_socket(server.socket, server_side=True)
        open(sys.argv[1] + "/port.new", "w").write(str(server.server_port)); os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
        server.serve_forever()
        """

    /// Runs `body` with the port of a server that has the certificate.
    private func withServer(_ kind: String = "new", _ body: (Int) async throws -> Void) async throws {
        let server = Task { [directory] in try await Subprocess(["python3", "-W", "ignore", "-c", Self.script, directory.path, kind]).run() }
        var port: Int?
        while port == nil {
            try await Task.sleep(for: .milliseconds(20))
            port = (try? String(decoding: Files.read(directory.path + "/port"), as: UTF8.self)).flatMap { Int($0) }
        }
        do { try await body(port!) } catch {
            server.cancel()
            throw error
        }
        server.cancel()
        _ = await server.result
    }

    private func request(_ port: Int, host: String = "localhost") -> HTTPRequest { HTTPRequest(.get, host: "\(host):\(port)", path: "/") }

    @Test("trusts the file of authorities, and nobody without it; the name counts")
    func trust() async throws {
        try await withServer { port in
            let answer = try await CurlTransport(options(caFile: certificate)).send(request(port))
            #expect(String(decoding: answer.body, as: UTF8.self) == "TLSv1.3")
            let stranger = try await failure { try await CurlTransport(options()).send(request(port)) }
            #expect(stranger.kind == .tls && stranger.message.hasPrefix("The certificate of localhost:\(port) is not trusted: "), "\(stranger)")
            let other = try await failure { try await CurlTransport(options(caFile: certificate)).send(request(port, host: "127.0.0.1")) }
            #expect(other.kind == .tls && other.message.contains("127.0.0.1"), "\(other)")
            let missing = try await failure { try await CurlTransport(options(caFile: "/nowhere/ca.pem")).send(request(port)) }
            #expect(missing.kind == .tls && missing.message.contains("'/nowhere/ca.pem'"), "\(missing)")
            // And again over what may have been kept from before.
            #expect(try await CurlTransport(options(caFile: certificate)).send(request(port)).status == 200)
            #expect(try await failure { try await CurlTransport(options()).send(request(port)) }.kind == .tls)
        }
    }

    @Test("a server of TLS 1.1 is refused")
    func old() async throws {
        try await withServer("old") { port in
            let failure = try await failure { try await CurlTransport(options(caFile: certificate)).send(request(port)) }
            #expect(failure.kind == .tls, "\(failure)")
        }
    }

    @Test("HTTP where TLS is spoken, and TLS where HTTP is spoken")
    func crossed() async throws {
        let plain = try tinyServer { _, _, connection in connection.answer(200) }
        defer { plain.stop() }
        let junk = try LoopbackServer { connection in
            _ = connection.read(atMost: 1)
            connection.write(Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8))
        }
        defer { junk.stop() }
        let failure = try await failure { try await CurlTransport(options()).send(request(junk.port)) }
        #expect(failure.kind == .plain && failure.message == "localhost:\(junk.port) speaks no TLS on this port.", "\(failure)")
        try await withServer { port in
            let failure = try await StoreTests.failure { try await CurlTransport(options()).send(get(port)) }
            #expect([.malformed, .cut].contains(failure.kind), "\(failure)")
        }
    }

    @Test("a connection that breaks while TLS is agreed on may be tried again")
    func broken() async throws {
        let server = try LoopbackServer { connection in _ = connection.read(atMost: 1 << 16) }
        defer { server.stop() }
        #expect(try await failure { try await CurlTransport(options()).send(request(server.port)) }.kind == .cut)
    }

    @Test("distrust is not repeated, and says what to do")
    func remedy() async throws {
        try await withServer { port in
            let client = HTTPClient(CurlTransport(options()), service: "s3://bucket", now: { now() })
            let error = await #expect(throws: ArchiveError.self) { try await client.ask(request(port)) }
            #expect(error?.code == .storeUnavailable && error?.remedy?.contains("ca-file=") == true)
            #expect(error?.message.hasPrefix("s3://bucket did not answer GET https://localhost:\(port)/: The certificate of") == true)
        }
    }
}
