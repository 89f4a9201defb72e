import ArchiveCore
import Digests
import Pack
import Source
import Store

/// Goes through the log of one incarnation in log order. A value, so that a step that an agent overtook is taken back and made again.
struct LogAudit {
    /// Everything that is stored under one name: a closed piece, its tails, and their indexes.
    struct Group {
        struct Member {
            var name: PieceName
            /// Bytes of the content; `nil` when it is not there.
            var size: UInt64?
            var hasIndex = false
        }
        var branch: UInt32
        var name: String
        var members: [Member] = []

        /// A closed piece lies beside the tails that it replaces, for a while.
        var closed: Member? { members.first { $0.name.part == nil } }
        var tails: [Member] {
            members.filter { $0.name.part != nil }.sorted { ($0.name.part?.lowerBound ?? 0) < ($1.name.part?.lowerBound ?? 0) }
        }
        var isOdd: Bool { members.contains { $0.size == nil || !$0.hasIndex } }

        mutating func add(_ name: PieceName, size: UInt64, isIndex: Bool) {
            let at = members.firstIndex { $0.name == name } ?? members.count
            if at == members.count { members.append(Member(name: name)) }
            if isIndex { members[at].hasIndex = true } else { members[at].size = size }
        }
    }

    let catalog: Catalog
    let incarnation: IncarnationRecord
    private let kind: (any ComponentKind)?
    private let options: VerifyOptions
    private let progress: Catalog.VerifyProgress
    private let branches: [BranchRecord]
    private let gaps: [GapRecord]
    private let prefix: String

    private(set) var report: VerifyReport
    private(set) var coverage = LogCoverage()
    private var indexer: (any LogIndexer)?
    /// Objects up to this key belong to what counts as archived.
    private var lastIndexed = ""
    private var total: (pieces: UInt64, bytes: UInt64) = (0, 0)
    private var done: (pieces: UInt64, bytes: UInt64) = (0, 0)
    private var unfinished: [String] = []
    private var superseded = 0
    /// Log that an expiry is removing, and how many pieces of it were met.
    private var expiring: [ExpiryRecord.Log] = []
    private var expired = 0
    /// The piece before has no usable index: what it held is not known.
    private var isBehindUnindexed = false

    init(
        _ catalog: Catalog, _ incarnation: IncarnationRecord, kind: (any ComponentKind)?, options: VerifyOptions,
        progress: @escaping Catalog.VerifyProgress
    ) async throws {
        self.catalog = catalog
        self.incarnation = incarnation
        self.kind = kind
        self.options = options
        self.progress = progress
        prefix = "log/\(incarnation.source)/\(incarnation.id)/"
        report = VerifyReport(source: incarnation.source, incarnation: incarnation)
        let branches: ([BranchRecord], [VerifyFinding]) = try await catalog.readableRecords(below: "branches/\(incarnation.source)/\(incarnation.id)/")
        let gaps: ([GapRecord], [VerifyFinding]) = try await catalog.readableRecords(below: "gaps/\(incarnation.source)/\(incarnation.id)/")
        self.branches = branches.0
        self.gaps = gaps.0
        report.findings = branches.1 + gaps.1
        try await lookForExpiries()
        do { indexer = try kind?.makeIndexer(for: incarnation) } catch {
            report.findings.append(
                VerifyFinding(.recordDamaged, object: "sources/\(incarnation.source)/\(incarnation.id).json", error.message, remedy: error.remedy))
        }
    }

    mutating func run() async throws {
        try await measure()
        for branch in branches where !branch.fileName.isEmpty { try await checkFile(of: branch) }
        for gap in gaps {
            report.findings.append(
                VerifyFinding(
                    .gap, "The log of stream \(gap.stream) from \(describe(gap.start)) to \(describe(gap.end)) is lost: \(gap.cause) (noticed \(gap.noticed)).",
                    remedy: "No restore can pass it: `tidemark window` lists what can be reached."))
        }
        var open: Group?
        try await eachObject { audit, name, size, isIndex in
            if let group = open, group.branch != name.branch || group.name != name.name {
                try await audit.check(group)
                open = nil
            }
            open = open ?? Group(branch: name.branch, name: name.name)
            open?.add(name, size: size, isIndex: isIndex)
        }
        if let open { try await check(open) }
        conclude()
    }

    // MARK: Listing

    private mutating func eachObject(_ body: (inout LogAudit, PieceName, UInt64, _ isIndex: Bool) async throws -> Void) async throws {
        var after: String?
        while true {
            try Task.checkCancellation()
            let page = try await catalog.store.list(prefix: prefix, after: after, limit: 4096)
            for object in page {
                guard let (name, isIndex) = parse(object.key) else { continue }
                try await body(&self, name, object.size, isIndex)
            }
            guard page.count == 4096 else { return }
            after = page.last?.key.path
        }
    }

