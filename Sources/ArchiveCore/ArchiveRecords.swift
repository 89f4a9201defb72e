/// `tidemark.json`: what makes a place an archive.
public struct ArchiveIdentity: Codable, Sendable, Hashable {
    /// Versions of the layout that this build writes and reads: of a plain archive, and of an encrypted one.
    public static let plainFormat = 1
    public static let encryptedFormat = 2

    /// How an archive is encrypted.
    public struct Encryption: Codable, Sendable, Hashable {
        /// `age`.
        public var scheme: String
        /// Public keys that it was encrypted for when it was created. For people; never taken as an order.
        public var recipients: [String]

        public init(scheme: String = "age", recipients: [String]) {
            self.scheme = scheme
            self.recipients = recipients
        }
    }

    public var format: Int
    /// A random UUID, so that an agent notices when another archive lies at the same place.
    public var id: String
    public var created: Moment
    public var createdBy: String
    /// `nil`: the archive is not encrypted.
    public var encryption: Encryption?

    public init(id: String, created: Moment, createdBy: String, encryption: Encryption? = nil) {
        format = encryption == nil ? Self.plainFormat : Self.encryptedFormat
        self.encryption = encryption
        self.id = id
        self.created = created
        self.createdBy = createdBy
    }
}

/// One continuous history of a source.
public struct IncarnationRecord: Codable, Sendable, Hashable {
    public var source: String
    /// `<identity>-<number in 4 digits>`; part of object keys.
    public var id: String
    /// The kind of component, `postgres` or `gitaly`; only the registry of components looks at it.
    public var kind: String
    /// What the source calls itself: PostgreSQL's system identifier, or the uuid of Gitaly's storage.
    public var identity: String
    public var number: Int
    public var created: Moment
    /// Facts that a restore needs and that never change within the incarnation, such as the segment size.
    public var facts: [String: String]
    /// Why it was begun, when it was not the first.
    public var reason: String?

    public init(
        source: String, id: String, kind: String, identity: String, number: Int, created: Moment, facts: [String: String],
        reason: String?
    ) {
        self.source = source
        self.id = id
        self.kind = kind
        self.identity = identity
        self.number = number
        self.created = created
        self.facts = facts
        self.reason = reason
    }
}

/// Where a branch left its parent: a line of PostgreSQL's timeline history.
public struct BranchRecord: Codable, Sendable, Hashable {
    public struct Ancestor: Codable, Sendable, Hashable {
        public var branch: UInt32
        /// First offset that no longer belongs to `branch`.
        public var end: UInt64
        public init(branch: UInt32, end: UInt64) {
            self.branch = branch
            self.end = end
        }
    }
    public var branch: UInt32
    /// From the oldest to the parent.
    public var ancestors: [Ancestor]
    /// The source's own file, byte for byte, and its name.
    public var file: [UInt8]
    public var fileName: String

    public init(branch: UInt32, ancestors: [Ancestor], file: [UInt8], fileName: String) {
        self.branch = branch
        self.ancestors = ancestors
        self.file = file
        self.fileName = fileName
    }
}

/// A hole in a log that can no longer be filled.
public struct GapRecord: Codable, Sendable, Hashable {
    public var stream: String
    public var branch: UInt32
    /// First offset that is missing, and the first that is there again.
    public var start: UInt64
    public var end: UInt64
    public var noticed: Moment
    public var cause: String
    /// Nothing that is missing was committed up to this time: the source's watermark when the hole was noticed.
    public var provenUpTo: Moment?

    public init(stream: String, branch: UInt32, start: UInt64, end: UInt64, noticed: Moment, cause: String, provenUpTo: Moment? = nil) {
        self.stream = stream
        self.branch = branch
        self.start = start
        self.end = end
        self.noticed = noticed
        self.cause = cause
        self.provenUpTo = provenUpTo
    }

    /// Whether the first missing offset is in this hole.
    public func explains(_ stream: String, _ offset: UInt64) -> Bool { self.stream == stream && start <= offset && offset < end }
}

/// A base backup: what `base.json` beside its objects says.
public struct BaseRecord: Codable, Sendable, Hashable {
    public struct Part: Codable, Sendable, Hashable {
        /// Name of the object in the base's folder.
        public var name: String
        /// Where it begins in the tar that all parts together are, and how much of it it holds, in bytes.
        public var offset: UInt64
        public var length: UInt64
        public var storedLength: UInt64
        /// SHA-256 of the stored object, in hexadecimal.
        public var sha256: String

