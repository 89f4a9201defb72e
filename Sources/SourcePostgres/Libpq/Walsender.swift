import ArchiveCore

/// The commands of PostgreSQL's replication protocol that have a plain answer.
extension Connection {
    struct System {
        var identifier: String
        var timeline: UInt32
        var position: UInt64
    }

    func identifySystem() throws -> System {
        guard let row = try query("IDENTIFY_SYSTEM").first, row.count >= 3, let id = row[0], UInt64(id) != nil,
            let timeline = row[1].flatMap({ UInt32($0) }), let position = row[2].flatMap({ LSN($0) })
        else { throw ArchiveError(.sourceUnsupported, "PostgreSQL's answer to IDENTIFY_SYSTEM was not understood.") }
        return System(identifier: id, timeline: timeline, position: position.rawValue)
    }

    /// The value of a server setting; `SHOW` works on replication connections too.
    func setting(_ name: String) throws -> String {
        guard let value = try query("SHOW \(name)").first?.first ?? nil else {
            throw ArchiveError(.sourceUnsupported, "PostgreSQL did not tell its setting \(name).")
        }
        return value
    }

    func segmentSize() throws -> SegmentSize {
        let text = try setting("wal_segment_size")
        let digits = UInt64(text.prefix { $0.isNumber }) ?? 0
        let unit: UInt64 =
            switch text.drop(while: { $0.isNumber }) {
            case "kB": 1 << 10
            case "MB": 1 << 20
            case "GB": 1 << 30
            default: 1
            }
        guard let size = SegmentSize(bytes: digits * unit) else {
            throw ArchiveError(.sourceUnsupported, "PostgreSQL's WAL segment size '\(text)' was not understood.")
        }
        return size
    }

    enum SlotState: Sendable {
        case missing
        /// Exists; where it keeps WAL from, when it does and the server can tell.
        case present(restart: UInt64?)
        case unknown
    }

    /// - Returns: `.unknown` before PostgreSQL 15, where this connection cannot ask.
    func slotState(_ slot: String) throws -> SlotState {
        guard serverVersion >= 150_000 else { return .unknown }
        guard let row = try query("READ_REPLICATION_SLOT \(quoted(slot))").first, row.count >= 2, row[0] != nil else { return .missing }
        return .present(restart: row[1].flatMap { LSN($0)?.rawValue })
    }

    /// Creates a physical slot that keeps WAL from now on. - Returns: `false` when there was one.
    @discardableResult
    func createSlot(_ slot: String) throws -> Bool {
        do {
            _ = try query("CREATE_REPLICATION_SLOT \(quoted(slot)) PHYSICAL RESERVE_WAL")
            return true
        } catch let error as ServerError where error.state == ServerError.duplicateObject { return false }
    }

    func dropSlot(_ slot: String) throws {
        do { _ = try query("DROP_REPLICATION_SLOT \(quoted(slot))") } catch let error as ServerError
            where error.state == ServerError.undefinedObject
        {}
    }

    func timelineHistory(_ timeline: UInt32) throws -> TimelineHistory {
        guard let row = try query("TIMELINE_HISTORY \(timeline)").first, row.count == 2, let name = row[0], let content = row[1] else {
            throw ArchiveError(.sourceUnsupported, "PostgreSQL's history of timeline \(timeline) was not understood.")
        }
        return try TimelineHistory(timeline: timeline, fileName: name, file: Array(content.utf8))
    }
}

/// An identifier as the replication grammar takes it.
func quoted(_ name: String) -> String { "\"\(name.replacing("\"", with: "\"\""))\"" }
