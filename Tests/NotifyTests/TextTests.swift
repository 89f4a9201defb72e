import ArchiveCore
import Foundation
import Sidecar
import Testing

@testable import Notify

@Suite("A notification as text")
struct TextTests {
    private let origin = Origin(host: "db1", archive: "s3://bucket/x", version: "1")
    private let notice = Notice(
        AgentEvent(.failure, at: Moment("2026-03-01T04:05:06Z")!, source: "main", "Größer <b> & \"x\"\r\nBcc: evil@example.com", remedy: "Look."), repeats: 1,
        leftOut: [.failure: 5, .gap: 2])
    private let mailbox = Mailbox(to: ["a@example.com", "b@example.com"], from: "tm@example.com", server: "smtps://mx")

    @Test("JSON has every field")
    func json() throws {
        let value = try #require(try JSONSerialization.jsonObject(with: Data(NoticeText.json(notice, from: origin))) as? [String: Any])
        #expect(value["kind"] as? String == "failure" && value["time"] as? String == "2026-03-01T04:05:06Z" && value["source"] as? String == "main")
        #expect(value["remedy"] as? String == "Look." && value["repeats"] as? Int == 1 && value["left_out"] as? Int == 7)
        #expect(value["host"] as? String == "db1" && value["archive"] as? String == "s3://bucket/x")
    }

    @Test("Slack's marks are escaped")
    func slack() throws {
        let value = try #require(try JSONSerialization.jsonObject(with: Data(NoticeText.slack(notice, from: origin))) as? [String: String])
        let text = try #require(value["text"])
        #expect(text.contains("Größer &lt;b&gt; &amp; \"x\"") && !text.contains("<") && text.contains("7 more were left out: 5 failure, 2 gap."))
    }

    @Test("a mail's headers are those that we write, whatever the event says")
    func mail() throws {
        var notice = notice
        notice.event.source = "a\r\nBcc: evil@example.com ü"
        let bytes = MailMessage.bytes(notice, from: origin, mailbox: mailbox, id: "1.2", at: Moment("2026-03-01T04:05:06Z")!)
        let text = String(decoding: bytes, as: UTF8.self)
        let end = try #require(text.range(of: "\r\n\r\n"))
        let headers = text[..<end.lowerBound].replacing("\r\n ", with: " ").split(separator: "\r\n")
        #expect(headers.map { String($0.prefix { $0 != ":" }) } == [
            "Date", "From", "To", "Message-ID", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
        ])
        #expect(headers[0] == "Date: Sun, 01 Mar 2026 04:05:06 +0000" && headers[3] == "Message-ID: <1.2@example.com>")
        #expect(bytes.split(separator: 10).allSatisfy { $0.count <= 78 && $0.last == 13 })
        let body = try #require(Data(base64Encoded: String(text[end.upperBound...]).replacing("\r\n", with: "")))
        #expect(String(decoding: body, as: UTF8.self).contains("Größer <b> & \"x\"\r\n"))
    }

    @Test("words of a subject are whole characters of at most 75 bytes", arguments: ["plain", "ünïcödé " + String(repeating: "😀ä", count: 60), "=?utf-8?B?eA==?=", ""])
    func words(_ text: String) throws {
        let encoded = MailMessage.encodedWords(text)
        #expect(encoded.utf8.allSatisfy { $0 < 0x80 } && encoded.split(separator: "\r\n").allSatisfy { $0.utf8.count <= 76 })
        guard encoded != text else { return }
        let decoded = try encoded.components(separatedBy: "\r\n ").map { word in
            let bytes = try #require(Data(base64Encoded: String(word.dropFirst(10).dropLast(2))))
            return try #require(String(data: bytes, encoding: .utf8))
        }
        #expect(decoded.joined() == text)
    }

    @Test("addresses are bare ones", arguments: [
        ("ops@example.com", true), ("a+b@x", true), ("", false), ("a", false), ("a@", false), ("@b", false), ("a@b@c", false), ("a b@c", false), ("a@b\r\nBcc: x", false),
        ("<a@b>", false), ("a,b@c", false), ("ä@b", false), ("-oQ@b", false),
    ])
    func addresses(_ text: String, _ good: Bool) { #expect(Mailbox.isAddress(text) == good) }

    @Test("a command is told in its environment, without NUL and within a length")
    func environment() {
        var notice = notice
        notice.event.message = "a\0b" + String(repeating: "x", count: 100_000)
        let list = NoticeText.environment(notice, from: origin)
        #expect(list.contains("TIDEMARK_EVENT_KIND=failure") && list.contains("TIDEMARK_EVENT_SOURCE=main") && list.contains("TIDEMARK_EVENT_LEFT_OUT=7"))
        #expect(list.allSatisfy { !$0.contains("\0") && $0.utf8.count < 9000 })
    }

    @Test("a webhook's path is a secret", arguments: ["https://hooks.example.com:8443/services/T0/SECRET", "http://[::1]:1/?k=SECRET#x"])
    func webhook(_ url: String) throws {
        let recipient = Recipient(.webhook(try #require(Webhook(url))))
        #expect(!recipient.name.contains("SECRET") && recipient.name.contains("/…"))
    }

    @Test("no webhook", arguments: ["", "x", "ftp://a/b", "https:///x", "https://user:pass@host/", "https://a\r\nb/", "https://ä/"])
    func noWebhook(_ url: String) { #expect(Webhook(url) == nil) }

    @Test("a signature is the body's HMAC")
    func signature() throws {
        var webhook = try #require(Webhook("https://h/x"))
        webhook.secret = "key"
        webhook.headers = [("Authorization", "Bearer t")]
        let request = webhook.request(notice, from: origin)
        #expect(request["Authorization"] == "Bearer t" && request["Content-Type"] == "application/json")
        #expect(request["X-Tidemark-Signature"]?.count == 7 + 64 && request["X-Tidemark-Signature"]?.hasPrefix("sha256=") == true)
        #expect(!Webhook.isHeader("A b", "x") && !Webhook.isHeader("A", "x\r\nB: y") && Webhook.isHeader("X-A", "x y"))
    }
}
