import ArchiveCore
import CrossCheck
import DurableIO
import Glibc
import Notify
import Planner
import SourcePostgres
import StatusServer
import Store

/// The configuration file, read and checked as a whole.
struct Configuration: Sendable {
    enum GitalyLog: String, Sendable, CaseIterable { case wal, spool }
    enum Kind: Sendable, Hashable {
        case postgres(conninfo: String, slot: String, ack: Acknowledgement, slotGuard: SlotSettings)
        case gitaly(storage: String, log: GitalyLog, spool: String?, prune: Bool, fence: Fence?)
    }
    /// Into which PostgreSQL's log a storage's fences go.
    struct Fence: Sendable, Hashable {
        /// The PostgreSQL source's name in the archive.
        var anchor: String
        var conninfo: String
        /// Shortest time between two, in seconds.
        var interval: Double
    }
    struct Source: Sendable {
        var name: String
        var kind: Kind
        /// Its own schedule and retention, or those of all sources. `nil`: bases are taken on demand only.
        var base: BasePolicy?
        /// `nil`: everything is kept.
        var keep: KeepPolicy?
    }

    var path: String
    var archive: String
    var sources: [Source]
    /// Seconds between two tails, and the longest that a batch of Gitaly entries waits.
    var tail: Double
    /// The agent's own directory.
    var state: String
    /// Other places that are to hold the same archive.
    var copies: [String] = []
    /// Whom the archive is encrypted for: age's public keys, `age1…`; empty: nobody, it is not encrypted.
    var recipients: [String] = []
    /// Files with the age identities that open it, for hosts that restore.
    var identities: [String] = []
    var bandwidth = BandwidthPlan()
    /// Seconds of commits that may be lost at most.
    var objective = 5.0
    /// Where the agent's status server listens.
    var listen: ListenAddress?
    /// Who is told of what happens.
    var notify: [Recipient] = []
    var logFormat = LogFormat.text
    /// Queries that the cross-check after a restore asks beside GitLab's own, by source.
    var checks: [(source: String, query: CheckQuery)] = []

    static let defaultPath = "/etc/tidemark/tidemark.yaml"

    /// - Throws: `.configuration` with file, line and column.
    static func load(_ path: String) throws -> Configuration {
        let bytes: [UInt8]
        do { bytes = try Files.read(path, limit: YAMLParser.maximumSize) } catch {
            throw ArchiveError(
                .configuration, "The configuration file '\(path)' could not be read.",
                remedy: "Name it with --config, or put it at \(defaultPath).", cause: error)
        }
        return try Configuration(bytes, path: path) { getenv($0).map { String(cString: $0) } }
    }