    private func parse(_ key: ObjectKey) -> (name: PieceName, isIndex: Bool)? {
        catalog.piece(at: String(key.path.dropFirst(prefix.utf8.count)))
    }

    /// Sizes for the progress, and where what counts as archived ends: contents behind it are still being worked at.
    private mutating func measure() async throws {
        try await eachObject { audit, name, size, isIndex in
            if isIndex { audit.lastIndexed = audit.key(name) } else {
                audit.total.pieces += 1
                audit.total.bytes += size
            }
        }
    }

    private func key(_ name: PieceName) -> String { catalog.dataKey(name, of: incarnation).path }

    private func isUnfinished(_ name: PieceName) -> Bool { lastIndexed.utf8.lexicographicallyPrecedes(key(name).utf8) }

    /// An agent removes tails and adds pieces while we look: what seems odd is looked at again.
    private func listed(_ group: Group) async throws -> Group {
        var again = Group(branch: group.branch, name: group.name)
        for object in try await catalog.store.listAll(prefix: "\(prefix)\(PieceName(branch: group.branch, name: group.name))") {
            if let (name, isIndex) = parse(object.key), name.name == group.name { again.add(name, size: object.size, isIndex: isIndex) }
        }
        return again
    }

    // MARK: One group

    /// A piece with what is needed of it.
    private struct Fetched {
        var piece: Group.Member
        var index: PieceIndex?
        /// Why there is no usable index.
        var fault: VerifyFinding?
        /// The content as it is stored, when it is to be looked at.
        var object: [UInt8]?
    }

    private var readsContent: Bool { options.contents || options.reindex && indexer != nil }

    private mutating func lookForExpiries() async throws {
        expiring = try await catalog.expiries().filter { $0.wanted.source == incarnation.source }.flatMap { expiry in
            let decided = expiry.decided?.log ?? []
            return decided.filter { $0.incarnation == incarnation.id }
        }
    }

    private mutating func check(_ first: Group) async throws {
        // One may have begun meanwhile.
        if first.isOdd { try await lookForExpiries() }
        guard !expiring.contains(where: { $0.holds(first.name, branch: first.branch) }) else {
            expired += 1
            return
        }
        var group = first.isOdd ? try await listed(first) : first
        for attempt in 1... {
            do {
                var fetched: [Fetched] = []
                for piece in relevant(group) { fetched.append(try await fetch(piece)) }
                if let closed = group.closed {
                    if relevant(group).count == 1, relevant(group)[0].name == closed.name { superseded += group.tails.count } else {
                        unfinished.append(key(closed.name))
                    }
                }
                for one in fetched { try await check(one) }
                return
            } catch let error as ArchiveError where error.code == .objectMissing && attempt < 5 { group = try await listed(group) }
        }
    }

    /// The closed piece, or its tails as long as it does not count itself.
    private func relevant(_ group: Group) -> [Group.Member] {
        if let closed = group.closed, closed.hasIndex || !isUnfinished(closed.name) { return [closed] }
        return group.tails
    }

    private func fetch(_ piece: Group.Member) async throws -> Fetched {
        try Task.checkCancellation()
        var fetched = Fetched(piece: piece)
        let object = key(piece.name) + ".idx"
        if piece.hasIndex {
            do { fetched.index = try await catalog.index(of: piece.name, of: incarnation, names: catalog.isSealed ? .ifPossible : .required) } catch let error as ArchiveError where error.code == .objectDamaged {
                fetched.fault = VerifyFinding(.indexDamaged, object: object, error.message)
            }
        } else if !isUnfinished(piece.name) {
            fetched.fault = VerifyFinding(.indexMissing, object: object, "The index of '\(piece.name)' is missing: the piece does not count.")
        }
        // Without an index the content is of use only where it can be read as log.
        let isWanted = fetched.index != nil ? readsContent : fetched.fault != nil && options.reindex && indexer != nil
        if piece.size != nil, isWanted { fetched.object = try await catalog.store.get(catalog.dataKey(piece.name, of: incarnation)) }
        return fetched
    }

    private mutating func check(_ fetched: Fetched) async throws {
        let piece = fetched.piece
        let key = key(piece.name)
        guard let size = piece.size else {
            let place = fetched.index?.spans.first.map { " It held stream \($0.stream) from \(describe($0.start)) to \(describe($0.end))." } ?? ""
            report.findings.append(
                VerifyFinding(
                    .contentMissing, object: key, "The content of '\(piece.name)' is missing.\(place)", remedy: "Restore the object from a copy of the archive."))
            cover(fetched.index?.spans ?? [], isWhole: false)
            return
        }
        guard fetched.index != nil || fetched.fault != nil else {
            unfinished.append(key)
            return
        }
        report.pieces += 1
        report.bytes += size
        done.pieces += 1
        done.bytes += size
        if let fault = fetched.fault { try await repair(piece, fault, fetched.object) }
        if let index = fetched.index {
            if let object = fetched.object { try await check(piece, index, object) } else {
                if size != index.storedLength {
                    report.findings.append(
                        VerifyFinding(
                            .contentDamaged, object: key, "The object '\(key)' has \(size) bytes; \(index.storedLength) were archived.",
                            remedy: "Restore the object from a copy of the archive."))
                }
                cover(index.spans, isWhole: size == index.storedLength)
            }
        }
        if readsContent { progress("\(incarnation.source): log read", done.bytes, total.bytes) } else {
            progress("\(incarnation.source): pieces", done.pieces, total.pieces)
        }
    }

