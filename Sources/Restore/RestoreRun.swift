import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Planner
import Runtime
import Source

/// One source's part of a restore: where to, and how far.
public struct RestoreOrder: Sendable {
    public var plan: SourcePlan
    public var directory: String
    public var recover: RecoveryMode
    public var bindir: String?
    public var fetchCommand: String
    public var mappings: [String: String]
    /// Only this item, such as a repository's path, and what it needs; `nil`: everything.
    public var only: String?

    public init(
        plan: SourcePlan, directory: String, recover: RecoveryMode, bindir: String?, fetchCommand: String, mappings: [String: String],
        only: String? = nil
    ) {
        self.plan = plan
        self.directory = directory
        self.recover = recover
        self.bindir = bindir
        self.fetchCommand = fetchCommand
        self.mappings = mappings
        self.only = only
    }
}

public struct RestoreReport: Sendable {
    /// Each step's name and how many seconds it took.
    public var steps: [(name: String, seconds: Double)]
    public var outcome: RestoreOutcome
}

/// Carries a plan out: lays the base out beside the target, replays the log over it, makes all of it durable, and only then
/// gives it its name. Whatever goes wrong before, the target stays as it was.
public struct RestoreRun: Sendable {
    let catalog: Catalog
    let progress: @Sendable (String, UInt64, UInt64?) -> Void

    public init(catalog: Catalog, progress: @escaping @Sendable (String, UInt64, UInt64?) -> Void) {
        self.catalog = catalog
        self.progress = progress
    }

    /// - Throws: `.targetNotEmpty` unless `directory` is missing or empty, and its parent is there.
    public static func checkTarget(_ directory: String) throws {
        guard directory.hasPrefix("/"), directory != "/" else {
            throw ArchiveError(.usage, "'\(directory)' is not an absolute directory to restore into.")
        }
        guard let status = try Files.status(directory) else { return }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw ArchiveError(.targetNotEmpty, "'\(directory)' is there and is not a directory.", remedy: "Name an empty or a new directory.")
        }
        guard try Files.rawNames(in: directory).isEmpty else {
            throw ArchiveError(
                .targetNotEmpty, "'\(directory)' is not empty.", remedy: "Name an empty or a new directory; nothing there was touched.")
        }
    }

    public func run(_ order: RestoreOrder, with target: any RestoreTarget) async throws -> RestoreReport {
        let plan = order.plan
        var directory = order.directory
        while directory.count > 1, directory.hasSuffix("/") { directory.removeLast() }
        let final = directory
        try Self.checkTarget(final)
        try await target.prepare(base: plan.base, recover: order.recover, bindir: order.bindir)
        let staging = "\(final).tidemark-\(hex(UInt64.random(in: 0...0xFFFF_FFFF), 8))"
        var steps: [(String, Double)] = []
        func step<T: Sendable>(_ name: String, _ body: () async throws -> T) async throws -> T {
            let begun = ContinuousClock.now
            let result = try await body()
            let taken = (ContinuousClock.now - begun).components
            steps.append((name, Double(taken.seconds) + Double(taken.attoseconds) / 1e18))
            return result
        }
        let parent = Files.parent(of: final)
        let parentIsNew = !Files.exists(parent)
        do {
            try await blocking {
                try Files.makeDirectory(parent, mode: 0o755)
                try Files.makeDirectory(staging)
            }
            let log = ArchivedLog(
                catalog: catalog, incarnation: plan.incarnation,
                pieces: plan.pieces.map { ArchivedPiece(name: $0.name, storedLength: $0.storedLength) }, branches: plan.branches)
            var index = try await step("read the base's index") { try await catalog.treeIndex(of: plan.base, in: plan.incarnation) }
            var cuts = plan.cuts
            // Of one item, also what its item needs from others.
            var losses = index.losses
            var only: Set<String>?
            if let item = order.only {
                let part = try await step("find what '\(item)' needs") { [index] in
                    try await PartSelection(catalog: catalog, plan: plan, index: index, log: log).select(item, for: target)
                }
                (index, cuts, only) = (part.index, part.cuts, part.paths)
                losses = losses.filter { loss in part.paths.contains { loss.covers(Array($0.utf8)) || TreeLoss(path: Array($0.utf8), reason: "").covers(loss.path) } }
            }
            try await step("lay out the base") { [index] in
                try await TreeExtractor(
                    catalog: catalog, incarnation: plan.incarnation, base: plan.base, index: index, directory: staging, progress: progress
                ).run()
            }
            var outcome = try await step("replay the log") { [cuts, only, losses] in
                try await target.replay(
                    RestoreJob(
                        incarnation: plan.incarnation, base: plan.base, spans: plan.spans, cuts: cuts, log: log,
                        directory: staging, finalDirectory: final, recover: order.recover, bindir: order.bindir,
                        fetchCommand: order.fetchCommand, mappings: order.mappings, only: only, losses: losses, progress: progress))
            }
            outcome.warnings = bounded(losses.map { "the base \(plan.base.id) is not whole: \($0.reason)" }) + outcome.warnings
            try await checkItem(order, target, in: staging)
            try await step("make it durable") {
                try await blocking {
                    try Files.syncFileSystem(of: staging)
                    try Self.checkTarget(final)
                    try Files.rename(staging, to: final)
                }
            }
            return RestoreReport(steps: steps.map { (name: $0.0, seconds: $0.1) }, outcome: outcome)
        } catch {
            // Nothing of a failed restore stays behind; the archive has everything.
            try await blocking {
                try Files.removeTree(staging)
                // Not empty: another part of the same restore is there.
                if parentIsNew, rmdir(parent) != 0, errno != ENOTEMPTY, errno != ENOENT { throw ArchiveError.system("remove the directory", parent) }
            }
            throw error
        }
    }
}

