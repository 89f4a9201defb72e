import CCurl

/// What libcurl says of a transfer that failed, in our words. Pure, so that each code can be tested.
struct CurlFailure: Sendable {
    var code: CURLcode
    /// `host:port`.
    var server: String
    /// The proxy that the options name, without its credentials.
    var proxy: String?
    /// What curl wrote into its error buffer. Shown for failures of TLS only: elsewhere it may quote a proxy's URL.
    var detail: String
    /// The system's word for the last `errno` of connecting; `nil` for none.
    var reason: String?
    /// The status that a proxy answered CONNECT with; 0 for none.
    var proxyStatus = 0
    var connectTimeout: Double
    var caFile: String?

    private var place: String { server + (proxy.map { " through the proxy \($0)" } ?? "") }

    var failure: HTTPFailure {
        if proxyStatus >= 500 { return HTTPFailure(.unreachable, "The proxy did not get through to \(place): it answered \(proxyStatus).") }
        if proxyStatus >= 300 { return .proxyRefused(place, status: proxyStatus) }
        switch code {
        case CURLE_COULDNT_RESOLVE_HOST: return HTTPFailure(.unknownName, "The name of \(place) is unknown.")
        case CURLE_COULDNT_RESOLVE_PROXY: return HTTPFailure(.unknownName, "The proxy on the way to \(place) has a name that is unknown or none.")
        case CURLE_COULDNT_CONNECT, CURLE_INTERFACE_FAILED:
            return HTTPFailure(.unreachable, "Could not connect to \(place)" + (reason.map { ": \($0)." } ?? "."))
        case CURLE_OPERATION_TIMEDOUT: return HTTPFailure(.timeout, "No connection to \(place) stood within \(connectTimeout) s.")
        case CURLE_SSL_CACERT_BADFILE, CURLE_SSL_CRL_BADFILE:
            return HTTPFailure(.tls, "The file with the authorities to trust\(caFile.map { ", '\($0)'," } ?? "") could not be read.")
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS, CURLE_SSL_PINNEDPUBKEYNOTMATCH:
            return HTTPFailure(.tls, "The certificate of \(place) is not trusted: \(detail.isEmpty ? "it could not be verified" : detail).")
        case CURLE_SSL_CONNECT_ERROR, CURLE_SSL_CIPHER, CURLE_SSL_CERTPROBLEM, CURLE_SSL_CLIENTCERT, CURLE_USE_SSL_FAILED:
            // A connection that breaks while TLS is agreed on is no matter of certificates.
            let broken = ["SYSCALL", "reset by peer", "Broken pipe", "unexpected eof"].contains { detail.contains($0) }
            // OpenSSL's words for a record that is none, by version.
            let isPlain = ["wrong version number", "http request", "packet length too long"].contains { detail.contains($0) }
            if isPlain { return HTTPFailure(.plain, "\(place) speaks no TLS on this port.") }
            if broken { return HTTPFailure(.cut, "\(place) ended the connection while TLS was agreed on.") }
            return HTTPFailure(.tls, "No TLS could be spoken with \(place): \(detail.isEmpty ? "it refused" : detail).")
        case CURLE_PARTIAL_FILE, CURLE_GOT_NOTHING, CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_HTTP2_STREAM, CURLE_SEND_FAIL_REWIND, CURLE_READ_ERROR,
            CURLE_SSL_SHUTDOWN_FAILED, CURLE_UPLOAD_FAILED, CURLE_ABORTED_BY_CALLBACK:
            return HTTPFailure(.cut, "\(place) ended the connection before its answer was whole.")
        case CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY, CURLE_HTTP2, CURLE_BAD_CONTENT_ENCODING, CURLE_WRITE_ERROR, CURLE_CHUNK_FAILED:
            return HTTPFailure(.malformed, "What \(place) answered is no HTTP.")
        case CURLE_PROXY: return HTTPFailure(.unreachable, "The proxy on the way to \(place) could not be spoken to.")
        // Above all what curl says to a line of headers beyond its own limit.
        case CURLE_OUT_OF_MEMORY: return HTTPFailure(.malformed, "The head of what \(place) answered is too large, or memory is short.")
        case CURLE_URL_MALFORMAT: return HTTPFailure(.request, "'\(server)' is no address of a server.")
        default: return HTTPFailure(.unreachable, "The transfer with \(place) failed: \(String(cString: curl_easy_strerror(code))).")
        }
    }
}

extension HTTPFailure {
    static func proxyRefused(_ place: String, status: Int) -> HTTPFailure {
        let meaning = status == 407 ? ", which asks for a user and a password" : ""
        return HTTPFailure(.proxy, "The proxy refused to pass a request on to \(place): it answered \(status)\(meaning).")
    }
}
