import ArchiveCore
import Pack
import Source
import Store

/// How far an incarnation's log is archived, written now and then so that an agent need not read the whole log to find out.
public struct Checkpoint: Sendable, Hashable {
    /// The last closed piece of each branch.
    public var lastPiece: [UInt32: PieceName] = [:]
    public var positions: [String: ResumeState.Position] = [:]
    /// Pieces counted since the incarnation began.
    public var count: UInt64 = 0
    /// Of closed pieces since the incarnation began, and of tails behind the last of them.
    public private(set) var closed = LogTotals()
    public private(set) var open = LogTotals()

    /// Of everything since the incarnation began.
    public var totals: LogTotals {
        var sum = closed
        sum += open
        return sum
    }

    public init() {}

    /// Takes in one more durable piece, in log order.
    public mutating func add(_ name: PieceName, _ index: PieceIndex) {
        count += 1
        var held = LogTotals()
        for event in index.events { held.add(event) }
        if name.part == nil {
            lastPiece[name.branch] = name
            closed += held
            open = LogTotals()
        } else {
            open += held
        }
        for (i, span) in index.spans.enumerated() {
            let last = index.events.last { $0.span == i && $0.frame != nil }
            positions[span.stream] = .init(
                end: span.end, sha256: last?.frame.map { index.frames[$0].sha256 } ?? [], time: last?.time ?? Moment(rawValue: 0))
        }
    }

    func encoded() -> [UInt8] {
        var w = WireWriter()
        w.number(1, 1)
        w.number(2, count)
        for name in lastPiece.values.sorted(by: { $0.branch < $1.branch }) { w.element(3, "\(name).\(name.suffix)".utf8) }
        for (stream, position) in positions.sorted(by: { $0.key < $1.key }) {
            w.message(4) { w in
                w.text(1, stream)
                w.number(2, position.end)
                w.data(3, position.sha256)
                w.signed(4, position.time.rawValue)
            }
        }
        w.message(5) { closed.encode(into: &$0) }
        w.message(6) { open.encode(into: &$0) }
        return w.bytes
    }

    init(decoding bytes: [UInt8]) throws(WireError) {
        var version: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2: count = try value.number("count")
            case 3:
                let path = try value.text("piece")
                guard let name = PieceName(path: path) else { throw WireError(offset: 0, reason: "'\(path)' is no piece") }
                lastPiece[name.branch] = name
            case 4:
                var inner = WireReader(try value.bytes("position"))
                var stream = ""
                var position = ResumeState.Position(end: 0)
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: stream = try value.text("stream")
                    case 2: position.end = try value.number("end")
                    case 3: position.sha256 = Array(try value.bytes("digest"))
                    case 4: position.time = Moment(rawValue: zigZag(try value.number("time")))
                    default: continue
                    }
                }
                positions[stream] = position
            case 5: closed = try LogTotals(decoding: value.bytes("totals"))
            case 6: open = try LogTotals(decoding: value.bytes("totals"))
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "version \(version) is not known") }
    }
}

extension Catalog {
    private func prefix(_ i: IncarnationRecord) -> String { "positions/\(i.source)/\(i.id)/" }

    /// Stores a checkpoint in place of all older ones but the last.
    public func record(_ checkpoint: Checkpoint, of i: IncarnationRecord) async throws {
        let older = try await store.listAll(prefix: prefix(i)).map(\.key)
        var object: [UInt8] = []
        try Zstd.compress(checkpoint.encoded(), level: 3, into: &object)
        try await store.put(object, at: ObjectKey(known: prefix(i) + hex(checkpoint.count, 16) + ".zst"))
        try await store.remove(Array(older.dropLast()))
    }

    /// Finds out from the archive alone how far an incarnation's log has come.
    ///
    /// Objects that were stored without their index, which nobody ever acknowledged, are removed when `cleaning`. One with indexed pieces
    /// behind it was acknowledged and has lost its index: it stays for `verify --reindex`.
    public func resume(_ i: IncarnationRecord, cleaning: Bool) async throws -> (state: ResumeState, checkpoint: Checkpoint) {
        var checkpoint = Checkpoint()
        if let key = try await store.listAll(prefix: prefix(i)).last?.key {
            checkpoint = try await store.read(key) { bytes in
                do { return try Checkpoint(decoding: try Zstd.decompress(bytes[...], limit: 1 << 32)) } catch let error as WireError {
                    throw ArchiveError(.archiveDamaged, "The checkpoint '\(key)' is damaged: \(error).", remedy: "Remove that one object.")
                }
            }
        }
        let newest = checkpoint.lastPiece.max { $0.key < $1.key }?.value
        if cleaning {
            let (indexed, orphans) = try await listing(of: i, from: newest)
            for orphan in Self.leftOver(orphans, beside: indexed) { try await remove(orphan, of: i) }
            try await remove(Self.replaced(indexed), of: i)
        }
        var tails: [ResumeState.Tail] = []
        try await forEachPiece(of: i, from: newest) { name, index in
            guard name != newest else { return true }
            checkpoint.add(name, index)
            if name.part != nil { tails.append(.init(name: name, sha256: index.frames.first?.sha256 ?? [])) }
            return true
        }
        let branch = checkpoint.lastPiece.keys.max() ?? 0
        let last = checkpoint.lastPiece[branch]
        tails.removeAll { tail in
            tail.name.branch < branch || (tail.name.branch == branch && last.map { tail.name.name <= $0.name } ?? false)
        }
        var state = ResumeState(
            incarnation: i, lastPiece: checkpoint.lastPiece, tails: tails, positions: checkpoint.positions,
            branches: try await branches(of: i))
        if !isEncrypted || !keys.identities.isEmpty { state.content = { name in try await read(name, index: try await index(of: name, of: i), of: i) } }
        return (state, checkpoint)
    }

    /// Tails of closed pieces, which a killed agent had not removed yet.
    private static func replaced(_ indexed: [PieceName]) -> [PieceName] {
        let closed = Set(indexed.filter { $0.part == nil })
        return indexed.filter { $0.part != nil && closed.contains(PieceName(branch: $0.branch, name: $0.name)) }
    }

    /// Of pieces without an index those that a killed agent had not got to, and tails of pieces that are closed.
    private static func leftOver(_ orphans: [PieceName], beside indexed: [PieceName]) -> [PieceName] {
        var last: [UInt32: String] = [:]
        for name in indexed { last[name.branch] = max(name.name, last[name.branch] ?? "") }
        let closed = Set(indexed.filter { $0.part == nil }.map { "\($0)" })
        return orphans.filter { orphan in
            let whole = PieceName(branch: orphan.branch, name: orphan.name)
            return last[orphan.branch].map { $0 <= orphan.name } ?? true || orphan.part != nil && closed.contains("\(whole)")
        }
    }
}