extension RestoreRun {
    /// - Throws: `.targetUnreachable` when the one item that was wanted did not exist at the cut.
    private func checkItem(_ order: RestoreOrder, _ target: any RestoreTarget, in directory: String) async throws {
        guard let item = order.only, let partial = target as? any PartialRestoreTarget else { return }
        guard try await blocking({ try partial.isPresent(item, in: directory) }) else {
            throw ArchiveError(
                .targetUnreachable, "'\(item)' of '\(order.plan.source)' did not exist at the target.",
                remedy: "`tidemark log --repository \(item)` shows when it was created and deleted.")
        }
    }
}

/// Reads the pieces of a plan.
public struct ArchivedLog: LogReader {
    let catalog: Catalog
    let incarnation: IncarnationRecord
    public let pieces: [ArchivedPiece]
    public let branches: [BranchRecord]

    public init(catalog: Catalog, incarnation: IncarnationRecord, pieces: [ArchivedPiece], branches: [BranchRecord]) {
        self.catalog = catalog
        self.incarnation = incarnation
        self.pieces = pieces
        self.branches = branches
    }

    public var parallelism: Int { catalog.store.parallelism }

    public func index(of piece: ArchivedPiece) async throws -> PieceIndex {
        try await catalog.index(of: piece.name, of: incarnation, names: .required)
    }

    public func read(_ piece: ArchivedPiece, index: PieceIndex?, frames: [Int]?) async throws -> [[UInt8]] {
        do {
            let known: PieceIndex
            if let index { known = index } else { known = try await self.index(of: piece) }
            return try await catalog.read(piece.name, index: known, frames: frames, of: incarnation)
        } catch let error as ArchiveError where error.code == .objectMissing {
            // An agent at work removes a tail when its piece is closed, which then holds the same bytes.
            guard let part = piece.name.part else { throw error }
            let closed = PieceName(branch: piece.name.branch, name: piece.name.name, suffix: piece.name.suffix)
            let index: PieceIndex
            do { index = try await catalog.index(of: closed, of: incarnation) } catch let second as ArchiveError where second.code == .objectMissing { throw error }
            let content = try await catalog.read(closed, index: index, of: incarnation).flatMap { $0 }
            guard let start = index.spans.first?.start, start <= part.lowerBound, part.upperBound - start <= UInt64(content.count) else { throw error }
            return [Array(content[Int(part.lowerBound - start)..<Int(part.upperBound - start)])]
        }
    }
}
