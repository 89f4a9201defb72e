import ArchiveCore
import Foundation
import Glibc
import Runtime
import Store

/// Who does something that only one may do at a time in an archive: bases, expiry.
///
/// `leases/<name>/<number>.json`, each written once: whoever manages to write the next number has the lease. Its holder renews it by writing
/// the next number again; one that released it, or has not renewed it for as long as it may, is followed by anybody. No clock is compared
/// with another: who wants the lease waits until it has not been renewed for the time while he looked on.
public struct LeaseRecord: Codable, Sendable, Hashable {
    public enum State: String, Codable, Sendable { case held, released }

    public var state: State
    /// Names this holding of the lease; random.
    public var id: String
    public var host: String
    public var process: Int32
    /// Names this very process on its machine, as far as the system tells: boot, namespace of processes and start.
    public var incarnation: String
    /// What it is held for, for people, such as a source's name.
    public var purpose: String
    public var since: Moment
    public var renewed: Moment
    /// Seconds that it counts without being renewed.
    public var lifetime: Double
}

/// The process that wants a lease.
public struct LeaseHolder: Sendable, Hashable {
    public var host: String
    public var process: Int32
    public var incarnation: String

    public init(host: String, process: Int32, incarnation: String) {
        self.host = host
        self.process = process
        self.incarnation = incarnation
    }

    /// This process. Reads `/proc`.
    public static var current: LeaseHolder {
        let process = getpid()
        return LeaseHolder(host: hostName(), process: process, incarnation: incarnation(of: process) ?? "")
    }

    /// Boot, namespace and start of a process of this machine; `nil` where it is not there, or cannot be told.
    static func incarnation(of process: Int32) -> String? {
        func text(_ path: String) -> String? { (try? Data(contentsOf: URL(fileURLWithPath: path))).map { String(decoding: $0, as: UTF8.self) } }
        guard let boot = text("/proc/sys/kernel/random/boot_id")?.trimmingCharacters(in: .whitespacesAndNewlines), let stat = text("/proc/\(process)/stat"),
            let space = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/pid")
        else { return nil }
        // The name in parentheses may hold anything; the start is the 20th field behind it.
        let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].split(separator: " ")
        // One that has ended and only waits for its parent to ask does nothing any more.
        guard fields.count > 20, !["Z", "X"].contains(fields[1]) else { return nil }
        return "\(boot) \(space) \(fields[20])"
    }

    private static func isZombie(_ process: Int32) -> Bool {
        guard let stat = try? Data(contentsOf: URL(fileURLWithPath: "/proc/\(process)/stat")) else { return false }
        let text = String(decoding: stat, as: UTF8.self)
        return text[(text.lastIndex(of: ")") ?? text.startIndex)...].hasPrefix(") Z")
    }

    /// Whether the holder of a lease was a process of this machine, here, that is gone.
    func knowsDead(_ record: LeaseRecord) -> Bool {
        let here = incarnation.split(separator: " ").prefix(2)
        guard here.count == 2, here == record.incarnation.split(separator: " ").prefix(2) else { return false }
        if let found = Self.incarnation(of: record.process) { return found != record.incarnation }
        // Others' processes may be hidden from us; one that is there and is hidden lives.
        return kill(record.process, 0) != 0 && errno == ESRCH || Self.isZombie(record.process)
    }
}

/// One name of a lease, as one process looks at it. Used by one task at a time.
public struct Lease: Sendable {
    /// Seconds that a lease counts without being renewed, and between two renewals.
    public static let lifetime = 60.0
    public static let renewal = 15.0

    public enum Attempt: Sendable, Hashable {
        case taken
        /// Somebody else has it.
        case held(LeaseRecord)
    }

    private let catalog: Catalog
    private let name: String
    private let holder: LeaseHolder
    /// The last record that was seen, and when it was seen first.
    private var seen: (number: UInt64, record: LeaseRecord, at: Moment)?
    /// What is held.
    private var mine: (number: UInt64, record: LeaseRecord)?

    /// - Parameter name: letters and `-`.
    public init(_ name: String, in catalog: Catalog, holder: LeaseHolder = .current) {
        self.catalog = catalog
        self.name = name
        self.holder = holder
    }

    private var prefix: String { "leases/\(name)/" }
    /// `nil` for a name that is no number of ours.
    private func number(of key: ObjectKey) -> UInt64? {
        let name = key.path.dropFirst(prefix.utf8.count)
        guard name.utf8.count == 21, name.hasSuffix(".json"), let number = UInt64(name.dropLast(5), radix: 16), number < 1 << 62 else { return nil }
        return number
    }
    private func key(_ number: UInt64) -> ObjectKey { ObjectKey(known: prefix + hex(number, 16) + ".json") }

