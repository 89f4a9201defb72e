import ArchiveCore
import DurableIO
import Glibc
import Runtime
import Source

extension GitalyRestoreTarget: RepositoryRestore {
    public func history(of place: RestoredPlace) -> any RepositoryHistory { GitalyHistory(place: place) }
}

/// What the archived entries say of restored repositories, and how single partitions are taken further.
struct GitalyHistory: RepositoryHistory {
    let place: RestoredPlace

    /// The first entry of each partition that was not applied. Partitions without one were not restored: all of their entries follow.
    private var firstAfter: [String: UInt64] {
        let ends = Dictionary(place.spans.map { ($0.stream, $0.end) }, uniquingKeysWith: { a, _ in a })
        var first = ends
        for cut in place.cuts { first[cut.stream] = max(cut.through.map { $0 + 1 } ?? 0, ends[cut.stream] ?? 0) }
        return first
    }

    // MARK: Evidence

    func evidence(of objects: [String: Set<String>]) async throws -> [String: [String: ObjectEvidence]] {
        var result = objects.mapValues { Dictionary(uniqueKeysWithValues: $0.map { ($0, ObjectEvidence.none) }) }
        guard !objects.isEmpty else { return result }
        let firstAfter = firstAfter
        for piece in place.log.pieces {
            try Task.checkCancellation()
            let index = try await place.log.index(of: piece)
            for event in index.events where event.kind == .commit {
                guard let wanted = objects[event.subject] else { continue }
                let isAfter = event.start >= firstAfter[index.spans[event.span].stream] ?? 1
                if !isAfter, event.flags.contains(.housekeeping) || event.flags.contains(.deleted) {
                    for (id, known) in result[event.subject] ?? [:] where known == .before { result[event.subject]?[id] = .removedBefore }
                }
                for id in Self.named(by: event) where wanted.contains(id) {
                    let known = result[event.subject]?[id] ?? .none
                    if !isAfter { result[event.subject]?[id] = .before } else if known == .none { result[event.subject]?[id] = .after }
                }
            }
        }
        return result
    }

    /// Ids that an entry's references were set to.
    private static func named(by event: LogEvent) -> [String] {
        event.details.compactMap { $0.split(separator: " ").last.map { $0.lowercased() } }
    }

    // MARK: Roll-forward

    /// An archived entry that follows the cut.
    private struct Following: Sendable {
        var piece: ArchivedPiece
        var event: LogEvent
        var frames: Range<Int>
    }

    func rollForward(to objects: [String: Set<String>], limit: RollForwardLimit) async throws -> [RollForwardOutcome] {
        let wanted = objects.filter { !$0.value.isEmpty }
        guard !wanted.isEmpty else { return [] }
        let firstAfter = firstAfter
        let partitions = try await partitions(of: Set(wanted.keys), firstAfter)
        let following = try await following(Set(partitions.values), firstAfter, limit)
        var outcomes: [RollForwardOutcome] = []
        for partition in Set(partitions.values).sorted(by: { ($0.utf8.count, $0) < ($1.utf8.count, $1) }) {
            let missing = wanted.filter { partitions[$0.key] == partition }
            outcomes.append(
                try await roll(partition, firstAfter[partition], following[partition] ?? [], missing: missing))
        }
        return outcomes
    }

    /// The partition that holds each repository at the cut, or that will hold it next.
    private func partitions(of repositories: Set<String>, _ firstAfter: [String: UInt64]) async throws -> [String: String] {
        var before: [String: String] = [:]
        var after: [String: String] = [:]
        for piece in place.log.pieces {
            try Task.checkCancellation()
            let index = try await place.log.index(of: piece)
            for event in index.events where repositories.contains(event.subject) {
                let stream = index.spans[event.span].stream
                if event.start < firstAfter[stream] ?? 1 { before[event.subject] = stream } else if after[event.subject] == nil {
                    after[event.subject] = stream
                }
            }
        }
        return before.merging(after) { known, _ in known }
    }

    private func following(
        _ partitions: Set<String>, _ firstAfter: [String: UInt64], _ limit: RollForwardLimit
    ) async throws -> [String: [Following]] {
        var result: [String: [Following]] = [:]
        for piece in place.log.pieces {
            try Task.checkCancellation()
            let index = try await place.log.index(of: piece)
            for (i, event) in index.events.enumerated() {
                let stream = index.spans[event.span].stream
                guard partitions.contains(stream), let frame = event.frame, event.time <= limit.latest else { continue }
                // Strictly one after the other, each once; what does not follow is behind a hole.
                let due = result[stream]?.last.map { $0.event.start + 1 } ?? firstAfter[stream] ?? 1
                guard event.start == due, result[stream]?.count ?? 0 < limit.records else { continue }
                let next = i + 1 < index.events.count ? index.events[i + 1].frame ?? frame + 1 : index.frames.count - 1
                result[stream, default: []].append(Following(piece: piece, event: event, frames: frame..<max(frame + 1, next)))
            }
        }
        return result
    }

