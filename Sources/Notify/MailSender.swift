import ArchiveCore
import CCurl
import Glibc

/// Hands mail to a server over libcurl. Blocks: for threads only.
enum MailSender {
    private static let isReady = curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK

    /// - Parameters:
    ///   - seconds: for all of it.
    /// - Throws: `.notificationFailed`, `.notificationRefused`; neither has the user nor the password in it.
    static func send(_ message: [UInt8], to mailbox: Mailbox, seconds: Double) throws(ArchiveError) {
        guard isReady, let handle = curl_easy_init() else { throw ArchiveError(.notificationFailed, "libcurl could not be started.") }
        defer { curl_easy_cleanup(handle) }
        var list: UnsafeMutablePointer<curl_slist>?
        for address in mailbox.to { list = curl_slist_append(list, "<\(address)>") }
        defer { curl_slist_free_all(list) }
        final class Source {
            let bytes: [UInt8]
            var given = 0
            init(_ bytes: [UInt8]) { self.bytes = bytes }
        }
        let source = Source(message)
        tm_curl_set_text(handle, CURLOPT_URL, mailbox.server)
        tm_curl_set_text(handle, CURLOPT_PROTOCOLS_STR, "smtp,smtps")
        tm_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        tm_curl_set_long(handle, CURLOPT_USE_SSL, Int(mailbox.allowsPlain ? CURLUSESSL_TRY.rawValue : CURLUSESSL_ALL.rawValue))
        tm_curl_set_long(handle, CURLOPT_SSL_VERIFYPEER, 1)
        tm_curl_set_long(handle, CURLOPT_SSL_VERIFYHOST, 2)
        tm_curl_set_long(handle, CURLOPT_SSLVERSION, Int(CURL_SSLVERSION_TLSv1_2))
        if let file = mailbox.caFile { tm_curl_set_text(handle, CURLOPT_CAINFO, file) }
        tm_curl_set_text(handle, CURLOPT_PROXY, "")
        if let user = mailbox.user { tm_curl_set_text(handle, CURLOPT_USERNAME, user) }
        if let password = mailbox.password { tm_curl_set_text(handle, CURLOPT_PASSWORD, password) }
        tm_curl_set_text(handle, CURLOPT_MAIL_FROM, "<\(mailbox.from)>")
        tm_curl_set_pointer(handle, CURLOPT_MAIL_RCPT, list)
        tm_curl_set_long(handle, CURLOPT_UPLOAD, 1)
        tm_curl_set_long(handle, CURLOPT_CONNECTTIMEOUT_MS, Int(min(seconds, 10) * 1000))
        tm_curl_set_long(handle, CURLOPT_TIMEOUT_MS, Int(seconds * 1000))
        tm_curl_set_pointer(handle, CURLOPT_READDATA, Unmanaged.passUnretained(source).toOpaque())
        tm_curl_set_data_function(handle, CURLOPT_READFUNCTION) { bytes, size, count, context in
            guard let bytes, let context else { return 0 }
            let source = Unmanaged<Source>.fromOpaque(context).takeUnretainedValue()
            let n = min(size * count, source.bytes.count - source.given)
            source.bytes.withUnsafeBytes { _ = memcpy(bytes, $0.baseAddress! + source.given, n) }
            source.given += n
            return n
        }
        tm_curl_set_data_function(handle, CURLOPT_WRITEFUNCTION) { _, size, count, _ in size * count }
        let code = withExtendedLifetime(source) { curl_easy_perform(handle) }
        guard code != CURLE_OK else { return }
        var answer = 0
        tm_curl_get_long(handle, CURLINFO_RESPONSE_CODE, &answer)
        throw failure(code, answer: answer, mailbox)
    }

    private static func failure(_ code: CURLcode, answer: Int, _ mailbox: Mailbox) -> ArchiveError {
        let reason = String(cString: curl_easy_strerror(code)) + (answer >= 400 ? " (the server answered \(answer))" : "")
        let message = "The mail to \(mailbox.to.joined(separator: ", ")) was not taken by \(mailbox.server): \(reason)."
        switch code {
        case CURLE_LOGIN_DENIED: return ArchiveError(.notificationRefused, message, remedy: "Correct 'user' and 'password'.")
        case CURLE_USE_SSL_FAILED:
            return ArchiveError(.notificationRefused, message, remedy: "The server offers no STARTTLS: use smtps://, or a server that speaks TLS.")
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE:
            return ArchiveError(.notificationRefused, message, remedy: "Name the file with its authority's certificate as 'ca_file', or correct the server's.")
        case CURLE_URL_MALFORMAT, CURLE_UNSUPPORTED_PROTOCOL: return ArchiveError(.notificationRefused, message, remedy: "Correct 'smtp'.")
        default:
            guard answer >= 500 else { return ArchiveError(.notificationFailed, message, remedy: "See that the server is up and can be reached from here.") }
            return ArchiveError(.notificationRefused, message, remedy: "See why the server refuses it: its log tells.")
        }
    }
}