    public var isHeld: Bool { mine != nil }

    /// Tries to take the lease; called again, with the same value, until it is taken.
    ///
    /// - Parameters:
    ///   - purpose: what it is wanted for.
    ///   - now: by a clock that does not jump: times of one `Lease` are compared with each other only.
    public mutating func take(for purpose: String, at now: Moment) async throws -> Attempt {
        let last = try await newest()
        if let last, last.record.state == .held, !mayFollow(last, at: now) { return .held(last.record) }
        let number = (last?.number ?? 0) + 1
        let record = LeaseRecord(
            state: .held, id: hex(UInt64.random(in: .min ... .max), 16), host: holder.host, process: holder.process, incarnation: holder.incarnation, purpose: purpose,
            since: now, renewed: now, lifetime: Self.lifetime)
        do { try await catalog.store.put(try Catalog.encode(record), at: key(number)) } catch let error as ArchiveError where error.code == .objectExists {
            // Somebody was faster. Who it is is seen by looking again.
            guard let winner = try await newest() else { throw error }
            return .held(winner.record)
        }
        if let later = try await overtaken(number) { return .held(later) }
        mine = (number, record)
        try await clean(before: number)
        return .taken
    }

    /// Whoever looked long ago finds the number free that he writes, since others went past it and removed it meanwhile.
    private func overtaken(_ number: UInt64) async throws -> LeaseRecord? {
        guard let last = try await newest(), last.number > number else { return nil }
        try await catalog.store.remove(key(number))
        return last.record
    }

    private mutating func mayFollow(_ last: (number: UInt64, record: LeaseRecord), at now: Moment) -> Bool {
        if seen?.number != last.number { seen = (last.number, last.record, now) }
        if holder.knowsDead(last.record) { return true }
        guard let seen else { return false }
        return now - seen.at > max(1, min(last.record.lifetime, 3600))
    }

    private func newest() async throws -> (number: UInt64, record: LeaseRecord)? {
        var attempts = 0
        while true {
            guard let (number, key) = try await catalog.store.listAll(prefix: prefix).compactMap({ object in number(of: object.key).map { ($0, object.key) } }).last else { return nil }
            do { return (number, try await catalog.record(key)) } catch let error as ArchiveError where error.code == .archiveDamaged {
                // Whoever wrote it is waited for like anybody else.
                return (
                    number,
                    LeaseRecord(
                        state: .held, id: "", host: "unknown", process: 0, incarnation: "", purpose: "something of which the record '\(key)' cannot be read",
                        since: Moment(rawValue: 0), renewed: Moment(rawValue: 0), lifetime: Self.lifetime))
            } catch let error as ArchiveError where error.code == .objectMissing {
                attempts += 1
                guard attempts < 10 else { throw error }
            }
        }
    }

    /// Renews the lease.
    ///
    /// - Returns: `false` when somebody else took it: what it was held for has to stop.
    public mutating func renew(at now: Moment) async throws -> Bool { try await write(.held, at: now) }

    /// Lets others have it at once. Nothing, when it is not held.
    public mutating func release(at now: Moment) async throws {
        guard mine != nil else { return }
        _ = try await write(.released, at: now)
        mine = nil
    }

    private mutating func write(_ state: LeaseRecord.State, at now: Moment) async throws -> Bool {
        guard var (number, record) = mine else { return false }
        number += 1
        record.state = state
        record.renewed = now
        do { try await catalog.store.put(try Catalog.encode(record), at: key(number)) } catch let error as ArchiveError where error.code == .objectExists {
            // A renewal whose answer was lost is ours all the same.
            guard let last = try await newest(), last.record.id == record.id else {
                mine = nil
                return false
            }
            mine = last
            // It was written then, not now: others count from there.
            return last.record.state == state && state == .released ? true : try await write(state, at: now)
        }
        if try await overtaken(number) != nil {
            mine = nil
            return false
        }
        mine = (number, record)
        try await clean(before: number)
        return true
    }

    /// The last two numbers stay, so that most who come late find the name taken that they want.
    private func clean(before number: UInt64) async throws {
        let old = try await catalog.store.listAll(prefix: prefix).map(\.key).filter { $0.path < key(number - 1).path }
        if !old.isEmpty { try await catalog.store.remove(old) }
    }
}
