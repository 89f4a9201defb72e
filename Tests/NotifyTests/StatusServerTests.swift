import ArchiveCore
import ArchiveTesting
import Foundation
import Runtime
import Sidecar
import Testing

@testable import StatusServer

@Suite("The status server")
struct StatusServerTests {
    private func server(lifetime: Double = 30, silence: Double = 0, _ snapshot: StatusBoard.Snapshot = MetricsTests.snapshot()) throws -> StatusServer {
        try StatusServer(try #require(ListenAddress("127.0.0.1:0")), lifetime: lifetime) { method, path in
            StatusPages.answer(
                method: method, path: path,
                StatusPages.Facts(snapshot: snapshot, process: .current(), silence: silence, time: Moment(rawValue: 1_700_000_000_000_000_000)))
        }
    }

    private func ask(_ server: StatusServer, _ request: String) throws -> (head: HTTPHead, body: String)? {
        let connection = try #require(LoopbackConnection(port: Int(server.address.port)))
        connection.write(request.utf8)
        guard let head = connection.head() else { return nil }
        let isHead = request.hasPrefix("HEAD")
        return (head, isHead ? "" : String(decoding: connection.read(exactly: head.length) ?? [], as: UTF8.self))
    }

    private func get(_ server: StatusServer, _ path: String, _ method: String = "GET") throws -> (head: HTTPHead, body: String) {
        try #require(try ask(server, "\(method) \(path) HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    @Test("answers what there is, and lists it where there is nothing")
    func pages() throws {
        let server = try server()
        defer { server.stop() }
        #expect(try get(server, "/healthz").body == "ok\n")
        let ready = try get(server, "/readyz")
        #expect(ready.head.status == 503 && ready.body == "git: not connected yet\n")
        let metrics = try get(server, "/metrics?x=y")
        #expect(metrics.head["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
        _ = try MetricsReader(metrics.body)
        let document = try JSONDecoder().decode(StatusDocument.self, from: Data(try get(server, "/status").body.utf8))
        #expect(document.sources.map(\.name) == ["main", "git"] && !document.ready && document.sources[0].lag.p99 == 100_000)
        for path in ["/", "/nothing", "/status/", "//status", "/../etc/passwd", "/%2e%2e/etc/passwd"] {
            let answer = try get(server, path)
            #expect(answer.head.status == 404 && answer.body.contains("/metrics"), "\(path)")
        }
        let head = try get(server, "/metrics", "HEAD")
        #expect(head.head.status == 200 && head.head.length > 1000)
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"] {
            let answer = try get(server, "/status", method)
            #expect(answer.head.status == 405 && answer.head["allow"] == "GET, HEAD", "\(method)")
        }
    }

    @Test("is healthy as long as the agent's tasks go on, ready when all archive and the archive answers")
    func health() throws {
        func status(_ path: String, silence: Double = 0, _ change: (inout StatusBoard.Snapshot) -> Void) -> Int {
            var snapshot = MetricsTests.snapshot()
            snapshot.sources[1].state = .archiving
            change(&snapshot)
            return StatusPages.answer(
                method: "GET", path: path, StatusPages.Facts(snapshot: snapshot, process: ProcessFigures(), silence: silence, time: snapshot.started)
            ).status
        }
        #expect(status("/healthz") { _ in } == 200 && status("/healthz", silence: 61) { _ in } == 503)
        #expect(status("/readyz") { _ in } == 200)
        #expect(status("/readyz") { $0.archiveProblem = "gone" } == 503 && status("/healthz") { $0.archiveProblem = "gone" } == 200)
        for state in SourceStatus.State.allCases { #expect(status("/readyz") { $0.sources[0].state = state } == (state == .archiving ? 200 : 503)) }
        // What is worse than it should be is told, but keeps nobody from being ready.
        #expect(status("/readyz") { $0.sources[0].isObjectiveMissed = true } == 200)
    }

    @Test("survives garbage, and goes on answering", arguments: [
        "\r\n\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /healthz HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{FC}", "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", "GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "GET /status HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "GET /\(String(repeating: "a", count: 100_000)) HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n" + String(repeating: "X: y\r\n", count: 20_000), "GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    ])
    func garbage(_ text: String) throws {
        let server = try server()
        defer { server.stop() }
        let connection = try #require(LoopbackConnection(port: Int(server.address.port)))
        connection.write(text.utf8)
        let other = try get(server, "/healthz")
        #expect(other.head.status == 200)
    }

    @Test("cuts off who sends a byte now and then, and who came too many")
    func slow() throws {
        let server = try server(lifetime: 0.5)
        defer { server.stop() }
        let drip = try #require(LoopbackConnection(port: Int(server.address.port)))
        drip.write("GET /healthz HTTP/1.1\r\n".utf8)
        while drip.write("X".utf8) { usleep(20_000) }
        let crowd = (0..<200).compactMap { _ in LoopbackConnection(port: Int(server.address.port)) }
        #expect(crowd.count == 200)
        // They are all gone in the end, and somebody honest is heard again.
        for one in crowd { one.waitForEnd() }
        #expect(try get(server, "/healthz").head.status == 200)
    }

    @Test("a port that is taken is refused with a way out; it is free again afterwards")
    func taken() throws {
        let first = try server()
        #expect { try StatusServer(first.address) { _, _ in .text(200, "") } } throws: { "\($0)".contains("\(first.address)") && ($0 as? ArchiveError)?.remedy?.contains("listen") == true }
        first.stop()
        let second = try StatusServer(first.address) { _, _ in .text(200, "second") }
        defer { second.stop() }
        #expect(try get(second, "/").body == "second\n")
    }

    @Test("addresses are numbers", arguments: [
        ("127.0.0.1:9187", true), ("[::1]:9187", true), ("0.0.0.0:1", true), ("[::]:65535", true), ("127.0.0.1:0", true), ("localhost:9187", false), ("", false), (":1", false),
        ("127.0.0.1", false), ("127.0.0.1:", false), ("127.0.0.1:65536", false), ("127.0.0.1:+1", false), ("::1:9187", false), ("[127.0.0.1]:1", false), ("1:2", false),
        ("127.0.0.1:9187 ", false), ("[::1%lo]:1", false), ("999.0.0.1:1", false), ("[\(String(repeating: "1", count: 1000))]:1", false),
    ])
    func addresses(_ text: String, _ good: Bool) {
        let address = ListenAddress(text)
        #expect((address != nil) == good)
        if let address { #expect(address.description == text) }
    }

    @Test("who is reached from elsewhere is known")
    func loopback() throws {
        for (text, loopback, url) in [
            ("127.0.0.1:1", true, "http://127.0.0.1:1"), ("[::1]:1", true, "http://[::1]:1"), ("0.0.0.0:1", false, "http://127.0.0.1:1"), ("[::]:1", false, "http://[::1]:1"),
            ("10.0.0.1:1", false, "http://10.0.0.1:1"),
        ] {
            let address = try #require(ListenAddress(text))
            #expect(address.isLoopback == loopback && address.url == url)
        }
    }
}