        public init(name: String, offset: UInt64, length: UInt64, storedLength: UInt64, sha256: String) {
            self.name = name
            self.offset = offset
            self.length = length
            self.storedLength = storedLength
            self.sha256 = sha256
        }
    }

    public var id: String
    public var source: String
    public var incarnation: String
    public var kind: String
    public var started: Moment
    /// By this time everything in the base had been committed: no earlier target can use it.
    public var completed: Moment
    /// The piece of log, by branch and name, from which on a restore reads; `nil`: from the beginning.
    public var firstPiece: String?
    public var branch: UInt32
    public var parts: [Part]
    /// SHA-256 of `index.zst`, in hexadecimal.
    public var indexSHA256: String
    /// The same of `spans.zst`; `nil` in bases that were taken before there was one.
    public var spansSHA256: String?
    public var files: Int
    public var bytes: UInt64
    /// What went wrong without making the base useless.
    public var warnings: [String]
    /// Facts for the component that made it.
    public var facts: [String: String]
    /// Other bases that hold content of this one, which stay as long as it does; `nil`: none.
    public var origins: [String]?

    public init(
        id: String, source: String, incarnation: String, kind: String, started: Moment, completed: Moment, firstPiece: String?,
        branch: UInt32, parts: [Part], indexSHA256: String, files: Int, bytes: UInt64, warnings: [String], facts: [String: String]
    ) {
        self.id = id
        self.source = source
        self.incarnation = incarnation
        self.kind = kind
        self.started = started
        self.completed = completed
        self.firstPiece = firstPiece
        self.branch = branch
        self.parts = parts
        self.indexSHA256 = indexSHA256
        self.files = files
        self.bytes = bytes
        self.warnings = warnings
        self.facts = facts
    }
}

/// One path of a base.
public struct TreeEntry: Sendable, Hashable {
    public enum Kind: UInt64, Sendable { case directory = 1, file = 2, symlink = 3 }

    public var kind: Kind
    /// Relative to the restored directory; bytes, not necessarily UTF-8; no `..`, not absolute.
    public var path: [UInt8]
    /// Permission bits, 0 to 0o7777.
    public var mode: UInt32
    public var owner: UInt32
    public var group: UInt32
    /// Nanoseconds since 1970.
    public var modified: Moment
    /// Bytes of content; for a symlink 0.
    public var size: UInt64
    /// For a symlink, where it points.
    public var target: [UInt8]
    /// Where the content begins in the tar of the base that holds it.
    public var offset: UInt64
    /// The base that holds the content; empty: the same.
    public var origin: String

    public init(
        kind: Kind, path: [UInt8], mode: UInt32, owner: UInt32 = 0, group: UInt32 = 0, modified: Moment = Moment(rawValue: 0),
        size: UInt64 = 0, target: [UInt8] = [], offset: UInt64 = 0, origin: String = ""
    ) {
        self.kind = kind
        self.path = path
        self.mode = mode
        self.owner = owner
        self.group = group
        self.modified = modified
        self.size = size
        self.target = target
        self.offset = offset
        self.origin = origin
    }

    public var displayPath: String { String(decoding: path, as: UTF8.self) }
}

/// Something that a base lacks, or that is damaged in it, although the base can be used.
public struct TreeLoss: Sendable, Hashable {
    /// A file, or a directory with everything in it; empty: no path is known.
    public var path: [UInt8]
    /// One sentence without a full stop, for people; it names the path.
    public var reason: String

    public init(path: [UInt8], reason: String) {
        self.path = path
        self.reason = reason
    }

    /// Whether `other` is what is lost, or lies in it.
    public func covers(_ other: [UInt8]) -> Bool {
        !path.isEmpty && other.starts(with: path) && (other.count == path.count || other[path.count] == UInt8(ascii: "/"))
    }
}

/// The first hundred of many sentences, and how many more there are.
public func bounded(_ sentences: [String]) -> [String] {
    sentences.count <= 101 ? sentences : sentences.prefix(100) + ["and \(sentences.count - 100) more"]
}

