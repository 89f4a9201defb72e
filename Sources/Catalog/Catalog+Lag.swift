import ArchiveCore
import Lag
import Pack
import Runtime
import Store

/// How large a piece of a source's lag history an object is.
enum LagLevel: String, CaseIterable {
    case day, hour, minute

    /// Seconds that an object is about at most.
    var length: Int64 { switch self { case .day: 86_400; case .hour: 3600; case .minute: 60 } }
    /// Seconds of a row in it.
    var row: Int64 { self == .day ? 600 : 60 }
}

/// `<start>-<end>.zst`, each as `20261125T081700.000Z`: text order is time order.
struct LagObject: Hashable {
    var level: LagLevel
    var start: Moment
    var end: Moment

    init(level: LagLevel, start: Moment, end: Moment) {
        self.level = level
        self.start = start
        self.end = end
    }

    /// - Returns: `nil` for a name that is none.
    init?(level: LagLevel, name: String) {
        let parts = name.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[1].hasSuffix(".zst"), let start = Self.moment(parts[0]), let end = Self.moment(parts[1].dropLast(4)), start < end else { return nil }
        self.init(level: level, start: start, end: end)
    }

    var path: String { "\(level.rawValue)/\(Self.text(start))-\(Self.text(end)).zst" }

    /// To the millisecond, downwards.
    private static func text(_ time: Moment) -> String {
        let milliseconds = time.rawValue >= 0 ? time.rawValue / 1_000_000 : 0
        let seconds = "\(Moment(rawValue: milliseconds / 1000 * 1_000_000_000))".filter { $0 != "-" && $0 != ":" && $0 != "Z" }
        let rest = String(milliseconds % 1000)
        return "\(seconds).\(String(repeating: "0", count: 3 - rest.utf8.count))\(rest)Z"
    }

    private static func moment(_ text: Substring) -> Moment? {
        let c = Array(text)
        guard c.count == 20 else { return nil }
        return Moment("\(String(c[0..<4]))-\(String(c[4..<6]))-\(String(c[6..<11])):\(String(c[11..<13])):\(String(c[13...]))")
    }
}

/// The history of how far the archive was behind, below `rpo/<source>/`: an object a minute, later one an hour and one a day.
extension Catalog {
    public func lagFolder(of source: String) -> String { "rpo/\(source)/" }

    /// Removes whole days of the history that ended before `time`.
    public func removeLagHistory(of source: String, before time: Moment) async throws {
        let prefix = lagFolder(of: source) + "day/"
        while true {
            let keys = try await store.keys(prefix: prefix, after: nil, limit: 1000)
            let old = keys.prefix { key in LagObject(level: .day, name: String(key.path.dropFirst(prefix.utf8.count))).map { $0.end < time } ?? false }
            if !old.isEmpty { try await store.remove(Array(old)) }
            guard old.count == 1000 else { return }
        }
    }

    /// Stores one row.
    public func record(_ row: LagRow, of source: String) async throws { try await put([row], as: .minute, of: source) }

    private func put(_ rows: [LagRow], as level: LagLevel, of source: String) async throws {
        guard let first = rows.first, let last = rows.last else { return }
        let key = lagKey(LagObject(level: level, start: first.start, end: last.end), of: source)
        var object: [UInt8] = []
        try Zstd.compress(LagRow.encoded(rows), level: 3, into: &object)
        do { try await store.put(object, at: key) } catch let error as ArchiveError where error.code == .objectExists {
            // Of another release of the compressor; or of another agent, whose word is as good.
            _ = try await lagRows(at: key)
        }
    }

    private func lagKey(_ object: LagObject, of source: String) -> ObjectKey { ObjectKey(known: lagFolder(of: source) + object.path) }

    private func lagRows(at key: ObjectKey) async throws -> [LagRow] {
        try await store.read(key) { bytes in
            do { return try LagRow.decoded(try Zstd.decompress(bytes[...], limit: 1 << 26)) } catch let error as WireError {
                throw ArchiveError(.archiveDamaged, "The record '\(key)' of lag is damaged: \(error).", remedy: "Remove that one object; the report then lacks its time.")
            }
        }
    }

    private func lagObjects(of source: String, _ level: LagLevel) async throws -> [LagObject] {
        let prefix = "\(lagFolder(of: source))\(level.rawValue)/"
        return try await store.listAll(prefix: prefix).compactMap { LagObject(level: level, name: String($0.key.path.dropFirst(prefix.utf8.count))) }
    }

    /// What is recorded of a source from `from` to `to`, ascending; the first and the last row may go beyond.
    ///
    /// - Throws: `.archiveDamaged`.
    public func lagRows(of source: String, from: Moment, to: Moment) async throws -> [LagRow] {
        var attempts = 0
        while true {
            do { return try await lagRowsNow(of: source, from: from, to: to) } catch let error as ArchiveError where error.code == .objectMissing {
                // An agent at work put a larger object in the place of smaller ones.
                attempts += 1
                guard attempts < 10 else { throw error }
            }
        }
    }