    /// A piece whose index can be read, with its content.
    private mutating func check(_ piece: Group.Member, _ index: PieceIndex, _ object: [UInt8]) async throws {
        let key = key(piece.name)
        let frames: [[UInt8]]?
        do { frames = try catalog.prove(object, by: index, of: catalog.dataKey(piece.name, of: incarnation)) } catch {
            guard error.code == .objectDamaged else { throw error }
            // Either of the two may be the damaged one.
            if options.reindex, let rebuilt = rebuild(piece.name, object) {
                try await rewrite(
                    piece, rebuilt,
                    VerifyFinding(
                        .indexDamaged, object: key + ".idx",
                        "The index of '\(piece.name)' is damaged: its lengths or digests are not those of the content, which is whole."))
            } else {
                report.findings.append(
                    VerifyFinding(.contentDamaged, object: key, error.message, remedy: "Restore the object from a copy of the archive, or take a new base."))
                cover(index.spans, isWhole: false)
            }
            return
        }
        do {
            if let frames, let content = try indexer?.read(piece.name, frames: frames), options.reindex { compare(piece.name, index, content) }
        } catch {
            let cause = error.cause.map { " (\($0))" } ?? ""
            report.findings.append(
                VerifyFinding(
                    .contentDamaged, object: key, "The content of '\(piece.name)' is what was archived, but it is damaged: \(error.message)\(cause)",
                    remedy: "Take a new base with `tidemark backup --source \(incarnation.source)`."))
            cover(index.spans, isWhole: false)
            return
        }
        report.provenPieces += 1
        report.provenBytes += UInt64(object.count)
        cover(index.spans, isWhole: true)
    }

    // MARK: Indexes anew

    private mutating func repair(_ piece: Group.Member, _ fault: VerifyFinding, _ object: [UInt8]?) async throws {
        var fault = fault
        if indexer == nil {
            fault.remedy = "Restore the object from a copy of the archive: the index of such a piece cannot be made from its content."
        } else if let object {
            if let rebuilt = rebuild(piece.name, object) { return try await rewrite(piece, rebuilt, fault) }
            fault.message += " It cannot be made anew: the content is not whole either, or what comes before it is missing."
            fault.remedy = "Restore both objects from a copy of the archive, or take a new base."
        } else {
            fault.remedy = "Have it made from the content: tidemark verify --reindex --source \(incarnation.source)"
        }
        report.findings.append(fault)
        isBehindUnindexed = true
    }

    /// The index of content that proves itself: by its frames' checksums, and as log.
    private mutating func rebuild(_ name: PieceName, _ object: [UInt8]) -> (index: PieceIndex, beginsInside: Bool)? {
        guard var reader = indexer else { return nil }
        do {
            let (plain, headerLength) = try catalog.openWithHeader(object, of: catalog.dataKey(name, of: incarnation))
            let (frames, contents) = try PiecePacker.frames(of: plain)
            guard let content = try reader.read(name, frames: contents) else { return nil }
            indexer = reader
            var index = PieceIndex(
                spans: content.spans, events: content.events, frames: frames, storedLength: UInt64(object.count), storedSHA256: SHA256.of(object))
            index.headerLength = headerLength
            return (index, content.beginsInside)
        } catch { return nil }
    }

    private mutating func rewrite(
        _ piece: Group.Member, _ rebuilt: (index: PieceIndex, beginsInside: Bool), _ fault: VerifyFinding
    ) async throws {
        let index = rebuilt.index
        if piece.hasIndex { try await catalog.store.remove(ObjectKey(known: key(piece.name) + ".idx")) }
        try await catalog.storeIndex(piece.name, index, of: incarnation)
        var fault = fault
        fault.isRepaired = true
        fault.message += piece.hasIndex ? " It was removed, and written anew from the content." : " It was written anew from the content."
        if rebuilt.beginsInside { fault.message += " It begins within a record that an earlier piece has the beginning of; what that one was is not in it." }
        report.findings.append(fault)
        report.rewrittenIndexes += 1
        report.comparedPieces += 1
        report.events += index.events.count
        report.provenPieces += 1
        report.provenBytes += index.storedLength
        cover(index.spans, isWhole: true)
    }

