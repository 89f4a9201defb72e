import ArchiveCore

/// One option of the command line. Everything that is known about it is here: parsing and help read it.
struct Option: Sendable {
    let name: String
    /// What its value is called in help; `nil` for a flag.
    let placeholder: String?
    let help: String
    let repeats: Bool

    init(_ name: String, _ placeholder: String? = nil, repeats: Bool = false, help: String) {
        self.name = name
        self.placeholder = placeholder
        self.help = help
        self.repeats = repeats
    }
}

/// A command, as help and dispatch see it.
struct Command: Sendable {
    let name: String
    let summary: String
    let options: [Option]
    /// Names of positional arguments.
    let positionals: [String]
    let example: String
    let run: @Sendable (Arguments) async throws -> Int32

    init(
        _ name: String, _ summary: String, options: [Option], positionals: [String] = [], example: String,
        run: @escaping @Sendable (Arguments) async throws -> Int32
    ) {
        self.name = name
        self.summary = summary
        self.options = options
        self.positionals = positionals
        self.example = example
        self.run = run
    }

    var help: String {
        var text = "\(summary)\n\nUsage: tidemark \(name) [options]\(positionals.map { " <\($0)>" }.joined())\n\nOptions:\n"
        let rows = (options + [Option("help", help: "Show this help.")]).map { option in
            ("--\(option.name)" + (option.placeholder.map { " \($0)" } ?? ""), option.help + (option.repeats ? " May be repeated." : ""))
        }
        let width = rows.map(\.0.count).max() ?? 0
        for (left, right) in rows { text += "  \(left)\(String(repeating: " ", count: width - left.count))  \(right)\n" }
        return text + "\nExample:\n  \(example)\n\nExit status: 0 done, 1 failed, 2 usage, 3 refused, 4 finished but something was lost or skipped.\n"
    }
}

/// What a command was given.
struct Arguments: Sendable {
    let command: Command
    private var values: [String: [String]] = [:]
    private(set) var positionals: [String] = []
    private(set) var wantsHelp = false

    /// - Throws: `.usage` for anything that the command does not declare.
    init(_ words: [String], of command: Command) throws(ArchiveError) {
        self.command = command
        var rest = words[...]
        while let word = rest.popFirst() {
            if word == "--" {
                positionals += rest
                break
            }
            if word == "-h" || word == "--help" {
                wantsHelp = true
                continue
            }
            guard word.hasPrefix("-"), word != "-" else {
                positionals.append(word)
                continue
            }
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts[0].hasPrefix("--"), let option = command.options.first(where: { "--\($0.name)" == parts[0] }) else {
                let near = nearest(to: String(parts[0].drop { $0 == "-" }), among: command.options.map(\.name))
                throw ArchiveError(
                    .usage, "tidemark \(command.name) has no option '\(parts[0])'.",
                    remedy: near.map { "Did you mean --\($0)?" } ?? "See tidemark \(command.name) --help.")
            }
            var value = ""
            if option.placeholder != nil {
                if parts.count == 2 { value = parts[1] } else {
                    guard let next = rest.popFirst() else {
                        throw ArchiveError(.usage, "--\(option.name) takes a value: --\(option.name) \(option.placeholder ?? "").")
                    }
                    value = next
                }
                guard !value.isEmpty else { throw ArchiveError(.usage, "--\(option.name) was given an empty value.") }
            } else if parts.count == 2 {
                throw ArchiveError(.usage, "--\(option.name) takes no value.")
            }
            guard option.repeats || values[option.name] == nil else { throw ArchiveError(.usage, "--\(option.name) was given twice.") }
            values[option.name, default: []].append(value)
        }
        guard wantsHelp || positionals.count == command.positionals.count else {
            throw ArchiveError(
                .usage,
                positionals.count > command.positionals.count
                    ? "tidemark \(command.name) does not take '\(positionals[command.positionals.count])'."
                    : "tidemark \(command.name) needs <\(command.positionals[positionals.count])>.",
                remedy: "See tidemark \(command.name) --help.")
        }
    }

    subscript(name: String) -> String? { values[name]?.last }
    func all(_ name: String) -> [String] { values[name] ?? [] }
    func has(_ name: String) -> Bool { values[name] != nil }
}

/// The candidate that a misspelt word most likely meant; `nil` when none is near.
func nearest(to word: String, among candidates: [String]) -> String? {
    func distance(_ a: [Character], _ b: [Character]) -> Int {
        var row = Array(0...b.count)
        for i in 1..<max(2, a.count + 1) where i <= a.count {
            var previous = row[0]
            row[0] = i
            for j in 1..<max(2, b.count + 1) where j <= b.count {
                let current = row[j]
                row[j] = min(previous + (a[i - 1] == b[j - 1] ? 0 : 1), row[j] + 1, row[j - 1] + 1)
                previous = current
            }
        }
        return row[b.count]
    }
    let ranked = candidates.map { ($0, distance(Array(word), Array($0))) }.min { $0.1 < $1.1 }
    return ranked.flatMap { $0.1 <= max(2, word.count / 3) ? $0.0 : nil }
}
