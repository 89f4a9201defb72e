import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Testing

@testable import SourceGitaly

/// A random history on a small tree, and a copier that looks at every name at a moment of its own. The real replayer on a real
/// directory has to turn the copy into what the history ends with.
struct FuzzyHistory {
    enum Node: Hashable { case directory, file(UInt8) }
    typealias Tree = [String: Node]

    var random: SeededRandom
    /// The tree after each operation; the first is the one before any.
    var states: [Tree] = []
    var operations: [(operation: LogEntry.Operation, content: UInt8)] = []
    private var counter: UInt8 = 1

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        var tree: Tree = [:]
        // Something is there before the window begins.
        for _ in 0..<8 { tree = step(tree).tree }
        states = [tree]
        operations = []
        for _ in 0..<Int.random(in: 4...24, using: &random) {
            let next = step(states[states.count - 1])
            states.append(next.tree)
            operations.append((next.operation, next.content))
        }
    }

    private func parentExists(_ path: String, in tree: Tree) -> Bool {
        guard let slash = path.lastIndex(of: "/") else { return true }
        return tree[String(path[..<slash])] == .directory
    }

    /// One operation that Gitaly could have written, and what it makes of the tree; some are ignored, as Gitaly ignores them.
    private mutating func step(_ tree: Tree) -> (tree: Tree, operation: LogEntry.Operation, content: UInt8) {
        while true {
            let depth = Int.random(in: 1...3, using: &random)
            let path = (0..<depth).map { _ in ["a", "b", "c"].randomElement(using: &random)! }.joined(separator: "/")
            guard parentExists(path, in: tree) else { continue }
            let ignored = Int.random(in: 0..<100, using: &random) < 15
            counter &+= 1
            let bytes = Array(path.utf8)
            var next = tree
            switch (Int.random(in: 0..<3, using: &random), tree[path]) {
            case (0, nil):
                next[path] = .file(counter)
                return (next, .link(source: [0x31], inStorage: false, destination: bytes), counter)
            case (0, .some) where ignored: return (tree, .link(source: [0x31], inStorage: false, destination: bytes), counter)
            case (1, nil):
                next[path] = .directory
                return (next, .makeDirectory(bytes, mode: 0o700), 0)
            case (1, .some) where ignored: return (tree, .makeDirectory(bytes, mode: 0o700), 0)
            case (2, nil) where ignored: return (tree, .remove(bytes), 0)
            case (2, .file):
                next[path] = nil
                return (next, .remove(bytes), 0)
            case (2, .directory) where !tree.keys.contains { $0.hasPrefix(path + "/") }:
                next[path] = nil
                return (next, .remove(bytes), 0)
            default: continue
            }
        }
    }

    /// What a copier saw that listed each directory and looked at each name at moments that only move forward.
    mutating func copy() -> Tree {
        var seen: Tree = [:]
        var moment = 0
        func later(_ random: inout SeededRandom) -> Tree {
            if moment < states.count - 1, Bool.random(using: &random) { moment = Int.random(in: moment...(states.count - 1), using: &random) }
            return states[moment]
        }
        var folders = [""]
        while !folders.isEmpty {
            let folder = folders.remove(at: Int.random(in: 0..<folders.count, using: &random))
            let listing = later(&random)
            let prefix = folder.isEmpty ? "" : folder + "/"
            let names = ["a", "b", "c"].shuffled(using: &random).filter { listing[prefix + $0] != nil }
            for name in names {
                // Vanished since it was listed: seen absent.
                guard let node = later(&random)[prefix + name] else { continue }
                seen[prefix + name] = node
                if node == .directory { folders.append(prefix + name) }
            }
        }
        return seen
    }
}

@Suite("Fuzzy copies of random histories")
struct FuzzyCopyProperty {
    /// On memory where there is some, since thousands of trees are made.
    private func scratch() -> String {
        let parent = Files.exists("/dev/shm") ? "/dev/shm" : "/tmp"
        return "\(parent)/tidemark-fuzzy-\(UInt64.random(in: .min ... .max))"
    }

