import ArchiveCore
import DurableIO
import Notify
import Planner
import Sidecar

extension Configuration {
    private static let channels = ["webhook", "email", "command"]

    /// `notify: [{ webhook: URL, on: [failure, gap], at_most: 10/h }, { email: { … } }, { command: [/path] }]`
    static func notify(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> [Recipient] {
        guard case .sequence(let items, _) = node else { throw fail(node.place, "'notify' takes a list of recipients", "See docs/notifications.md for examples.") }
        var recipients: [Recipient] = []
        for item in items {
            guard case .mapping(let pairs, let place) = item else { throw fail(item.place, "a recipient takes keys and values", nil) }
            let named = pairs.filter { channels.contains($0.key) }
            guard named.count == 1, let channel = named.first else { throw fail(place, "a recipient is one of 'webhook', 'email' and 'command'", nil) }
            let own = channel.key == "webhook" ? ["format", "headers", "secret"] : []
            let keys = try fields(item, [channel.key] + own + ["on", "at_most"], "a recipient")
            let value: Recipient.Channel =
                switch channel.key {
                case "webhook": .webhook(try webhook(channel.value, keys, text: text, fail: fail))
                case "email": .email(try mailbox(channel.value, fields: fields, text: text, fail: fail))
                default: .command(try command(channel.value, text: text, fail: fail))
                }
            var recipient = Recipient(value)
            if let node = keys["on"] { recipient.kinds = try kinds(node, text: text, fail: fail) }
            if let node = keys["at_most"] { recipient.limit = try limit(node, text: text, fail: fail) }
            recipients.append(recipient)
        }
        return recipients
    }

    /// One value, or a list of at least one.
    private static func list(_ node: YAMLNode, _ key: String, text: Text, fail: Fail) throws(ArchiveError) -> [(value: String, place: YAMLPlace)] {
        guard case .sequence(let items, let place) = node else { return [(try text(node, key), node.place)] }
        guard !items.isEmpty, items.count <= 100 else { throw fail(place, "'\(key)' takes 1 to 100 values", nil) }
        var values: [(value: String, place: YAMLPlace)] = []
        for item in items { values.append((try text(item, key), item.place)) }
        return values
    }

    private static func kinds(_ node: YAMLNode, text: Text, fail: Fail) throws(ArchiveError) -> Set<AgentEvent.Kind> {
        var kinds: Set<AgentEvent.Kind> = []
        let known = AgentEvent.Kind.allCases.filter { $0 != .test }
        for (value, place) in try list(node, "on", text: text, fail: fail) {
            if value == "all" {
                kinds.formUnion(known)
                continue
            }
            guard let kind = known.first(where: { $0.rawValue == value }) else {
                throw fail(
                    place, "'\(value)' is no kind of event",
                    nearest(to: value, among: known.map(\.rawValue)).map { "Did you mean '\($0)'?" } ?? "There are: all, \(known.map(\.rawValue).joined(separator: ", ")).")
            }
            kinds.insert(kind)
        }
        return kinds
    }

    /// `10/h`
    private static func limit(_ node: YAMLNode, text: Text, fail: Fail) throws(ArchiveError) -> Recipient.Limit {
        let value = try text(node, "at_most")
        let parts = value.split(separator: "/", omittingEmptySubsequences: false)
        let periods = ["m": 60.0, "h": 3600, "d": 86_400]
        guard parts.count == 2, let count = Int(parts[0]), (1...1000).contains(count), let period = periods[String(parts[1])] else {
            throw fail(node.place, "'at_most' is '\(value)'", "Write 1 to 1000 for a minute, an hour or a day, such as 10/h.")
        }
        return Recipient.Limit(count: count, period: period)
    }

    // What is refused here may be a secret: no message repeats it.
    private static func webhook(_ node: YAMLNode, _ keys: [String: YAMLNode], text: Text, fail: Fail) throws(ArchiveError) -> Webhook {
        guard var webhook = Webhook(try text(node, "webhook")) else {
            throw fail(node.place, "'webhook' is no URL of http or https", "Write it whole, such as https://hooks.example.com/services/…; what does not fit in it goes into 'headers'.")
        }
        if let node = keys["format"] { webhook.format = try choice(node, "format", text: text, fail: fail) }
        if let node = keys["secret"] { webhook.secret = try text(node, "secret") }
        if let node = keys["headers"] {
            guard case .mapping(let pairs, let place) = node, pairs.count <= 50 else { throw fail(node.place, "'headers' takes up to 50 names with values", nil) }
            _ = place
            for pair in pairs {
                let value = try text(pair.value, pair.key)
                guard Webhook.isHeader(pair.key, value) else {
                    throw fail(pair.place, "the header '\(pair.key)' cannot be sent", "Names are letters, digits and '-'; values are one line of ASCII.")
                }
                webhook.headers.append((pair.key, value))
            }
        }
        return webhook
    }

    private static func mailbox(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> Mailbox {
        let keys = try fields(node, ["to", "from", "smtp", "user", "password", "ca_file", "tls"], "'email'")
        func required(_ key: String) throws(ArchiveError) -> YAMLNode {
            guard let value = keys[key] else { throw fail(node.place, "'\(key)' of 'email' is missing", nil) }
            return value
        }
        func address(_ value: String, _ place: YAMLPlace) throws(ArchiveError) -> String {
            guard Mailbox.isAddress(value) else { throw fail(place, "'\(value)' is no e-mail address", "Write it bare, such as ops@example.com.") }
            return value
        }
        var to: [String] = []
        for (value, place) in try list(try required("to"), "to", text: text, fail: fail) { to.append(try address(value, place)) }
        let from = try required("from")
        let server = try required("smtp")
        let url = try text(server, "smtp")
        guard isMailServer(url) else {
            throw fail(server.place, "'smtp' is no mail server", "Write smtps://host:465, or smtp://host:587 for STARTTLS; user and password are keys of their own.")
        }
        var mailbox = Mailbox(to: to, from: try address(try text(from, "from"), from.place), server: url)
        if let node = keys["user"] { mailbox.user = try text(node, "user") }
        if let node = keys["password"] {
            guard mailbox.user != nil else { throw fail(node.place, "'password' goes with 'user' only", nil) }
            mailbox.password = try text(node, "password")
        }
        if let node = keys["ca_file"] {
            let path = try text(node, "ca_file")
            guard path.hasPrefix("/") else { throw fail(node.place, "'ca_file' is not an absolute path", nil) }
            mailbox.caFile = path
        }
        if let node = keys["tls"] {
            let value = try text(node, "tls")
            guard value == "required" || value == "if-offered" else { throw fail(node.place, "'tls' is '\(value)'", "Write required or if-offered.") }
            mailbox.allowsPlain = value == "if-offered"
            guard !mailbox.allowsPlain || mailbox.password == nil else {
                throw fail(node.place, "'tls: if-offered' would send the password in clear text to a server without TLS", "Leave 'tls' out, or 'user' and 'password'.")
            }
        }
        return mailbox
    }

    /// `smtp://` or `smtps://`, a host, and maybe a port.
    private static func isMailServer(_ url: String) -> Bool {
        guard let end = url.range(of: "://"), ["smtp", "smtps"].contains(String(url[..<end.lowerBound])) else { return false }
        var host = url[end.upperBound...]
        if let colon = host.lastIndex(of: ":"), !host.hasSuffix("]") {
            guard let port = UInt16(host[host.index(after: colon)...]), port > 0 else { return false }
            host = host[..<colon]
        }
        if host.hasPrefix("["), host.hasSuffix("]") { return host.utf8.dropFirst().dropLast().allSatisfy { $0 == 0x3A || (0x30...0x39).contains($0) || (0x61...0x66).contains($0 | 0x20) } }
        return !host.isEmpty && host.utf8.allSatisfy { $0 == 0x2D || $0 == 0x2E || (0x30...0x39).contains($0) || (0x61...0x7A).contains($0 | 0x20) }
    }

    private static func command(_ node: YAMLNode, text: Text, fail: Fail) throws(ArchiveError) -> [String] {
        let words = try list(node, "command", text: text, fail: fail)
        guard let program = words.first, program.value.hasPrefix("/") else {
            throw fail(node.place, "'command' does not begin with an absolute path", "Write command: [/usr/local/bin/tell, argument].")
        }
        return words.map(\.value)
    }
}