/// `index.zst` of a base: every path, and the runs of log that must be replayed over them.
public struct TreeIndex: Sendable, Hashable {
    public var entries: [TreeEntry]
    /// For each stream, the base's window: from the first record to replay to the end before which no target can lie.
    public var spans: [LogSpan]
    /// What the source had and the base lacks, or has damaged.
    public var losses: [TreeLoss]

    public init(entries: [TreeEntry], spans: [LogSpan], losses: [TreeLoss] = []) {
        self.entries = entries
        self.spans = spans
        self.losses = losses
    }

    public func encoded() -> [UInt8] {
        var w = WireWriter()
        w.number(1, 1)
        for e in entries {
            w.message(2) { w in
                w.number(1, e.kind.rawValue)
                w.data(2, e.path)
                w.number(3, UInt64(e.mode))
                w.number(4, UInt64(e.owner))
                w.number(5, UInt64(e.group))
                w.signed(6, e.modified.rawValue)
                w.number(7, e.size)
                w.data(8, e.target)
                w.number(9, e.offset)
                w.text(10, e.origin)
            }
        }
        for span in spans { w.message(3) { span.encode(into: &$0) } }
        for loss in losses {
            w.message(4) { w in
                w.data(1, loss.path)
                w.text(2, loss.reason)
            }
        }
        return w.bytes
    }

    /// - Throws: `WireError` for damage, and for a path that would leave the directory.
    public init(decoding bytes: [UInt8]) throws(WireError) {
        self.init(entries: [], spans: [])
        var version: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2: entries.append(try Self.entry(value.bytes("entry")))
            case 3: spans.append(try LogSpan(decoding: value.bytes("span")))
            case 4: losses.append(try Self.loss(value.bytes("loss")))
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "index version \(version) is not known") }
    }

    private static func loss(_ bytes: ArraySlice<UInt8>) throws(WireError) -> TreeLoss {
        var loss = TreeLoss(path: [], reason: "")
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: loss.path = Array(try value.bytes("path"))
            case 2: loss.reason = try value.text("reason")
            default: continue
            }
        }
        return loss
    }

    private static func entry(_ bytes: ArraySlice<UInt8>) throws(WireError) -> TreeEntry {
        var e = TreeEntry(kind: .file, path: [], mode: 0)
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1:
                guard let kind = TreeEntry.Kind(rawValue: try value.number("kind")) else {
                    throw WireError(offset: 0, reason: "a path is of no known kind")
                }
                e.kind = kind
            case 2: e.path = Array(try value.bytes("path"))
            case 3: e.mode = UInt32(truncatingIfNeeded: try value.number("mode")) & 0o7777
            case 4: e.owner = UInt32(truncatingIfNeeded: try value.number("owner"))
            case 5: e.group = UInt32(truncatingIfNeeded: try value.number("group"))
            case 6: e.modified = Moment(rawValue: zigZag(try value.number("time")))
            case 7: e.size = try value.number("size")
            case 8: e.target = Array(try value.bytes("target"))
            case 9: e.offset = try value.number("offset")
            case 10: e.origin = try value.text("origin")
            default: continue
            }
        }
        guard isSafeRelativePath(e.path) else {
            throw WireError(offset: 0, reason: "the path '\(e.displayPath)' would leave its directory")
        }
        return e
    }
}

/// Whether `path` is relative, not empty, and without empty, `.` or `..` parts and NUL bytes.
public func isSafeRelativePath(_ path: some Collection<UInt8>) -> Bool {
    // Bytes of the part so far, and whether all of them were dots.
    var length = 0
    var isDots = true
    for byte in path {
        switch byte {
        case 0: return false
        case 0x2F:
            if length == 0 || isDots && length <= 2 { return false }
            length = 0
            isDots = true
        default:
            length += 1
            if byte != 0x2E { isDots = false }
        }
    }
    return !(length == 0 || isDots && length <= 2)
}

/// Where one stream stops: the last record that a restore applies.
public struct StreamCut: Codable, Sendable, Hashable {
    public var stream: String
    public var branch: UInt32
    /// Offset at which the last record to apply begins; `nil`: nothing beyond the base.
    public var through: UInt64?
    /// The first offset after that record, as far as it is known.
    public var end: UInt64

    public init(stream: String, branch: UInt32, through: UInt64?, end: UInt64) {
        self.stream = stream
        self.branch = branch
        self.through = through
        self.end = end
    }
}
