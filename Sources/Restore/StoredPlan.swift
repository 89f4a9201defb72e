import ArchiveCore
import Digests
import Catalog
import Foundation
import Pack
import Planner
import Source
import Store

/// A plan in the archive, so that every node carries out its own part of the same one.
///
/// `plans/<id>/plan.json` is for people and for what is small; `plans/<id>/<source>.zst` holds the windows, cuts and pieces of a source.
struct StoredPlan: Codable {
    struct Part: Codable {
        var source: String
        var incarnation: String
        var base: String
        /// SHA-256 of the source's own object, in hexadecimal.
        var sha256: String
        var applied: LogTotals
        var left: LogTotals?
        var lastApplied: Moment?
        var fenceBefore: FenceRecord?
        var fenceAfter: FenceRecord?
        var undecided: Int?
        var warnings: [String]
    }
    var version = 1
    var id: String
    var created: Moment
    var target: String
    var moment: Moment?
    var parts: [Part]
    var warnings: [String]
}

extension PlanLoader {
    private func key(_ id: String, _ name: String) throws -> ObjectKey {
        guard let key = ObjectKey("plans/\(id)/\(name)"), !id.contains("/") else {
            throw ArchiveError(.usage, "'\(id)' is no plan.", remedy: "`tidemark plan --save` prints the id of a plan.")
        }
        return key
    }

    /// Stores a plan. - Returns: its id.
    public func save(_ plan: JointPlan, target: String, at time: Moment) async throws -> String {
        let id = time.identifier
        var stored = StoredPlan(id: id, created: time, target: target, moment: plan.moment, parts: [], warnings: plan.warnings)
        for part in plan.plans {
            var object: [UInt8] = []
            try Zstd.compress(encode(part), level: 3, into: &object)
            try await catalog.store.put(object, at: try key(id, "\(part.source).zst"))
            stored.parts.append(
                .init(
                    source: part.source, incarnation: part.incarnation.id, base: part.base.id, sha256: hexText(SHA256.of(object)), applied: part.applied,
                    left: part.left, lastApplied: part.lastApplied, fenceBefore: part.precision?.before, fenceAfter: part.precision?.after,
                    undecided: part.precision?.undecided, warnings: part.warnings))
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try await catalog.store.put(Array(try encoder.encode(stored)) + [0x0A], at: try key(id, "plan.json"))
        return id
    }

    /// Reads the parts of a stored plan.
    ///
    /// - Parameter sources: those that are wanted; empty: all.
    /// - Throws: `.usage` when there is no such plan or it has no such source, `.objectDamaged`.
    public func load(_ id: String, sources: [String]) async throws -> (plan: JointPlan, target: String) {
        @Sendable func damaged(_ name: String, _ why: String) -> ArchiveError {
            ArchiveError(.objectDamaged, "The plan's object 'plans/\(id)/\(name)' is damaged: \(why).", remedy: "Make another plan with `tidemark plan --save`.")
        }
        let stored: StoredPlan
        do {
            stored = try await catalog.store.read(try key(id, "plan.json")) { bytes in
                do { return try JSONDecoder().decode(StoredPlan.self, from: Data(bytes)) } catch { throw damaged("plan.json", "\(error)") }
            }
        } catch let error as ArchiveError where error.code == .objectMissing {
            throw ArchiveError(.usage, "There is no plan '\(id)' in the archive.", remedy: "Make one with `tidemark plan --save`.")
        }
        guard stored.version == 1 else { throw damaged("plan.json", "version \(stored.version) is not known") }
        for source in sources where !stored.parts.contains(where: { $0.source == source }) {
            throw ArchiveError(.usage, "The plan \(id) has no source '\(source)'.", remedy: "It has: \(stored.parts.map(\.source).joined(separator: ", ")).")
        }
        var plans: [SourcePlan] = []
        for part in stored.parts where sources.isEmpty || sources.contains(part.source) {
            let object = try await catalog.store.read(try key(id, "\(part.source).zst")) { object in
                guard hexText(SHA256.of(object)) == part.sha256 else { throw damaged("\(part.source).zst", "its SHA-256 is not the recorded one") }
                return object
            }
            guard let incarnation = try await incarnations(of: part.source).first(where: { $0.id == part.incarnation }),
                let base = try await catalog.base(part.base, of: incarnation)
            else {
                throw ArchiveError(
                    .targetUnreachable, "The base \(part.base) of '\(part.source)', which the plan \(id) begins with, is no longer in the archive.", remedy: "Make another plan.")
            }
            var plan = SourcePlan(
                source: part.source, incarnation: incarnation, base: base, spans: [], cuts: [], pieces: [],
                branches: try await catalog.branches(of: incarnation), applied: part.applied, left: part.left, lastApplied: part.lastApplied, warnings: part.warnings)
            if let undecided = part.undecided {
                plan.precision = CutPrecision()
                plan.precision?.before = part.fenceBefore
                plan.precision?.after = part.fenceAfter
                plan.precision?.undecided = undecided
            }
            do { try decode(try Zstd.decompress(object[...], limit: 1 << 33), into: &plan) } catch let error as WireError {
                throw damaged("\(part.source).zst", error.description)
            }
            guard BranchPath(from: base.branch, to: plan.branch, by: plan.branches) != nil else { throw damaged("\(part.source).zst", "its branch is unknown") }
            plans.append(plan)
        }
        let request = PlanRequest(target: stored.moment.map { .time($0) } ?? .latest)
        return (JointPlan(request: request, moment: stored.moment, plans: plans, warnings: stored.warnings), stored.target)
    }

    /// Stored plans as far as they say which bases they want, oldest first; those that cannot be read are left out, since they cannot be carried
    /// out either.
    public func storedPlans() async throws -> [(id: String, created: Moment, bases: [BaseReference])] {
        var found: [(id: String, created: Moment, bases: [BaseReference])] = []
        for id in try await catalog.store.folders(below: "plans/") {
            guard let bytes = try await missingIsNil({ try await catalog.store.get(try key(id, "plan.json")) }),
                let stored = try? JSONDecoder().decode(StoredPlan.self, from: Data(bytes))
            else { continue }
            found.append((id, stored.created, stored.parts.map { BaseReference(source: $0.source, incarnation: $0.incarnation, base: $0.base) }))
        }
        return found
    }

    private func missingIsNil<T>(_ body: () async throws -> T) async throws -> T? {
        do { return try await body() } catch let error as ArchiveError where error.code == .objectMissing { return nil }
    }

    /// Removes a stored plan: first what makes it one.
    public func removePlan(_ id: String) async throws {
        try await catalog.store.remove(try key(id, "plan.json"))
        try await catalog.store.remove(try await catalog.store.listAll(prefix: "plans/\(id)/").map(\.key))
    }

    private func encode(_ plan: SourcePlan) -> [UInt8] {
        var w = WireWriter()
        w.number(1, 1)
        for span in plan.spans { w.message(2) { span.encode(into: &$0) } }
        for cut in plan.cuts {
            w.message(3) { w in
                w.text(1, cut.stream)
                w.number(2, UInt64(cut.branch))
                if let through = cut.through { w.number(3, through + 1) }
                w.number(4, cut.end)
            }
        }
        for piece in plan.pieces {
            w.message(4) { w in
                w.text(1, "\(piece.name).\(piece.name.suffix)")
                w.number(2, piece.storedLength)
            }
        }
        return w.bytes
    }

    private func decode(_ bytes: [UInt8], into plan: inout SourcePlan) throws(WireError) {
        var version: UInt64 = 0
        var r = WireReader(bytes)
        while let (field, value) = try r.next() {
            switch field {
            case 1: version = try value.number("version")
            case 2: plan.spans.append(try LogSpan(decoding: value.bytes("span")))
            case 3:
                var cut = StreamCut(stream: "", branch: 0, through: nil, end: 0)
                var inner = WireReader(try value.bytes("cut"))
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: cut.stream = try value.text("stream")
                    case 2: cut.branch = UInt32(clamping: try value.number("branch"))
                    case 3: cut.through = try value.number("last record") &- 1
                    case 4: cut.end = try value.number("end")
                    default: continue
                    }
                }
                plan.cuts.append(cut)
            case 4:
                var path = ""
                var length: UInt64 = 0
                var inner = WireReader(try value.bytes("piece"))
                while let (field, value) = try inner.next() {
                    switch field {
                    case 1: path = try value.text("name")
                    case 2: length = try value.number("length")
                    default: continue
                    }
                }
                guard let name = PieceName(path: path) else { throw WireError(offset: 0, reason: "'\(path)' is no piece") }
                plan.pieces.append(PlannedPiece(name: name, storedLength: length))
            default: continue
            }
        }
        guard version == 1 else { throw WireError(offset: 0, reason: "version \(version) is not known") }
    }
}

