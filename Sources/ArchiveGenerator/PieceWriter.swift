import ArchiveCore
import Catalog
import Glibc
import Store

/// Puts the pieces of one source into an archive in a directory. Whatever no plan reads is a hard link to one file.
struct PieceWriter {
    private let catalog: Catalog
    private let root: String
    private let incarnation: IncarnationRecord
    private var keeper = ChapterKeeper()
    private var folder = ""
    /// The file that contents and unread indexes are links to, and how many names it has. ext4 allows 65,000.
    private var shared = ""
    private var links = 0
    private static let maximumLinks = 60_000
    /// Summaries behind the last chapter: an agent finds these in their indexes, and so does a plan.
    private var open: [(name: PieceName, index: () -> PieceIndex)] = []
    private(set) var chapters = 0
    private(set) var realIndexes = 0
    private(set) var totals = LogTotals()

    init(catalog: Catalog, root: String, incarnation: IncarnationRecord) {
        self.catalog = catalog
        self.root = root
        self.incarnation = incarnation
    }

    /// - Parameters:
    ///   - index: the whole index, where it is wanted.
    ///   - isReal: whether it is written now.
    mutating func add(_ summary: PieceSummary, isReal: Bool, index: @escaping () -> PieceIndex) async throws {
        let key = catalog.dataKey(summary.name, of: incarnation).path
        try link(key)
        if isReal {
            try await catalog.storeIndex(summary.name, index(), of: incarnation)
            realIndexes += 1
        } else {
            open.append((summary.name, index))
        }
        totals += summary.totals
        for chapter in keeper.add(summary) {
            chapters += 1
            try await catalog.record(chapter, of: incarnation)
            for piece in open.dropLast() { try link(catalog.dataKey(piece.name, of: incarnation).path + ".idx") }
            // Whoever reads on behind a chapter begins with its last piece.
            if let last = open.last {
                try await catalog.storeIndex(last.name, last.index(), of: incarnation)
                realIndexes += 1
            }
            open = []
        }
    }

    /// Writes what lies behind the last chapter.
    mutating func finish() async throws {
        for piece in open { try await catalog.storeIndex(piece.name, piece.index(), of: incarnation) }
        realIndexes += open.count
        open = []
    }

    private mutating func link(_ key: String) throws {
        let path = "\(root)/\(key)"
        let parent = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        if parent != folder {
            try makeFolder(parent)
            folder = parent
        }
        if links > 0, links < Self.maximumLinks {
            guard Glibc.link(shared, path) == 0 else { throw ArchiveError(.inputOutput, "Could not link '\(path)': error \(errno).") }
            links += 1
            return
        }
        let descriptor = open_(path)
        guard descriptor >= 0 else { throw ArchiveError(.inputOutput, "Could not create '\(path)': error \(errno).") }
        close(descriptor)
        shared = path
        links = 1
    }

    private func open_(_ path: String) -> Int32 { Glibc.open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600) }

    private func makeFolder(_ path: String) throws {
        if mkdir(path, 0o700) == 0 || errno == EEXIST { return }
        guard errno == ENOENT, let slash = path.lastIndex(of: "/"), slash > path.startIndex else {
            throw ArchiveError(.inputOutput, "Could not create '\(path)': error \(errno).")
        }
        try makeFolder(String(path[..<slash]))
        try makeFolder(path)
    }
}
