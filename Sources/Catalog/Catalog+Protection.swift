import ArchiveCore
import Store

/// Holds, uses and the announcements of expiries: what keeps bases from being removed while somebody needs them.
///
/// Who wants to use a base writes that down first and then looks for announcements; an expiry announces first and then looks for uses. So
/// at least one of the two sees the other, whatever the order in which their requests arrive.
extension Catalog {
    // MARK: Holds

    /// - Throws: `.archiveDamaged` for one that cannot be read: what it holds is not known, so nothing may go.
    public func holds() async throws -> [HoldRecord] { try await (records(below: "holds/") as [HoldRecord]).sorted { $0.id < $1.id } }

    public func record(_ hold: HoldRecord) async throws { try await store.put(try Self.encode(hold), at: try Self.key("holds/\(hold.id).json", hold.id, "hold")) }

    /// - Returns: `false` when there is no such hold.
    public func releaseHold(_ id: String) async throws -> Bool {
        let key = try Self.key("holds/\(id).json", id, "hold")
        guard try await store.keys(prefix: key.path, after: nil, limit: 1).first == key else { return false }
        try await store.remove(key)
        return true
    }

    private static func key(_ path: String, _ id: String, _ what: String) throws(ArchiveError) -> ObjectKey {
        guard !id.contains("/"), let key = ObjectKey(path) else {
            throw ArchiveError(.usage, "'\(id)' is no \(what).", remedy: "`tidemark keep --list` shows what there is.")
        }
        return key
    }

    // MARK: Uses

    /// The newest record of each use, those included whose time is over.
    ///
    /// - Throws: `.archiveDamaged` as `holds` does.
    public func uses() async throws -> [UseRecord] {
        for attempt in 1... {
            var newest: [String: ObjectKey] = [:]
            for object in try await store.listAll(prefix: "uses/") {
                let parts = object.key.path.split(separator: "/").map(String.init)
                if parts.count == 3, parts[2].hasSuffix(".json") { newest[parts[1]] = object.key }
            }
            do {
                var uses: [UseRecord] = []
                for key in newest.values.sorted() { uses.append(try await record(key)) }
                return uses
            } catch let error as ArchiveError where error.code == .objectMissing && attempt < 20 {
                // Renewed or ended meanwhile.
            }
        }
        preconditionFailure("the last attempt returns or throws")
    }

    /// - Parameter number: counts the renewals from 0; the one before is removed, as far as that is allowed.
    public func record(_ use: UseRecord, number: Int) async throws {
        func key(_ n: Int) throws(ArchiveError) -> ObjectKey { try Self.key("uses/\(use.id)/\(hex(UInt64(n), 8)).json", use.id, "use") }
        try await store.put(try Self.encode(use), at: try key(number))
        // Two records of one use do no harm: the newer one counts.
        if number > 0 { try? await store.remove(try key(number - 1)) }
    }

    public func removeUse(_ id: String) async throws {
        _ = try Self.key("uses/\(id)/0", id, "use")
        try await store.remove(try await store.listAll(prefix: "uses/\(id)/").map(\.key))
    }

    // MARK: Announcements

    /// Expiries that are under way or were interrupted, oldest first. `decided` is there once uses were looked for.
    public func expiries() async throws -> [(wanted: ExpiryRecord, decided: ExpiryRecord?)] {
        var found: [(wanted: ExpiryRecord, decided: ExpiryRecord?)] = []
        for id in try await store.folders(below: "expiry/") {
            guard let wanted: ExpiryRecord = try await announcement(id, "wanted") else { continue }
            found.append((wanted, try await announcement(id, "decided")))
        }
        return found
    }

    private func announcement(_ id: String, _ name: String) async throws -> ExpiryRecord? {
        guard let key = ObjectKey("expiry/\(id)/\(name).json") else { return nil }
        do { return try await record(key) } catch let error as ArchiveError where error.code == .objectMissing { return nil }
    }

    public func announce(_ expiry: ExpiryRecord, isDecided: Bool) async throws {
        try await store.put(try Self.encode(expiry), at: ObjectKey(known: "expiry/\(expiry.id)/\(isDecided ? "decided" : "wanted").json"))
    }

    /// Takes an announcement back, or ends it.
    public func withdraw(_ expiry: ExpiryRecord) async throws {
        for name in ["decided", "wanted"] { try await store.remove(ObjectKey(known: "expiry/\(expiry.id)/\(name).json")) }
    }

    /// Which of some bases are gone or go right now, of those whose use or hold was recorded just before: waits until every expiry that
    /// wants one of them has decided.
    ///
    /// - Parameters:
    ///   - patience: seconds after which an expiry that has not decided is taken for dead.
    ///   - pause: waits for so many seconds.
    /// - Throws: `.alreadyRunning` when one has not decided, nor ended, by then.
    public func lost(
        of bases: [BaseReference], patience: Double = 60, pause: (Double) async throws -> Void = { try await Task.sleep(for: .seconds($0)) }
    ) async throws -> Set<BaseReference> {
        let wanted = Set(bases)
        var waited = 0.0
        while true {
            var lost: Set<BaseReference> = []
            for base in wanted where try await !isComplete(base) { lost.insert(base) }
            var undecided: ExpiryRecord?
            for expiry in try await expiries() where !wanted.isDisjoint(with: expiry.wanted.bases) {
                if let decided = expiry.decided { lost.formUnion(wanted.intersection(decided.bases)) } else { undecided = expiry.wanted }
            }
            guard let undecided else { return lost }
            guard waited < patience else {
                throw ArchiveError(
                    .alreadyRunning,
                    "An expiry of '\(undecided.source)' that began at \(undecided.started) on \(undecided.host) has announced to remove bases that are wanted here, and has not decided.",
                    remedy: "Try again in a minute. If it died, `tidemark expire --apply` finishes what it left.")
            }
            try await pause(0.5)
            waited += 0.5
        }
    }

    private func isComplete(_ base: BaseReference) async throws -> Bool {
        guard let key = ObjectKey("bases/\(base.source)/\(base.incarnation)/\(base.base)/base.json") else { return false }
        return try await store.keys(prefix: key.path, after: nil, limit: 1).first == key
    }
}
