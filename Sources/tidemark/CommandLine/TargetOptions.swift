import ArchiveCore
import Catalog
import Planner
import Restore

/// The options by which `plan` and `restore` are told where to stop.
enum TargetOptions {
    static let all = [
        Option("to-time", "TIME", help: "Stop at this moment: RFC 3339 with an offset, -15m, or a local time with --zone."),
        Option("zone", "ZONE", help: "The zone of a --to-time without an offset, such as Europe/Berlin."),
        Option("to-lsn", "LSN", help: "Stop after the record of PostgreSQL's log that begins at this position, such as 16/B374D848."),
        Option("to-xid", "XID", help: "Stop after the commit of this transaction."),
        Option("to-name", "NAME", help: "Stop at this restore point (pg_create_restore_point)."),
        Option("to-fence", "ID", help: "Stop at this fence; `tidemark log --all` lists them."),
        Option("latest", help: "Restore everything that is archived: for several sources, up to the newest time that all have."),
        Option("exclusive", help: "Stop just before the target instead of after it; with --to-time, --to-lsn and --to-xid."),
        Option("timeline", "N", help: "Restore this timeline of PostgreSQL instead of the newest."),
        Option("slack", "DURATION", help: "Take repository changes that no fence decides up to this much after the target; default: 0s."),
    ]

    /// - Throws: `.usage` for no target, more than one, or one that cannot be read.
    static func request(_ arguments: Arguments) throws(ArchiveError) -> PlanRequest {
        let names = ["to-time", "to-lsn", "to-xid", "to-name", "to-fence", "latest"].filter { arguments.has($0) }
        guard let name = names.first else {
            throw ArchiveError(.usage, "No target was given.", remedy: "Add --to-time TIME, --latest, or another of the targets in --help.")
        }
        guard names.count == 1 else {
            throw ArchiveError(.usage, "--\(names[0]) and --\(names[1]) were both given.", remedy: "Give one target.")
        }
        let text = arguments[name] ?? ""
        guard arguments["zone"] == nil || name == "to-time" else { throw ArchiveError(.usage, "--zone goes with --to-time only.") }
        let target: RecoveryTarget
        switch name {
        case "to-time": target = .time(try TargetTime.parse(text, zone: arguments["zone"]))
        case "to-lsn":
            guard let lsn = LSN(text) else { throw ArchiveError(.usage, "--to-lsn takes an LSN such as 16/B374D848, not '\(text)'.") }
            target = .position(lsn.rawValue)
        case "to-xid":
            guard let xid = UInt32(text), xid > 2 else { throw ArchiveError(.usage, "--to-xid takes a transaction id, a number from 3 to 4294967295, not '\(text)'.") }
            target = .transaction(UInt64(xid))
        case "to-name": target = .name(text)
        case "to-fence": target = .fence(text)
        default: target = .latest
        }
        if arguments.has("exclusive"), !["to-time", "to-lsn", "to-xid"].contains(name) {
            throw ArchiveError(.usage, "--exclusive does not go with --\(name).", remedy: "It goes with --to-time, --to-lsn and --to-xid.")
        }
        var branch: UInt32?
        if let text = arguments["timeline"] {
            guard let number = UInt32(text), number > 0 else { throw ArchiveError(.usage, "--timeline takes the number of a timeline, not '\(text)'.") }
            branch = number
        }
        var slack: Int64 = 0
        if let text = arguments["slack"] {
            guard let seconds = TargetTime.duration(text), seconds <= 86_400 else {
                throw ArchiveError(.usage, "--slack takes a duration up to 1d, such as 2s, not '\(text)'.")
            }
            slack = Int64(seconds * 1e9)
        }
        return PlanRequest(target: target, exclusive: arguments.has("exclusive"), branch: branch, slack: slack)
    }

    /// The target as it was asked for, for people; times in UTC and local.
    static func text(_ request: PlanRequest) -> String {
        let before = request.exclusive ? "just before " : ""
        let target =
            switch request.target {
            case .time(let time): Output.time(time)
            case .latest: "the end of the archive"
            case .position(let position): "LSN \(LSN(rawValue: position))"
            case .transaction(let number): "transaction \(number)"
            case .name(let name): "restore point '\(name)'"
            case .fence(let id): "fence \(id)"
            }
        return before + target + (request.branch.map { " on timeline \($0)" } ?? "")
    }
}
