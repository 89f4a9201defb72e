import ArchiveCore
import CLibpq
import Glibc
import Runtime

/// One connection to PostgreSQL. Used by one thread at a time; every call may block, up to its timeout.
final class Connection {
    enum Purpose { case replication, sql }
    typealias Row = [String?]

    private let handle: OpaquePointer
    private let notices: Unmanaged<NoticeList>
    /// Something that becomes readable when waiting should end early; −1: nothing.
    var wakeDescriptor: Int32 = -1
    /// Asked whenever `wakeDescriptor` ended a wait in the middle of a command.
    var isCancelled: () -> Bool = { false }

    /// Connects. Calls `PQconnectStartParams` and `PQconnectPoll`.
    ///
    /// - Parameters:
    ///   - application: replaces every other `application_name`; `nil`: `tidemark`, where nobody set another.
    ///   - database: where neither `conninfo` nor the environment names one.
    ///   - timeout: in seconds; the look-up of a host's name is not under it.
    init(
        conninfo: String, purpose: Purpose, application: String? = nil, database: String? = nil, timeout: Double = 15
    ) throws(ArchiveError) {
        var pairs = [("fallback_application_name", "tidemark"), ("dbname", conninfo), ("client_encoding", "UTF8")]
        if purpose == .replication { pairs.append(("replication", "true")) }
        if let application { pairs.append(("application_name", application)) }
        if let database, !namesDatabase(conninfo) { pairs.append(("dbname", database)) }
        var keywords = pairs.map { UnsafePointer<CChar>?(strdup($0.0)) } + [nil]
        var values = pairs.map { UnsafePointer<CChar>?(strdup($0.1)) } + [nil]
        defer { for p in keywords + values { free(UnsafeMutablePointer(mutating: p)) } }
        guard let handle = PQconnectStartParams(&keywords, &values, 1) else {
            throw ArchiveError(.sourceUnreachable, "libpq had no memory for a connection.")
        }
        self.handle = handle
        notices = Unmanaged.passRetained(NoticeList())
        var failure: String?
        if PQstatus(handle) == CONNECTION_BAD { failure = Connection.message(handle) }
        let deadline = monotonic() + timeout
        var status = PGRES_POLLING_WRITING
        while failure == nil {
            let left = deadline - monotonic()
            if left <= 0 {
                failure = "no answer for \(Int(timeout)) s"
                break
            }
            var p = pollfd(fd: PQsocket(handle), events: Int16(status == PGRES_POLLING_READING ? POLLIN : POLLOUT), revents: 0)
            guard poll(&p, 1, Int32(min(left * 1000 + 1, 1e6))) > 0 else { continue }
            status = PQconnectPoll(handle)
            if status == PGRES_POLLING_OK { break }
            if status == PGRES_POLLING_FAILED { failure = Connection.message(handle) }
        }
        if let failure {
            // libpq gives no SQLSTATE for a failed connection; a refused login is told apart by its words.
            let refused = ["authentication failed", "pg_hba.conf", "does not exist", "must be superuser or replication", "no password"]
            let code: ArchiveError.Code = refused.contains { failure.contains($0) && !failure.contains("No such file") } ? .sourceRefused : .sourceUnreachable
            throw ArchiveError(
                code, "Could not connect to PostgreSQL: \(scrubbed(failure, conninfo: conninfo)).",
                remedy: "Check that the server runs, the connection parameters, and pg_hba.conf.")
        }
        PQsetNoticeReceiver(handle, { list, result in
            guard let list, let text = PQresultErrorField(result, Int32(UInt8(ascii: "M"))) else { return }
            Unmanaged<NoticeList>.fromOpaque(list).takeUnretainedValue().add(String(cString: text))
        }, notices.toOpaque())
    }

    deinit {
        PQfinish(handle)
        notices.release()
    }

    var serverVersion: Int { Int(PQserverVersion(handle)) }
    var socket: Int32 { PQsocket(handle) }
    /// The server's process at the other end.
    var process: Int32 { PQbackendPID(handle) }

    /// Messages that the server sent beside its answers since the last call.
    func takeNotices() -> [String] {
        let list = notices.takeUnretainedValue()
        defer { list.lines = [] }
        return list.lines
    }

    // MARK: commands