    private func lagRowsNow(of source: String, from: Moment, to: Moment) async throws -> [LagRow] {
        var found: [LagRow] = []
        // The smaller first, so that nothing is missed that is put together meanwhile.
        var listed: [[LagObject]] = []
        for level in LagLevel.allCases.reversed() { listed.append(try await lagObjects(of: source, level).filter { $0.start < to && from < $0.end.adding(seconds: 0.001) }) }
        for objects in listed.reversed() {
            var rows: [LagRow] = []
            try await inOrder(objects, width: store.parallelism) { object in try await lagRows(at: lagKey(object, of: source)) } visit: { _, some in
                rows += some.filter { $0.start < to && from < $0.end }
                return true
            }
            // What a larger object has is not counted again.
            found = Self.merge(found, rows)
        }
        return found
    }

    /// Rows of both, ascending; of the second only those that overlap none before them.
    private static func merge(_ a: [LagRow], _ b: [LagRow]) -> [LagRow] {
        var result: [LagRow] = []
        var i = 0
        for row in b.sorted(by: { $0.start < $1.start }) {
            while i < a.count, a[i].end <= row.start {
                result.append(a[i])
                i += 1
            }
            if i < a.count, a[i].start < row.end { continue }
            if let last = result.last, last.end > row.start { continue }
            result.append(row)
        }
        return result + a[i...]
    }

    /// Puts the rows of hours and days that are over into one object each, and removes what they were made of. Ended at any moment, it
    /// leaves nothing that would be counted twice.
    public func compactLag(of source: String, at now: Moment) async throws {
        for (parts, whole) in [(LagLevel.minute, LagLevel.hour), (.hour, .day)] {
            let wholes = try await lagObjects(of: source, whole)
            let objects = Dictionary(grouping: try await lagObjects(of: source, parts)) { Self.number(of: $0.start, whole) }
            // A few minutes' grace for rows that a slow store kept waiting.
            for (number, group) in objects.sorted(by: { $0.key < $1.key }) where Moment(rawValue: (number + 1) * whole.length * 1_000_000_000).adding(seconds: 300) <= now {
                var known: [LagRow] = []
                for object in wholes where Self.number(of: object.start, whole) == number { known = Self.merge(known, try await lagRows(at: lagKey(object, of: source))) }
                var rows: [LagRow] = []
                for object in group { rows = Self.merge(rows, try await lagRows(at: lagKey(object, of: source))) }
                // Where this was ended before it had removed them, the larger object has them.
                rows.removeAll { row in known.contains { $0.start < row.end && row.start < $0.end } }
                try await put(Self.coarser(rows, seconds: whole.row), as: whole, of: source)
                try await store.remove(group.map { lagKey($0, of: source) })
            }
        }
    }

    private static func number(of time: Moment, _ level: LagLevel) -> Int64 { time.rawValue / 1_000_000_000 / level.length }

    /// Rows that follow each other without a break, put together within each `seconds`.
    private static func coarser(_ rows: [LagRow], seconds: Int64) -> [LagRow] {
        var result: [LagRow] = []
        for row in rows {
            if let last = result.last, last.end == row.start, last.start.rawValue / 1_000_000_000 / seconds == row.start.rawValue / 1_000_000_000 / seconds {
                result[result.count - 1].append(row)
            } else {
                result.append(row)
            }
        }
        return result
    }

    /// Removes days of lag history that ended before `time`.
    ///
    /// - Returns: how many objects.
    @discardableResult
    public func removeLag(of source: String, before time: Moment) async throws -> Int {
        let old = try await lagObjects(of: source, .day).filter { $0.end < time }
        try await store.remove(old.map { lagKey($0, of: source) })
        return old.count
    }
}

/// What was verified, below `verified/<source>/<incarnation>/`: named as watermarks are, the newest alone.
extension Catalog {
    private struct Verified: Codable {
        /// Everything committed up to here.
        var upTo: Moment
        var verified: Moment
        /// Whether the content was read, or names and records only.
        var contents: Bool
    }

    private func verifiedPrefix(_ i: IncarnationRecord) -> String { "verified/\(i.source)/\(i.id)/" }

    /// Records that a verification found everything whole that was committed up to `time`, in place of older such records.
    public func recordVerified(upTo time: Moment, contents: Bool, at now: Moment, of i: IncarnationRecord) async throws {
        let older = try await store.listAll(prefix: verifiedPrefix(i)).map(\.key)
        let digits = String(max(0, time.rawValue))
        let key = ObjectKey(known: verifiedPrefix(i) + String(repeating: "0", count: 20 - digits.utf8.count) + digits + (contents ? "-contents" : "") + ".json")
        do { try await store.put(try Self.encode(Verified(upTo: time, verified: now, contents: contents)), at: key) } catch let error as ArchiveError
            where error.code == .objectExists
        {
            // Verified up to there before.
        }
        try await store.remove(older.filter { $0.path < key.path && (contents || !$0.path.hasSuffix("-contents.json")) })
    }

    /// Everything committed up to this time was verified.
    ///
    /// - Parameter contents: only where the content was read.
    public func verifiedUpTo(of i: IncarnationRecord, contents: Bool = false) async throws -> Moment? {
        let prefix = verifiedPrefix(i)
        let names = try await store.listAll(prefix: prefix).map { $0.key.path.dropFirst(prefix.utf8.count) }
        return names.filter { !contents || $0.hasSuffix("-contents.json") }.compactMap { Int64($0.prefix(20)) }.max().map { Moment(rawValue: $0) }
    }
}
