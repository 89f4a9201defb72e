import CCurl
import Testing

@testable import Store

@Suite("libcurl's codes")
struct CurlFailureTests {
    private func failure(_ code: CURLcode, detail: String = "", reason: String? = nil, proxyStatus: Int = 0) -> HTTPFailure {
        CurlFailure(
            code: code, server: "s:443", proxy: "p:3128", detail: detail, reason: reason, proxyStatus: proxyStatus, connectTimeout: 10,
            caFile: "/ca.pem"
        ).failure
    }

    @Test("every one has a sentence that names the server or the file, and never curl's own buffer but for TLS")
    func all() {
        for raw in 1..<CURL_LAST.rawValue {
            let failure = failure(CURLcode(rawValue: raw), detail: "BUFFER")
            #expect(failure.message.contains("s:443") || failure.message.contains("/ca.pem"), "\(raw)")
            #expect(!failure.message.contains("BUFFER") || failure.kind == .tls, "\(raw)")
            #expect(failure.message.hasSuffix("."), "\(raw)")
        }
    }

    @Test("a connection that broke during the handshake may be tried again, a certificate may not")
    func handshake() {
        for text in ["SSL_connect: SSL_ERROR_SYSCALL in connection to s:443", "SSL_connect: Connection reset by peer", "unexpected eof while reading"] {
            #expect(failure(CURLE_SSL_CONNECT_ERROR, detail: text).kind == .cut)
        }
        #expect(failure(CURLE_SSL_CONNECT_ERROR, detail: "no protocols available").kind == .tls)
        #expect(failure(CURLE_SSL_CONNECT_ERROR, detail: "error:0A00010B:SSL routines::wrong version number").kind == .plain)
        #expect(failure(CURLE_OUT_OF_MEMORY).kind == .malformed)
        #expect(failure(CURLE_PEER_FAILED_VERIFICATION, detail: "certificate has expired").message
            == "The certificate of s:443 through the proxy p:3128 is not trusted: certificate has expired.")
    }

    @Test(
        "what a proxy answers counts before the code",
        arguments: [(407, HTTPFailure.Kind.proxy), (403, .proxy), (502, .unreachable), (504, .unreachable)])
    func proxy(_ status: Int, _ kind: HTTPFailure.Kind) {
        let failure = failure(CURLE_RECV_ERROR, proxyStatus: status)
        #expect(failure.kind == kind && failure.message.contains("\(status)"))
    }

    @Test("the head of an answer: folded lines, repeated fields, trailers")
    func head() {
        var head = ResponseHead()
        func add(_ lines: String...) -> Bool { lines.allSatisfy { head.add(line: Array($0.utf8)) } }
        var taken = add("HTTP/1.1 100 Continue\r\n", "A: 1\r\n", "\r\n", "HTTP/2 200\r\n", "A: one\r\n", "\t two \r\n", "A:three\r\n", "no field\r\n")
        #expect(taken && !head.isComplete)
        taken = add("Content-Length: 12\r\n", "\r\n", "A: trailer\r\n")
        #expect(taken && head.isComplete && head.contentLength == 12)
        #expect(head.headers.map(\.value) == ["one two", "three", "12"])
    }
}
