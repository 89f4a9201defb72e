import ArchiveCore
import Foundation

/// A mailbox that is written to, and the server that takes the mail.
public struct Mailbox: Sendable, Hashable {
    public var to: [String]
    public var from: String
    /// `smtps://host:port`, or `smtp://host:port`, where STARTTLS is required.
    public var server: String
    public var user: String?
    public var password: String?
    /// A file with the certificates of authorities that are trusted instead of the system's; `nil`: the system's.
    public var caFile: String?
    /// Whether a server without TLS is taken: on this machine only, where nobody listens in.
    public var allowsPlain = false

    public init(to: [String], from: String, server: String, user: String? = nil, password: String? = nil) {
        self.to = to
        self.from = from
        self.server = server
        self.user = user
        self.password = password
    }

    /// Whether `text` is a bare address that can stand in an envelope and a header as it is: printable ASCII without spaces, brackets,
    /// quotes, commas and the like, one `@` inside (RFC 5321, 4.1.2, without quoted local parts).
    public static func isAddress(_ text: String) -> Bool {
        let parts = text.utf8.split(separator: UInt8(ascii: "@"), omittingEmptySubsequences: false)
        guard parts.count == 2, (1...64).contains(parts[0].count), (1...255).contains(parts[1].count) else { return false }
        let special = Set(#"()<>[]:;,\""#.utf8)
        return text.utf8.allSatisfy { (0x21...0x7E).contains($0) && !special.contains($0) } && parts[0].first != UInt8(ascii: "-")
    }
}

/// An e-mail as it goes over the wire (RFC 5322, 2045, 2047). Pure.
public enum MailMessage {
    /// - Parameters:
    ///   - id: unique; letters, digits and `.` only.
    public static func bytes(_ notice: Notice, from origin: Origin, mailbox: Mailbox, id: String, at time: Moment) -> [UInt8] {
        let domain = mailbox.from.split(separator: "@").last.map(String.init) ?? "localhost"
        let headers = [
            "Date: \(date(time))", "From: Tidemark <\(mailbox.from)>", "To: \(mailbox.to.joined(separator: ",\r\n "))",
            "Message-ID: <\(id)@\(domain)>", "Subject: \(encodedWords(NoticeText.title(notice, from: origin)))", "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64",
        ]
        let text = NoticeText.plain(notice, from: origin).replacing("\r", with: "").replacing("\n", with: "\r\n")
        let body = Data(text.utf8).base64EncodedString(options: [.lineLength76Characters, .endLineWithCarriageReturn, .endLineWithLineFeed])
        return Array((headers.joined(separator: "\r\n") + "\r\n\r\n" + body + "\r\n").utf8)
    }

    /// RFC 5322, 3.3, in UTC.
    static func date(_ time: Moment) -> String {
        var seconds = time_t(time.rawValue / 1_000_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func two(_ n: Int32) -> String { n < 10 ? "0\(n)" : "\(n)" }
        let day = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][Int(parts.tm_wday)]
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][Int(parts.tm_mon)]
        return "\(day), \(two(parts.tm_mday)) \(month) \(parts.tm_year + 1900) \(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)) +0000"
    }

    /// Text for a header: as it is where it is short printable ASCII, else RFC 2047's words, each whole UTF-8, short enough for a line to begin with the header's name.
    static func encodedWords(_ text: String) -> String {
        if text.utf8.count <= 60, text.utf8.allSatisfy({ (0x20...0x7E).contains($0) }), !text.contains("=?") { return text }
        var words: [[UInt8]] = [[]]
        for scalar in text.unicodeScalars.prefix(1000) {
            let bytes = Array(String(scalar).utf8)
            if words[words.count - 1].count + bytes.count > 39 { words.append([]) }
            words[words.count - 1] += bytes
        }
        return words.map { "=?utf-8?B?\(Data($0).base64EncodedString())?=" }.joined(separator: "\r\n ")
    }
}
