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
        guard parts.count == 2, parts[1].hasSuffix(".zst"), let start = Self.moment(parts[0]), let end = Self.moment(parts[1].dropLast(4)), start <= end else { return nil }
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

    /// - Returns: the rows that the object holds now: those given, or, where it was there before, its own.
    @discardableResult
    private func put(_ rows: [LagRow], as level: LagLevel, of source: String) async throws -> [LagRow] {
        guard let first = rows.first, let last = rows.last else { return [] }
        let object = LagObject(level: level, start: first.start, end: last.end)
        var bytes: [UInt8] = []
        try Zstd.compress(LagRow.encoded(rows), level: 3, into: &bytes)
        do {
            try await store.put(bytes, at: lagKey(object, of: source))
            return rows
        } catch let error as ArchiveError where error.code == .objectExists {
            // Of another release of the compressor; or of another agent, whose word is as good.
            return try await lagRows(in: object, of: source)
        }
    }

    private func lagKey(_ object: LagObject, of source: String) -> ObjectKey { ObjectKey(known: lagFolder(of: source) + object.path) }

    private func lagRows(in object: LagObject, of source: String) async throws -> [LagRow] {
        let key = lagKey(object, of: source)
        return try await store.read(key) { bytes in
            func damaged(_ why: String) -> ArchiveError {
                ArchiveError(.archiveDamaged, "The record '\(key)' of lag is damaged: \(why).", remedy: "Remove that one object; the report then lacks its time.")
            }
            do {
                let rows = try LagRow.decoded(try Zstd.decompress(bytes[...], limit: 1 << 26))
                guard let first = rows.first, let last = rows.last, LagObject(level: object.level, start: first.start, end: last.end).path == object.path else {
                    throw damaged("what it holds is of another time than its name says")
                }
                return rows
            } catch let error as WireError { throw damaged("\(error)") } catch let error as ArchiveError where error.code != .archiveDamaged { throw damaged(error.message) }
        }
    }

    private func lagObjects(of source: String, _ level: LagLevel) async throws -> [LagObject] {
        let prefix = "\(lagFolder(of: source))\(level.rawValue)/"
        return try await store.listAll(prefix: prefix).compactMap { LagObject(level: level, name: String($0.key.path.dropFirst(prefix.utf8.count))) }
    }

    /// The end of the newest row that is recorded of a source, or up to a millisecond later; read from names alone.
    public func lagRecordedUpTo(of source: String) async throws -> Moment? {
        var end: Moment?
        for level in LagLevel.allCases { for object in try await lagObjects(of: source, level) { end = max(end ?? object.end, object.end) } }
        return end?.adding(nanoseconds: 1_000_000)
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
                guard attempts < 100 else { throw error }
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
            try await inOrder(objects, width: store.parallelism) { object in try await lagRows(in: object, of: source) } visit: { _, some in
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

    /// The newest row that ended before `time`, or at it.
    public func newestLagRow(of source: String, before time: Moment) async throws -> LagRow? {
        var attempts = 0
        while true {
            do { return try await newestNow(of: source, before: time) } catch let error as ArchiveError where error.code == .objectMissing {
                attempts += 1
                guard attempts < 100 else { throw error }
            }
        }
    }

    private func newestNow(of source: String, before time: Moment) async throws -> LagRow? {
        var objects: [LagObject] = []
        for level in LagLevel.allCases.reversed() { objects += try await lagObjects(of: source, level).filter { $0.start < time } }
        // One that goes on beyond that time may have none that ended before; then the next one has.
        for object in objects.sorted(by: { ($0.end, $0.start) > ($1.end, $1.start) }) {
            if let row = try await lagRows(in: object, of: source).last(where: { $0.end <= time }) { return row }
        }
        return nil
    }

    /// Puts the rows of hours and days that are over into one object each, and removes what they were made of. Ended at any moment, it
    /// leaves nothing that would be counted twice; two agents at it at once lose nothing.
    public func compactLag(of source: String, at now: Moment) async throws {
        for (parts, whole) in [(LagLevel.minute, LagLevel.hour), (.hour, .day)] {
            // In this order: what another agent put together meanwhile is seen, or its parts still are.
            let objects = Dictionary(grouping: try await lagObjects(of: source, parts)) { Self.number(of: $0.start, whole) }
            let wholes = Dictionary(grouping: objects.isEmpty ? [] : try await lagObjects(of: source, whole)) { Self.number(of: $0.start, whole) }
            // A few minutes' grace for rows that a slow store kept waiting.
            for (number, group) in objects.sorted(by: { $0.key < $1.key }) where Moment(rawValue: (number + 1) * whole.length * 1_000_000_000).adding(seconds: 300) <= now {
                do { try await compact(group, into: whole, beside: wholes[number] ?? [], of: source) } catch let error as ArchiveError where error.code == .objectMissing {
                    // Another agent is at it.
                }
            }
        }
    }

    private func compact(_ group: [LagObject], into level: LagLevel, beside wholes: [LagObject], of source: String) async throws {
        var kept: [LagRow] = []
        for object in wholes { kept = Self.merge(kept, try await lagRows(in: object, of: source)) }
        var parts: [(object: LagObject, rows: [LagRow])] = []
        try await inOrder(group, width: store.parallelism) { object in (object: object, rows: try await lagRows(in: object, of: source)) } visit: { _, part in
            parts.append(part)
            return true
        }
        // Where this was ended before it had removed them, a larger object has them.
        let rows = parts.reduce([]) { Self.merge($0, $1.rows) }.filter { !Self.overlaps($0, kept) }
        kept = Self.merge(kept, try await put(rows.joined(within: level.row), as: level, of: source))
        // Another agent's object of the same name may lack some: these stay for the next time.
        try await store.remove(parts.filter { $0.rows.allSatisfy { Self.overlaps($0, kept) } }.map { lagKey($0.object, of: source) })
    }

    /// - Parameter rows: ascending.
    private static func overlaps(_ row: LagRow, _ rows: [LagRow]) -> Bool {
        // The first that ends behind its beginning.
        var (low, high) = (0, rows.count)
        while low < high {
            let middle = (low + high) / 2
            if rows[middle].end <= row.start { low = middle + 1 } else { high = middle }
        }
        return low < rows.count && rows[low].start < row.end
    }

    private static func number(of time: Moment, _ level: LagLevel) -> Int64 { time.rawValue / 1_000_000_000 / level.length }

    /// Brings what another archive has of a source's lag level with this one.
    ///
    /// - Parameter refuse: is told what cannot be copied since it is damaged here.
    public func copyLag(of source: String, to copy: Catalog, at now: Moment, refuse: (ObjectKey, ArchiveError) -> Void) async throws {
        for level in LagLevel.allCases {
            let there = Set(try await copy.lagObjects(of: source, level))
            for object in try await lagObjects(of: source, level) where !there.contains(object) {
                do { try await copy.put(try await lagRows(in: object, of: source), as: level, of: source) } catch let error as ArchiveError where error.code == .objectMissing {
                    // Put together meanwhile: the next look finds it as part of a larger one.
                } catch let error as ArchiveError where error.code == .archiveDamaged { refuse(lagKey(object, of: source), error) }
            }
        }
        try await copy.compactLag(of: source, at: now)
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
