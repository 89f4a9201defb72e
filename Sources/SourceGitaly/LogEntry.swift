import ArchiveCore

/// One entry of Gitaly's log, decoded from its `MANIFEST` (protobuf message `gitaly.LogEntry`).
struct LogEntry: Sendable, Hashable {
    struct ReferenceChange: Sendable, Hashable {
        var name: [UInt8]
        /// Hexadecimal, all zeros for a deletion, empty for a symbolic reference.
        var newID: String
        var newTarget: [UInt8]
    }
    enum Operation: Sendable, Hashable {
        /// `source` is a file of the entry, or with `inStorage` a path of the storage.
        case link(source: [UInt8], inStorage: Bool, destination: [UInt8])
        case remove([UInt8])
        case makeDirectory([UInt8], mode: UInt32)
        case setKey([UInt8], value: [UInt8])
        case deleteKey([UInt8])
    }

    /// The target repository below the storage; may be empty.
    var relativePath: [UInt8] = []
    var references: [ReferenceChange] = []
    var isDeletion = false
    var isHousekeeping = false
    var operations: [Operation] = []

    init() {}

    /// - Throws: `WireError` for damage, for an operation of no known kind, and for a path that would leave the storage. Fields that
    ///   are not known, which older versions used, are skipped.
    init(decoding manifest: [UInt8]) throws(WireError) {
        var r = WireReader(manifest)
        while let (field, value) = try r.next() {
            switch field {
            case 1:
                relativePath = Array(try value.bytes("relative_path"))
                guard relativePath.isEmpty || isSafeRelativePath(relativePath) else { throw Self.unsafe(relativePath) }
            case 2:
                var transaction = WireReader(try value.bytes("reference_transactions"))
                while let (field, value) = try transaction.next() {
                    if field == 1 { references.append(try Self.change(value.bytes("changes"))) }
                }
            case 6:
                _ = try value.bytes("repository_deletion")
                isDeletion = true
            case 9:
                _ = try value.bytes("housekeeping")
                isHousekeeping = true
            case 10: operations.append(try Self.operation(value.bytes("operations")))
            default: continue
            }
        }
    }

    private static func change(_ bytes: ArraySlice<UInt8>) throws(WireError) -> ReferenceChange {
        var change = ReferenceChange(name: [], newID: "", newTarget: [])
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: change.name = Array(try value.bytes("reference_name"))
            case 2: change.newID = try value.text("new_oid")
            case 3: change.newTarget = Array(try value.bytes("new_target"))
            default: continue
            }
        }
        return change
    }

    private static func operation(_ bytes: ArraySlice<UInt8>) throws(WireError) -> Operation {
        var r = WireReader(bytes)
        guard let (kind, body) = try r.next() else { throw WireError(offset: 0, reason: "an operation is empty") }
        // No operation has a field beyond the third.
        var texts: (ArraySlice<UInt8>, ArraySlice<UInt8>, ArraySlice<UInt8>) = ([], [], [])
        var number: UInt64 = 0
        var inner = WireReader(try body.bytes("operation"))
        while let (field, value) = try inner.next() {
            switch (field, value) {
            case (1, .bytes(let b)): texts.0 = b
            case (2, .bytes(let b)): texts.1 = b
            case (3, .bytes(let b)): texts.2 = b
            case (2, .number(let n)): number = n
            case (_, .bytes), (_, .number): continue
            default: throw WireError(offset: 0, reason: "field \(field) of an operation has a type it never had")
            }
        }
        guard r.isAtEnd else { throw WireError(offset: 0, reason: "an operation is of two kinds") }
        func path(_ bytes: ArraySlice<UInt8>) throws(WireError) -> [UInt8] {
            guard isSafeRelativePath(bytes) else { throw unsafe(Array(bytes)) }
            return Array(bytes)
        }
        switch kind {
        case 1: return .link(source: try path(texts.0), inStorage: number != 0, destination: try path(texts.2))
        case 2: return .remove(try path(texts.0))
        // Go's mode bits: only the permissions mean anything here.
        case 3: return .makeDirectory(try path(texts.0), mode: UInt32(truncatingIfNeeded: number) & 0o777)
        case 4: return .setKey(Array(texts.0), value: Array(texts.1))
        case 5: return .deleteKey(Array(texts.0))
        default: throw WireError(offset: 0, reason: "operation \(kind) is not known")
        }
    }

    private static func unsafe(_ path: [UInt8]) -> WireError {
        WireError(offset: 0, reason: "the path '\(String(decoding: path, as: UTF8.self))' would leave the storage")
    }

    /// Names of the entry's own files that its operations link, each once, in the order of their first use.
    var fileNames: [String] {
        var names: [String] = []
        var seen: Set<String> = []
        for case .link(let source, false, _) in operations {
            let name = String(decoding: source, as: UTF8.self)
            if seen.insert(name).inserted { names.append(name) }
        }
        return names
    }

    /// Whether the entry makes its repository.
    var createsRepository: Bool {
        !relativePath.isEmpty
            && operations.contains { if case .makeDirectory(let path, _) = $0 { path == relativePath } else { false } }
    }
}