    /// The rows of a command's last result.
    func query(_ command: String, timeout: Double = 60) throws -> [Row] {
        try send(command)
        var rows: [Row] = []
        var failure: ServerError?
        while let result = try nextResult(timeout: timeout) {
            defer { PQclear(result) }
            switch PQresultStatus(result) {
            case PGRES_TUPLES_OK: rows = Connection.rows(result)
            case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: break
            default: failure = Connection.error(result)
            }
        }
        if let failure { throw failure }
        return rows
    }

    /// One statement and no more, and the columns of its result: name and the type's number.
    func table(_ command: String, timeout: Double) throws -> (columns: [(name: String, type: UInt32)], rows: [Row]) {
        guard PQsendQueryParams(handle, command, 0, nil, nil, nil, nil, 0) == 1 else { throw lost() }
        var table: (columns: [(name: String, type: UInt32)], rows: [Row]) = ([], [])
        var failure: ServerError?
        while let result = try nextResult(timeout: timeout) {
            defer { PQclear(result) }
            switch PQresultStatus(result) {
            case PGRES_TUPLES_OK:
                table.columns = (0..<PQnfields(result)).map { (String(cString: PQfname(result, $0)), PQftype(result, $0)) }
                table.rows = Connection.rows(result)
            case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: break
            default: failure = Connection.error(result)
            }
        }
        if let failure { throw failure }
        return table
    }

    func send(_ command: String) throws {
        guard PQsendQuery(handle, command) == 1 else { throw lost() }
    }

    enum Answer {
        case rows([Row])
        case done
        case copyOut
        case copyBoth
    }

    /// The next result of a command sent with `send`; `nil` after the last.
    func answer(timeout: Double = 60) throws -> Answer? {
        guard let result = try nextResult(timeout: timeout) else { return nil }
        defer { PQclear(result) }
        switch PQresultStatus(result) {
        case PGRES_TUPLES_OK: return .rows(Connection.rows(result))
        case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: return .done
        case PGRES_COPY_OUT: return .copyOut
        case PGRES_COPY_BOTH: return .copyBoth
        default:
            let error = Connection.error(result)
            // Up to the end of the command, so that another one can follow.
            while let rest = try nextResult(timeout: timeout) { PQclear(rest) }
            throw error
        }
    }

    private func nextResult(timeout: Double) throws -> OpaquePointer? {
        let deadline = monotonic() + timeout
        while PQisBusy(handle) == 1 {
            if isCancelled() { throw CancellationError() }
            guard monotonic() < deadline else { throw ServerError(state: "", message: "no answer for \(Int(timeout)) s") }
            _ = wait(seconds: min(1, max(0, deadline - monotonic())))
            guard PQconsumeInput(handle) == 1 else { throw lost() }
        }
        return PQgetResult(handle)
    }

    // MARK: copying

    enum Received {
        case message
        case nothing
        /// The server ended its side.
        case end
    }

    /// Gives one message of a COPY, in libpq's own memory, to `body`, when one is there.
    func receive(_ body: (UnsafeRawBufferPointer) throws -> Void) throws -> Received {
        var buffer: UnsafeMutablePointer<CChar>?
        var count = PQgetCopyData(handle, &buffer, 1)
        if count == 0 {
            guard PQconsumeInput(handle) == 1 else { throw lost() }
            count = PQgetCopyData(handle, &buffer, 1)
        }
        switch count {
        case 0: return .nothing
        case -1: return .end
        case -2: throw lost()
        default:
            defer { PQfreemem(buffer) }
            try body(UnsafeRawBufferPointer(start: buffer, count: Int(count)))
            return .message
        }
    }

    func sendCopy(_ bytes: [UInt8]) throws {
        let sent = bytes.withUnsafeBytes { PQputCopyData(handle, $0.baseAddress?.assumingMemoryBound(to: CChar.self), Int32($0.count)) }
        guard sent == 1, PQflush(handle) >= 0 else { throw lost() }
    }

    /// Ends our side of a copy of which the server has ended its own. When the server ended it with an error there is nothing to end;
    /// that error is the next answer.
    func endCopy() {
        if PQputCopyEnd(handle, nil) == 1 { PQflush(handle) }
    }