    private func roll(
        _ partition: String, _ first: UInt64?, _ following: [Following], missing: [String: Set<String>]
    ) async throws -> RollForwardOutcome {
        // First look, then act: a partition is not taken further than something is found.
        var left = missing
        var found: [String: Set<String>] = [:]
        var count = 0
        var end = RollForwardOutcome.End.notInLog
        for (number, entry) in following.enumerated() {
            try Task.checkCancellation()
            if entry.event.flags.contains(.deleted) {
                end = .deletion
                break
            }
            let content = try EntryFrame.decode(try await place.log.read(entry.piece, index: nil, frames: Array(entry.frames)))
            for (repository, ids) in left {
                let brought = EntryObjects.brought(by: content, to: repository, of: ids)
                guard !brought.isEmpty else { continue }
                found[repository, default: []].formUnion(brought)
                let rest = ids.subtracting(brought)
                left[repository] = rest.isEmpty ? nil : rest
                count = number + 1
            }
            if left.isEmpty {
                end = .found
                break
            }
        }
        let position = { (lsn: UInt64) in PartitionLSN(rawValue: lsn).description }
        var outcome = RollForwardOutcome(
            partition: partition, from: first.flatMap { $0 > 1 ? position($0 - 1) : nil }, to: nil, records: [], found: found, end: end)
        guard count > 0 else { return outcome }
        var replayer = Replayer(root: place.directory)
        if geteuid() == 0, let owner = GitalyRestoreTarget.owner(of: place.base) { replayer.owner = owner }
        do {
            // Once begun it is carried through, whoever interrupts: the report must say what was done.
            for entry in following[..<count] {
                let content = try EntryFrame.decode(try await place.log.read(entry.piece, index: nil, frames: Array(entry.frames)))
                guard content.partition == partition, content.lsn == entry.event.start else {
                    throw ArchiveError(
                        .objectDamaged, "The pack \(entry.piece.name) holds another entry than its index says: \(content.partition)/\(content.lsn).")
                }
                replayer = try await blocking { [replayer] in
                    var replayer = replayer
                    try replayer.apply(content, tolerant: false)
                    return replayer
                }
                outcome.to = position(content.lsn)
                outcome.records.append(
                    .init(
                        position: position(content.lsn), time: entry.event.time, repository: entry.event.subject,
                        references: entry.event.details))
            }
        } catch let error as ArchiveError {
            outcome.end = .failed
            outcome.failure = error.message
            outcome.found = [:]
        }
        let directory = place.directory
        try await blocking { try Files.syncFileSystem(of: directory) }
        return outcome
    }
}

/// Which objects an entry adds to a repository, told from the entry's own files.
enum EntryObjects {
    /// - Parameter ids: in lower-case hexadecimal, all of one length.
    static func brought(by entry: ReplayableEntry, to repository: String, of ids: Set<String>) -> Set<String> {
        var brought: Set<String> = []
        let prefix = Array("\(repository)/objects/".utf8)
        for (index, operation) in entry.entry.operations.enumerated() {
            guard case .link(let source, let inStorage, let destination) = operation, destination.starts(with: prefix) else { continue }
            let inner = String(decoding: destination[prefix.count...], as: UTF8.self)
            let file = inStorage ? entry.links[index] : entry.files[String(decoding: source, as: UTF8.self)]
            if inner.hasPrefix("pack/"), inner.hasSuffix(".idx"), let file {
                brought.formUnion(ids.filter { contains($0, index: file.bytes) })
            } else {
                let loose = inner.filter { $0 != "/" }
                if ids.contains(loose) { brought.insert(loose) }
            }
        }
        return brought
    }

    /// Looks an id up in a pack's index of version 2. Anything else holds nothing.
    static func contains(_ id: String, index: [UInt8]) -> Bool {
        let digits = Array(id.utf8)
        var wanted: [UInt8] = []
        for i in stride(from: 0, to: digits.count - 1, by: 2) {
            guard let byte = UInt8(String(decoding: digits[i...i + 1], as: UTF8.self), radix: 16) else { return false }
            wanted.append(byte)
        }
        let table = 8 + 256 * 4
        guard wanted.count >= 20, index.count >= table, index.starts(with: [0xFF, 0x74, 0x4F, 0x63, 0, 0, 0, 2]) else { return false }
        func count(_ at: Int) -> Int { index[(8 + at * 4)..<(12 + at * 4)].reduce(0) { $0 << 8 | Int($1) } }
        let bucket = Int(wanted[0])
        var low = bucket == 0 ? 0 : count(bucket - 1)
        var high = count(bucket)
        guard low <= high, count(255) >= high, index.count >= table + count(255) * wanted.count else { return false }
        while low < high {
            let middle = (low + high) / 2
            let at = table + middle * wanted.count
            let found = index[at..<at + wanted.count]
            if found.elementsEqual(wanted) { return true }
            if found.lexicographicallyPrecedes(wanted) { low = middle + 1 } else { high = middle }
        }
        return false
    }
}
