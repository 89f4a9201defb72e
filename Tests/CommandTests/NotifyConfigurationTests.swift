import ArchiveCore
import Notify
import Sidecar
import Testing

@testable import tidemark

@Suite("Recipients in the configuration")
struct NotifyConfigurationTests {
    private func read(_ notify: String) throws -> [Recipient] {
        let text = "archive: file:///a\nsources:\n  - gitaly: g\n    storage: /g\nnotify:\n\(notify)"
        return try Configuration(Array(text.utf8), path: "t.yaml") { $0 == "SECRET" ? "s3cr3t" : nil }.notify
    }

    @Test("are read whole")
    func whole() throws {
        let recipients = try read(
            """
              - webhook: https://hooks.example.com/services/${SECRET}
                format: slack
                headers: { Authorization: "Bearer ${SECRET}" }
                secret: ${SECRET}
                on: [failure, gap]
                at_most: 3/d
              - email: { to: [a@example.com, b@example.com], from: tm@example.com, smtp: "smtps://mx.example.com:465", user: u, password: "${SECRET}" }
              - command: [/usr/bin/tell, x]
                on: all
            """)
        guard case .webhook(let webhook) = recipients[0].channel, case .email(let mailbox) = recipients[1].channel, case .command(let words) = recipients[2].channel
        else { throw ArchiveError(.configuration, "the recipients are of other kinds") }
        #expect(webhook.format == .slack && webhook.secret == "s3cr3t" && webhook.headers.map(\.value) == ["Bearer s3cr3t"])
        #expect(recipients[0].kinds == [.failure, .gap] && recipients[0].limit == .init(count: 3, period: 86_400))
        #expect(mailbox.to.count == 2 && mailbox.password == "s3cr3t" && !mailbox.allowsPlain && recipients[1].kinds == Recipient.standardKinds)
        #expect(words == ["/usr/bin/tell", "x"] && recipients[2].kinds.contains(.success) && recipients[2].limit == .standard)
        #expect(!recipients.contains { $0.name.contains("s3cr3t") })
    }

    @Test("what is wrong is named with its line, and without the secret", arguments: [
        ("  - webhook: ftp://s3cr3t\n", "t.yaml:6:14", "https"), ("  - on: [failure]\n", "one of", ""), ("  - webhook: https://a/\n    command: [/x]\n", "one of", ""),
        ("  - webhok: https://a/\n", "one of", ""), ("  - webhook: https://a/\n    on: [failures]\n", "t.yaml:7:10", "failure"), ("  - webhook: https://a/\n    on: []\n", "'on'", ""),
        ("  - webhook: https://a/\n    at_most: 0/h\n", "'at_most'", "10/h"), ("  - webhook: https://a/\n    at_most: 10\n", "'at_most'", "10/h"),
        ("  - webhook: https://a/\n    headers: { \"A b\": x }\n", "header", ""), ("  - webhook: https://a/\n    headers: { A: \"x\\ns3cr3t: y\" }\n", "header 'A'", ""),
        ("  - webhook: https://a/\n    format: xml\n", "'format'", "slack"), ("  - command: [x]\n", "absolute", ""), ("  - command: [/x]\n    secret: x\n", "no key 'secret'", ""),
        ("  - email: { to: a@b, from: c@d }\n", "'smtp' of 'email' is missing", ""), ("  - email: { to: \"a@b\\r\\nBcc: c@d\", from: c@d, smtp: \"smtp://h\" }\n", "no e-mail address", ""),
        ("  - email: { to: a@b, from: c@d, smtp: \"smtp://u:s3cr3t@h\" }\n", "'smtp' is no mail server", "keys of their own"),
        ("  - email: { to: a@b, from: c@d, smtp: \"https://h\" }\n", "'smtp'", ""), ("  - email: { to: a@b, from: c@d, smtp: \"smtp://h:0\" }\n", "'smtp'", ""),
        ("  - email: { to: a@b, from: c@d, smtp: \"smtp://h\", password: x }\n", "'user'", ""),
        ("  - email: { to: a@b, from: c@d, smtp: \"smtp://h\", user: u, password: x, tls: if-offered }\n", "clear text", ""),
        ("  - email: { to: a@b, from: c@d, smtp: \"smtp://h\", tls: none }\n", "'tls'", ""), ("  x: y\n", "list", ""),
    ])
    func wrong(_ notify: String, _ message: String, _ remedy: String) {
        #expect { try read(notify) } throws: { error in
            let error = error as? ArchiveError
            return error?.code == .configuration && error?.message.contains(message) == true && (remedy.isEmpty || error?.remedy?.contains(remedy) == true) && !"\(String(describing: error))".contains("s3cr3t")
        }
    }

    @Test("`tidemark status` takes addresses, and shows spans in two figures", arguments: [
        ("http://127.0.0.1:9187", "127.0.0.1:9187"), ("http://[::1]:1/", "[::1]:1"), ("https://a/status", "a"), ("ftp://a", nil), ("http://", nil), ("http://a/b", nil),
        ("http://u@a", nil), ("127.0.0.1:9187", nil), ("http://a\r\nb", nil),
    ] as [(String, String?)])
    func place(_ url: String, _ host: String?) {
        #expect(StatusReport.parse(url)?.host == host)
        #expect([0, 0.02, 1.25, 100, 10_000, 1e6, .infinity].map(StatusReport.span) == ["0 s", "20 ms", "1.3 s", "1.7 min", "2.8 h", "11.6 d", "for ever"])
    }
}