    /// Waits until there is something to read, or `wakeDescriptor` was written to, which is then emptied.
    ///
    /// - Returns: whether the server sent something.
    func wait(seconds: Double) -> Bool {
        var ps = [
            pollfd(fd: PQsocket(handle), events: Int16(POLLIN), revents: 0), pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0),
        ]
        _ = poll(&ps, wakeDescriptor >= 0 ? 2 : 1, Int32(max(0, min(seconds, 3600)) * 1000 + 0.999))
        if ps[1].revents != 0 {
            var value: UInt64 = 0
            _ = read(wakeDescriptor, &value, 8)
        }
        return ps[0].revents != 0
    }

    /// As `wait`, but awake: looks over and over, and lets whoever else wants the core have it. Not for more than moments.
    ///
    /// - Returns: whether the server sent something.
    func watch(seconds: Double) -> Bool {
        var p = pollfd(fd: PQsocket(handle), events: Int16(POLLIN), revents: 0)
        let end = monotonic() + seconds
        while poll(&p, 1, 0) == 0 {
            guard monotonic() < end else { return false }
            sched_yield()
        }
        return true
    }

    /// Asks the server to give up what it is doing. Calls `PQcancel`.
    func cancel() {
        guard let cancel = PQgetCancel(handle) else { return }
        var text = [CChar](repeating: 0, count: 256)
        _ = PQcancel(cancel, &text, 256)  // the connection is closed next: whether it was heard does not matter
        PQfreeCancel(cancel)
    }

    // MARK: pieces

    private func lost() -> ServerError { ServerError(state: "", message: Connection.message(handle)) }

    private static func message(_ handle: OpaquePointer) -> String {
        let text = String(cString: PQerrorMessage(handle)).replacing("\n", with: " ")
        return text.isEmpty ? "the connection was closed" : String(text.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }

    private static func error(_ result: OpaquePointer) -> ServerError {
        func field(_ code: Unicode.Scalar) -> String? {
            PQresultErrorField(result, Int32(code.value)).map { String(cString: $0) }
        }
        let text = field("M") ?? String(cString: PQresultErrorMessage(result)).replacing("\n", with: " ")
        return ServerError(state: field("C") ?? "", message: text + (field("D").map { " (\($0))" } ?? ""))
    }

    private static func rows(_ result: OpaquePointer) -> [Row] {
        (0..<PQntuples(result)).map { row in
            (0..<PQnfields(result)).map { column in
                guard PQgetisnull(result, row, column) == 0, let value = PQgetvalue(result, row, column) else { return nil }
                let bytes = UnsafeRawBufferPointer(start: value, count: Int(PQgetlength(result, row, column)))
                return String(decoding: bytes, as: UTF8.self)
            }
        }
    }
}

private final class NoticeList {
    var lines: [String] = []

    /// A server with much to say must not fill our memory: nobody reads more.
    func add(_ line: String) { if lines.count < 1000 { lines.append(line) } }
}

/// Seconds of a clock that never jumps.
func monotonic() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) / 1e9
}

/// Whether a connection string or the environment says which database, itself or by a service.
private func namesDatabase(_ conninfo: String) -> Bool {
    if getenv("PGDATABASE") != nil || getenv("PGSERVICE") != nil { return true }
    // One that cannot be parsed fails with libpq's own words when it is used.
    guard let options = PQconninfoParse(conninfo, nil) else { return true }
    defer { PQconninfoFree(options) }
    var option = options
    while let keyword = option.pointee.keyword {
        if let value = option.pointee.val, value.pointee != 0, ["dbname", "service"].contains(String(cString: keyword)) { return true }
        option += 1
    }
    return false
}

/// `text` without any password that `conninfo` carries.
func scrubbed(_ text: String, conninfo: String) -> String {
    var result = text
    var message: UnsafeMutablePointer<CChar>?
    if let options = PQconninfoParse(conninfo, &message) {
        var option = options
        while let keyword = option.pointee.keyword {
            if let value = option.pointee.val, ["password", "sslpassword"].contains(String(cString: keyword)), value.pointee != 0 {
                result = result.replacing(String(cString: value), with: "…")
            }
            option += 1
        }
        PQconninfoFree(options)
        return result
    }
    PQfreemem(message)
    // It could not be parsed: libpq then quotes parts of it.
    return conninfo.contains("password") || conninfo.contains("://") ? "the connection string cannot be parsed" : result
}