extension PlanLoader {
    /// What comes right after a plan's cut and will be lost: dropped relations, repositories created or deleted; the first of them.
    public func aftermath(of plan: SourcePlan, limit: Int = 10) async throws -> [LogEvent] {
        var found: [LogEvent] = []
        let ends = Dictionary(plan.cuts.map { ($0.stream, $0.end) }, uniquingKeysWith: max)
        let branch = plan.pieces.last?.name.branch ?? plan.base.branch
        guard let path = BranchPath(from: branch, to: plan.branch, by: plan.branches) else { return [] }
        var cursor = LogCursor(catalog: catalog, incarnation: plan.incarnation, path: path, from: plan.pieces.last?.name.name ?? plan.base.firstPiece)
        var looked = 0
        while looked < Chapter.maximumPieces, found.count < limit, let piece = try await cursor.next() {
            looked += 1
            guard piece.totals.drops + piece.totals.created + piece.totals.deleted > 0 else { continue }
            let index: PieceIndex
            do { index = try await catalog.index(of: piece.name, of: plan.incarnation) } catch let error as ArchiveError where error.code == .objectMissing { continue }
            for event in index.events where !event.flags.isDisjoint(with: [.drops, .created, .deleted]) && found.count < limit {
                if event.start >= ends[index.spans[event.span].stream] ?? 0 { found.append(event) }
            }
        }
        return found
    }
}
