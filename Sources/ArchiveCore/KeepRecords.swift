/// A base of one history of a source.
public struct BaseReference: Codable, Sendable, Hashable, CustomStringConvertible {
    public var source: String
    public var incarnation: String
    public var base: String

    public init(source: String, incarnation: String, base: String) {
        self.source = source
        self.incarnation = incarnation
        self.base = base
    }

    public var description: String { "\(base) of '\(source)'" }
}

/// `holds/<id>.json`: bases that stay, with all log from them on, until somebody lets them go.
public struct HoldRecord: Codable, Sendable, Hashable {
    public var id: String
    public var created: Moment
    /// The host on which it was made.
    public var host: String
    public var bases: [BaseReference]
    /// When it ends by itself; `nil`: never.
    public var until: Moment?
    public var reason: String?

    public init(id: String, created: Moment, host: String, bases: [BaseReference], until: Moment?, reason: String?) {
        self.id = id
        self.created = created
        self.host = host
        self.bases = bases
        self.until = until
        self.reason = reason
    }
}

/// `uses/<id>/<number>.json`: bases that somebody reads at this moment.
public struct UseRecord: Codable, Sendable, Hashable {
    public var id: String
    /// What is done with them, such as `restore`.
    public var what: String
    public var host: String
    public var process: Int32
    public var started: Moment
    /// Nobody reads any more after this time unless the use is renewed.
    public var expires: Moment
    public var bases: [BaseReference]

    public init(id: String, what: String, host: String, process: Int32, started: Moment, expires: Moment, bases: [BaseReference]) {
        self.id = id
        self.what = what
        self.host = host
        self.process = process
        self.started = started
        self.expires = expires
        self.bases = bases
    }
}

/// `expiry/<id>/wanted.json` and `decided.json`: what an expiry is about to remove of one source, before and after it has looked for uses.
public struct ExpiryRecord: Codable, Sendable, Hashable {
    /// Log of one branch that goes.
    public struct Log: Codable, Sendable, Hashable {
        public var incarnation: String
        public var branch: UInt32
        /// The first piece that stays; `nil`: none does.
        public var before: String?

        public init(incarnation: String, branch: UInt32, before: String?) {
            self.incarnation = incarnation
            self.branch = branch
            self.before = before
        }

        /// Whether it goes.
        public func holds(_ piece: String, branch: UInt32) -> Bool { branch == self.branch && before.map { piece < $0 } ?? true }
    }

    public var id: String
    public var started: Moment
    public var host: String
    public var process: Int32
    public var source: String
    public var bases: [BaseReference]
    public var log: [Log]
    /// Histories of which nothing stays.
    public var incarnations: [String]

    public init(
        id: String, started: Moment, host: String, process: Int32, source: String, bases: [BaseReference], log: [Log], incarnations: [String]
    ) {
        self.id = id
        self.started = started
        self.host = host
        self.process = process
        self.source = source
        self.bases = bases
        self.log = log
        self.incarnations = incarnations
    }
}

extension Moment {
    /// `20261124T025330Z-1a2b3c4d`: sorts by time, and two of one second differ.
    public var identifier: String {
        let digits = "\(Moment(rawValue: rawValue - rawValue % 1_000_000_000))".filter { $0 != "-" && $0 != ":" }
        return "\(digits)-\(hex(UInt64.random(in: 0...0xFFFF_FFFF), 8).lowercased())"
    }

    /// The time that an identifier begins with; `nil` for anything else.
    public static func ofIdentifier(_ id: String) -> Moment? {
        let d = Array(id.prefix(16))
        guard d.count == 16 else { return nil }
        func part(_ range: Range<Int>) -> String { String(d[range]) }
        return Moment("\(part(0..<4))-\(part(4..<6))-\(part(6..<8))T\(part(9..<11)):\(part(11..<13)):\(part(13..<15))Z")
    }
}
