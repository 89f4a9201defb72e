import ArchiveCore
import Glibc
import Runtime

@main
struct Main {
    static let version = "0.1.0"

    static let commands: [Command] = [
        initCommand, checkCommand, agentCommand, backupCommand, listCommand, windowCommand, logCommand, planCommand, restoreCommand, rpoCommand, verifyCommand,
        expireCommand, keepCommand, walFetchCommand, statusCommand, notifyCommand,
    ]

    static func main() async {
        returnFreedMemory()
        Signals.ignorePipes()
        let status = await run(Array(CommandLine.arguments.dropFirst()))
        fflush(nil)
        // Not `exit`: the thread that talks to stores may still be in OpenSSL, which takes itself down there.
        _exit(status)
    }

    /// Runs one command line and returns its exit status.
    static func run(_ words: [String]) async -> Int32 {
        guard let name = words.first, name != "--help", name != "-h", name != "help" else {
            Output.line(help)
            return words.isEmpty ? 2 : 0
        }
        if name == "--version" {
            Output.line("tidemark \(version)")
            return 0
        }
        let json = words.contains("--json")
        do {
            guard let command = commands.first(where: { $0.name == name }) else {
                throw ArchiveError(
                    .usage, "There is no command '\(name)'.",
                    remedy: nearest(to: name, among: commands.map(\.name)).map { "Did you mean tidemark \($0)?" } ?? "See tidemark --help.")
            }
            let arguments = try Arguments(Array(words.dropFirst()), of: command)
            if arguments.wantsHelp {
                Output.put(command.help, to: 1)
                return 0
            }
            return try await command.run(arguments)
        } catch let error as ArchiveError {
            Output.report(error, json: json)
            return error.code.exitStatus
        } catch is CancellationError {
            Output.report(ArchiveError(.interrupted, "tidemark \(name) was interrupted.", remedy: "Run it again; nothing half done counts."), json: json)
            return 1
        } catch {
            Output.report(ArchiveError(.inputOutput, "tidemark \(name) failed.", cause: error), json: json)
            return 1
        }
    }

    static var help: String {
        """
        Tidemark archives a PostgreSQL cluster's and a Gitaly storage's logs as they are written, and brings both back to one instant.

        Usage: tidemark <command> [options]

        Commands:
        \(Output.table(commands.map { [$0.name, $0.summary] }, indent: "  "))

        `tidemark <command> --help` tells more.
        """
    }
}