    /// - Parameter environment: looks up `${NAME}`.
    init(_ bytes: [UInt8], path: String, environment: (String) -> String?) throws(ArchiveError) {
        func fail(_ place: YAMLPlace, _ message: String, _ remedy: String? = nil) -> ArchiveError {
            ArchiveError(.configuration, "\(path):\(place.line):\(place.column): \(message).", remedy: remedy)
        }
        let root: YAMLNode?
        do { root = try YAMLParser.parse(bytes) } catch { throw fail(error.place, error.message) }
        guard let root else {
            throw ArchiveError(.configuration, "\(path): the file is empty.", remedy: "See docs/configuration.md for an example.")
        }
        func text(_ node: YAMLNode, _ key: String) throws(ArchiveError) -> String {
            guard case .scalar(let raw, let place) = node else { throw fail(node.place, "'\(key)' takes one value") }
            var result = ""
            var rest = raw[...]
            while let dollar = rest.firstRange(of: "${") {
                result += rest[..<dollar.lowerBound]
                rest = rest[dollar.upperBound...]
                guard let end = rest.firstIndex(of: "}") else { throw fail(place, "'${' is not closed by '}'") }
                let name = String(rest[..<end])
                guard let value = environment(name) else {
                    throw fail(place, "the environment has no variable \(name)", "Set it where tidemark is started.")
                }
                result += value
                rest = rest[rest.index(after: end)...]
            }
            result += rest
            guard !result.isEmpty else { throw fail(place, "'\(key)' is empty") }
            return result
        }
        func fields(
            _ node: YAMLNode, _ known: [String], of what: String
        ) throws(ArchiveError) -> [String: YAMLNode] {
            guard case .mapping(let pairs, _) = node else { throw fail(node.place, "\(what) takes keys and values") }
            var result: [String: YAMLNode] = [:]
            for pair in pairs {
                guard known.contains(pair.key) else {
                    throw fail(
                        pair.place, "\(what) has no key '\(pair.key)'",
                        nearest(to: pair.key, among: known).map { "Did you mean '\($0)'?" } ?? "It has: \(known.joined(separator: ", ")).")
                }
                result[pair.key] = pair.value
            }
            return result
        }

        self.path = path
        let top = try fields(root, [
            "archive", "copies", "encrypt", "bandwidth", "sources", "tail", "state", "base", "keep", "rpo", "notify", "listen", "log", "checks",
        ], of: "the configuration")
        guard let archiveNode = top["archive"] else { throw fail(root.place, "'archive' is missing", "Write: archive: file:///srv/tidemark") }
        archive = try text(archiveNode, "archive")
        do { _ = try StoreLocation(archive) } catch { throw fail(archiveNode.place, String(error.message.dropLast()), error.remedy) }
        if let node = top["copies"] {
            guard case .sequence(let items, _) = node, !items.isEmpty else { throw fail(node.place, "'copies' takes a list of URLs") }
            for item in items {
                let url = try text(item, "copies")
                do { _ = try StoreLocation(url) } catch { throw fail(item.place, String(error.message.dropLast()), error.remedy) }
                guard url != archive, !copies.contains(url) else { throw fail(item.place, "'\(url)' is named twice") }
                copies.append(url)
            }
        }
        if let node = top["encrypt"] { (recipients, identities) = try Self.encryption(node, fields: fields, text: text, fail: fail) }
        if let node = top["bandwidth"] { bandwidth = try Self.bandwidth(node, fields: fields, text: text, fail: fail) }

        tail = 1
        if let node = top["tail"] {
            let value = try text(node, "tail")
            guard let seconds = TargetTime.duration(value), (0.05...3600).contains(seconds) else {
                throw fail(node.place, "'tail' is '\(value)'", "Write a duration from 50ms to 1h, such as 1s.")
            }
            tail = seconds
        }
        state = "/var/lib/tidemark"
        if let node = top["state"] {
            state = try text(node, "state")
            guard state.hasPrefix("/") else { throw fail(node.place, "'state' is not an absolute directory") }
        }
        if let node = top["listen"] {
            let value = try text(node, "listen")
            guard let address = ListenAddress(value) else {
                throw fail(node.place, "'listen' is '\(value)'", "Write an IP address and a port, such as 127.0.0.1:9187 or [::1]:9187; a name such as localhost is none.")
            }
            listen = address
        }

        if let node = top["rpo"] {
            let keys = try fields(node, ["objective"], of: "'rpo'")
            if let node = keys["objective"] { objective = try Self.duration(node, "objective", 0.1...31_536_000, such: "5s", text: text, fail: fail) }
        }
        if let node = top["notify"] { notify = try Self.notify(node, fields: fields, text: text, fail: fail) }
        if let node = top["log"] { logFormat = try Self.choice(node, "log", text: text, fail: fail) }
        let base = try top["base"].map { node throws(ArchiveError) in try Self.base(node, fields: fields, text: text, fail: fail) }
        let keep = try top["keep"].map { node throws(ArchiveError) in try Self.keep(node, fields: fields, text: text, fail: fail) }

        guard let list = top["sources"] else { throw fail(root.place, "'sources' is missing", "See docs/configuration.md for an example.") }
        guard case .sequence(let items, let listPlace) = list, !items.isEmpty else {
            throw fail(list.place, "'sources' takes a list of at least one source")
        }
        _ = listPlace
        sources = []
        // The source that a fence names may stand further down: by index of the storage, which one and where it is named.
        var borrowed: [(index: Int, anchor: String, place: YAMLPlace, needsConninfo: Bool)] = []
        for item in items {
            guard case .mapping(let pairs, let place) = item else { throw fail(item.place, "a source takes keys and values") }
            let isPostgres = pairs.contains { $0.key == "postgres" }
            guard isPostgres != pairs.contains(where: { $0.key == "gitaly" }) else {
                throw fail(place, "a source is either 'postgres: NAME' or 'gitaly: NAME'")
            }
            let kindName = isPostgres ? "postgres" : "gitaly"
            let keys = try fields(
                item, isPostgres
                    ? ["postgres", "conninfo", "slot", "ack", "slot_guard", "base", "keep"]
                    : ["gitaly", "storage", "log", "spool", "prune", "fence", "fence_conninfo", "fence_interval", "base", "keep"],
                of: "a \(kindName) source")
            func required(_ key: String) throws(ArchiveError) -> String {
                guard let node = keys[key] else { throw fail(place, "'\(key)' of the \(kindName) source is missing") }
                return try text(node, key)
            }
            let name = try required(kindName)
            let namePlace = keys[kindName]?.place ?? place
            func isName(_ name: String) -> Bool {
                name.utf8.count <= 63
                    && name.utf8.allSatisfy { c in
                        (0x30...0x39).contains(c) || (0x41...0x5A).contains(c) || (0x61...0x7A).contains(c) || c == 0x2D || c == 0x5F
                    }
            }
            guard isName(name) else { throw fail(namePlace, "'\(name)' is no name for a source", "Use 1 to 63 letters, digits, '-' and '_'.") }
            guard !sources.contains(where: { $0.name == name }) else { throw fail(namePlace, "there are two sources '\(name)'") }
            func directory(_ key: String) throws(ArchiveError) -> String {
                var path = try required(key)
                while path.count > 1, path.hasSuffix("/") { path.removeLast() }
                guard path.hasPrefix("/") else { throw fail(keys[key]?.place ?? place, "'\(key)' is not an absolute directory") }
                return path
            }
            if isPostgres {
                let slot = try keys["slot"].map { node throws(ArchiveError) in try text(node, "slot") }
                    ?? "tidemark_" + name.lowercased().map { $0 == "-" ? "_" : String($0) }.joined()
                guard slot.utf8.count <= 63, slot.utf8.allSatisfy({ c in (0x30...0x39).contains(c) || (0x61...0x7A).contains(c) || c == 0x5F })
                else { throw fail(keys["slot"]?.place ?? place, "'\(slot)' is no name for a slot", "Use lower-case letters, digits and '_'.") }
                let ack: Acknowledgement = try keys["ack"].map { node throws(ArchiveError) in try Self.choice(node, "ack", text: text, fail: fail) } ?? .spool
                let slotGuard = try keys["slot_guard"].map { node throws(ArchiveError) in try Self.slotGuard(node, fields: fields, text: text, fail: fail) }
                sources.append(
                    Source(name: name, kind: .postgres(conninfo: try required("conninfo"), slot: slot, ack: ack, slotGuard: slotGuard ?? SlotSettings())))
            } else {
                var log = GitalyLog.wal
                if let node = keys["log"] {
                    let value = try text(node, "log")
                    guard let known = GitalyLog(rawValue: value) else { throw fail(node.place, "'log' is '\(value)'", "Write wal or spool.") }
                    log = known
                }
                if log == .wal, let node = keys["spool"] { throw fail(node.place, "'spool' goes with 'log: spool' only") }
                var prune = true
                if let node = keys["prune"] {
                    let value = try text(node, "prune")
                    guard value == "true" || value == "false" else { throw fail(node.place, "'prune' is '\(value)'", "Write true or false.") }
                    prune = value == "true"
                }
                var fence: Fence?
                if let node = keys["fence"] {
                    let anchor = try text(node, "fence")
                    guard isName(anchor) else { throw fail(node.place, "'\(anchor)' is no name for a source", "Name a postgres source, such as main.") }
                    fence = Fence(anchor: anchor, conninfo: "", interval: 1)
                    if let node = keys["fence_conninfo"] { fence?.conninfo = try text(node, "fence_conninfo") }
                    if let node = keys["fence_interval"] {
                        let value = try text(node, "fence_interval")
                        guard let seconds = TargetTime.duration(value), (0.1...60).contains(seconds) else {
                            throw fail(node.place, "'fence_interval' is '\(value)'", "Write a duration from 100ms to 1m, such as 1s.")
                        }
                        fence?.interval = seconds
                    }
                    borrowed.append((sources.count, anchor, node.place, keys["fence_conninfo"] == nil))
                } else {
                    for key in ["fence_conninfo", "fence_interval"] {
                        if let node = keys[key] { throw fail(node.place, "'\(key)' goes with 'fence' only", "Add 'fence: NAME' of the postgres source.") }
                    }
                }
                sources.append(
                    Source(
                        name: name,
                        kind: .gitaly(
                            storage: try directory("storage"), log: log, spool: log == .spool ? try directory("spool") : nil, prune: prune,
                            fence: fence)))
            }
            let last = sources.count - 1
            sources[last].base = try keys["base"].map { node throws(ArchiveError) in try Self.base(node, fields: fields, text: text, fail: fail) } ?? base
            sources[last].keep = try keys["keep"].map { node throws(ArchiveError) in try Self.keep(node, fields: fields, text: text, fail: fail) } ?? keep
        }
        for (index, anchor, place, needsConninfo) in borrowed {
            guard case .gitaly(let storage, let log, let spool, let prune, var fence?) = sources[index].kind else { continue }
            switch sources.first(where: { $0.name == anchor })?.kind {
            case .postgres(let conninfo, _, _, _): if needsConninfo { fence.conninfo = conninfo }
            case .gitaly: throw fail(place, "'fence' names '\(anchor)', which is no postgres source")
            case nil:
                guard !needsConninfo else {
                    throw fail(
                        place, "'fence' names '\(anchor)', which is not in this file",
                        "Add 'fence_conninfo' with the connection string of that PostgreSQL, or correct the name.")
                }
            }
            sources[index].kind = .gitaly(storage: storage, log: log, spool: spool, prune: prune, fence: fence)
        }
        if let node = top["checks"] { checks = try Self.checks(node, of: sources, fields: fields, text: text, fail: fail) }
    }
}