    private func lay(_ tree: FuzzyHistory.Tree, in root: String) throws {
        try Files.removeTree(root)
        guard mkdir(root, 0o700) == 0 else { throw ArchiveError.system("make", root) }
        for (path, node) in tree.sorted(by: { $0.key < $1.key }) {
            switch node {
            case .directory: mkdir("\(root)/\(path)", 0o700)
            case .file(let content): try Descriptor("\(root)/\(path)", O_WRONLY | O_CREAT, mode: 0o400).write([content])
            }
        }
    }

    private func read(_ root: String) throws -> FuzzyHistory.Tree {
        var tree: FuzzyHistory.Tree = [:]
        func walk(_ prefix: String) throws {
            for name in try Files.names(in: "\(root)/\(prefix)") {
                let path = prefix + name
                let status = try #require(try Files.status("\(root)/\(path)"))
                if status.st_mode & S_IFMT == S_IFDIR {
                    tree[path] = .directory
                    try walk(path + "/")
                } else {
                    tree[path] = .file(try Files.read("\(root)/\(path)")[0])
                }
            }
        }
        try walk("")
        return tree
    }

    /// Runs one history; `false` when the result differs from the true one.
    private func holds(seed: UInt64, root: String, replacing: Bool = false, skip: Int = 0, twice: Bool = false) throws -> Bool {
        var history = FuzzyHistory(seed: seed)
        try lay(history.copy(), in: root)
        var replayer = Replayer(root: root)
        replayer.replacesExisting = replacing
        for _ in 0..<(twice ? 2 : 1) {
            for (n, (operation, content)) in history.operations.enumerated().dropFirst(skip) {
                var entry = LogEntry()
                entry.operations = [operation]
                try replayer.apply(
                    ReplayableEntry(
                        partition: "2", lsn: UInt64(n + 1), entry: entry, files: ["1": .init(bytes: [content], mode: 0o400)], links: [:]),
                    tolerant: true)
            }
        }
        return try read(root) == history.states.last
    }

    private func failures(_ count: Int, from first: UInt64, _ check: (UInt64, String) throws -> Bool) throws -> [UInt64] {
        let root = scratch()
        defer { try? Files.removeTree(root) }  // a leftover in memory is no reason to fail
        return try (0..<UInt64(count)).map { first &+ $0 }.filter { try !check($0, root) }
    }

    @Test("become exact, thousands of times", .timeLimit(.minutes(10)))
    func exact() throws {
        let first = UInt64.random(in: 0...UInt64.max / 2)
        let wrong = try failures(4000, from: first) { try holds(seed: $0, root: $1) }
        #expect(wrong.isEmpty, "seeds \(wrong.prefix(5)), the first of the run was \(first)")
    }

    @Test("become exact when the window is replayed twice", .timeLimit(.minutes(10)))
    func twice() throws {
        let first = UInt64.random(in: 0...UInt64.max / 2)
        let wrong = try failures(1000, from: first) { try holds(seed: $0, root: $1, twice: true) }
        #expect(wrong.isEmpty, "seeds \(wrong.prefix(5)), the first of the run was \(first)")
    }

    @Test("go wrong when one rule is widened: replacing what is there, or a window that begins one operation late", .timeLimit(.minutes(10)))
    func canFail() throws {
        // A wrong rule shows as a wrong tree, or as an operation that cannot be done at all.
        func wrong(_ check: (UInt64, String) throws -> Bool) throws -> Int {
            try failures(1000, from: 1) { seed, root in do { return try check(seed, root) } catch is ArchiveError { return false } }.count
        }
        #expect(try wrong { try holds(seed: $0, root: $1) } == 0)
        #expect(try wrong { try holds(seed: $0, root: $1, replacing: true) } > 0)
        #expect(try wrong { try holds(seed: $0, root: $1, skip: 1) } > 0)
    }
}