    private mutating func compare(_ name: PieceName, _ index: PieceIndex, _ content: PieceContent) {
        report.comparedPieces += 1
        report.events += content.events.count
        var differences: [String] = []
        var (index, content) = (index, content)
        if content.beginsInside {
            // Whoever had the piece before knew more than can be known now.
            index.events.removeAll { $0.start < index.spans[$0.span].start }
            for i in index.spans.indices { index.spans[i].lastRecord = nil }
            for i in content.spans.indices { content.spans[i].lastRecord = nil }
        }
        if index.spans != content.spans {
            func text(_ spans: [LogSpan]) -> String {
                spans.map { "\(describe($0.start)) to \(describe($0.end)), last record \($0.lastRecord.map(describe) ?? "none")" }.joined(separator: "; ")
            }
            differences.append("it says that the piece holds \(text(index.spans)), but that is \(text(content.spans))")
        }
        if index.events != content.events {
            let stored = Set(index.events)
            let found = Set(content.events)
            func text(_ what: String, _ events: [LogEvent]) {
                guard let first = events.first else { return }
                differences.append("it \(what) \(events.count) of \(found.count) events, the first at \(describe(first.start)) (kind \(first.kind.rawValue), number \(first.number))")
            }
            text("lacks", content.events.filter { !stored.contains($0) })
            text("has, besides,", index.events.filter { !found.contains($0) })
            if differences.isEmpty { differences.append("its events are repeated or in another order") }
        }
        guard !differences.isEmpty else { return }
        report.findings.append(
            VerifyFinding(
                .indexDiffers, object: key(name) + ".idx", "The index of '\(name)' differs from the content: \(differences.joined(separator: ", and ")).",
                remedy: "It was left as it is. Remove that one object and run `tidemark verify --reindex` again, which makes it from the content."))
    }

    // MARK: Contiguity

    private mutating func cover(_ spans: [LogSpan], isWhole: Bool) {
        for span in spans {
            let hole = coverage.add(span, parent: branches.first { $0.branch == span.branch }?.ancestors.last, isWhole: isWhole)
            guard let hole, !isBehindUnindexed else { continue }
            if gaps.contains(where: { $0.stream == span.stream && $0.start <= hole.lowerBound && $0.end >= hole.upperBound }) { continue }
            report.findings.append(
                VerifyFinding(
                    .hole,
                    "The log of stream \(span.stream) has a hole on branch \(span.branch) from \(describe(hole.lowerBound)) to \(describe(hole.upperBound)), for which no cause is recorded.",
                    remedy: "Restore what is missing from a copy of the archive, or take a new base with `tidemark backup --source \(incarnation.source)`."))
        }
        isBehindUnindexed = false
    }

    private mutating func checkFile(of branch: BranchRecord) async throws {
        let path = "branches/\(incarnation.source)/\(incarnation.id)/\(branch.fileName)"
        if let key = ObjectKey(path) {
            do { if try await catalog.store.get(key) == branch.file { return } } catch let error as ArchiveError where error.code == .objectMissing {}
        }
        report.findings.append(
            VerifyFinding(
                .recordDamaged, object: path, "The file '\(path)' is missing or is not the one that was archived.",
                remedy: "`file` of \(hex(UInt64(branch.branch), 8)).json beside it has its bytes."))
    }

    private mutating func conclude() {
        for (stream, branch) in coverage.rootless where !branches.contains(where: { $0.branch == branch }) {
            let start = coverage.start(of: stream, branch)
            if gaps.contains(where: { $0.stream == stream && $0.end == start }) { continue }
            report.findings.append(
                VerifyFinding(
                    .recordDamaged, object: "branches/\(incarnation.source)/\(incarnation.id)/\(hex(UInt64(branch), 8)).json",
                    "The record that says where branch \(branch) left the one before is missing.", remedy: "Restore the object from a copy of the archive."))
        }
        if !unfinished.isEmpty {
            report.findings.append(
                VerifyFinding(
                    .unfinished, object: unfinished[0],
                    "\(unfinished.count) object\(unfinished.count == 1 ? "" : "s") at the end of the log without index: an agent is at work there, or did not finish and sends them again."))
        }
        if expired > 0 {
            report.findings.append(
                VerifyFinding(.unfinished, "\(expired) piece\(expired == 1 ? "" : "s") of log that an expiry is removing, or was when it was interrupted; the next one goes on."))
        }
        if superseded > 0 {
            report.findings.append(VerifyFinding(.unfinished, "\(superseded) tail\(superseded == 1 ? "" : "s") beside closed pieces that replace them; they are no longer needed."))
        }
    }

    private func describe(_ offset: UInt64) -> String { kind?.describe(offset: offset) ?? "\(offset)" }
}
