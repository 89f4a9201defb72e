import ArchiveCore
import Foundation
import Planner
import Runtime

extension Configuration {
    /// When PostgreSQL's slot is a danger, and what is done about it.
    struct SlotSettings: Sendable, Hashable {
        enum Policy: String, Sendable, CaseIterable { case hold, drop }
        var policy = Policy.hold
        /// It is told when the room is used up in fewer seconds than this at the pace of late.
        var warn = 7200.0
        /// With `drop`: the slot is dropped when less than this is left, in seconds.
        var drop = 600.0
    }

    typealias LogFormat = Log.Format

    /// One of a few words.
    static func choice<T: CaseIterable & RawRepresentable>(_ node: YAMLNode, _ key: String, text: Text, fail: Fail) throws(ArchiveError) -> T where T.RawValue == String {
        let value = try text(node, key)
        guard let known = T(rawValue: value) else {
            throw fail(node.place, "'\(key)' is '\(value)'", "Write \(T.allCases.map(\.rawValue).joined(separator: " or ")).")
        }
        return known
    }

    /// A duration within a range, in seconds.
    static func duration(_ node: YAMLNode, _ key: String, _ range: ClosedRange<Double>, such example: String, text: Text, fail: Fail) throws(ArchiveError) -> Double {
        let value = try text(node, key)
        guard let seconds = TargetTime.duration(value), range.contains(seconds) else {
            throw fail(node.place, "'\(key)' is '\(value)'", "Write a duration from \(spoken(range.lowerBound)) to \(spoken(range.upperBound)), such as \(example).")
        }
        return seconds
    }

    /// As `duration` reads it, in the largest unit that fits.
    private static func spoken(_ seconds: Double) -> String {
        for (unit, length) in [("d", 86_400.0), ("h", 3600), ("m", 60), ("s", 1)] where seconds >= length && seconds.truncatingRemainder(dividingBy: length) == 0 {
            return "\(Int(seconds / length))\(unit)"
        }
        return "\(Int(seconds * 1000))ms"
    }

    /// `base: { schedule: "0 2 * * *", zone: Europe/Berlin, jitter: 10m }`
    static func base(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> BasePolicy {
        let keys = try fields(node, ["schedule", "zone", "jitter"], "'base'")
        guard let schedule = keys["schedule"] else { throw fail(node.place, "'schedule' of 'base' is missing", "Write when bases are taken, such as schedule: \"0 2 * * *\".") }
        var zone = TimeZone(secondsFromGMT: 0)!
        if let node = keys["zone"] { zone = try Self.zone(node, text: text, fail: fail) }
        let expression = try text(schedule, "schedule")
        let cron: CronSchedule
        do { cron = try CronSchedule(expression, zone: zone) } catch {
            throw fail(schedule.place, "'schedule' is '\(expression)': \(error)", "Write minute, hour, day of the month, month and day of the week in quotes, such as \"0 2 * * *\", or @daily.")
        }
        var policy = BasePolicy(schedule: cron, jitter: 0)
        if let node = keys["jitter"] { policy.jitter = try duration(node, "jitter", 0...86_400, such: "10m", text: text, fail: fail) }
        return policy
    }

    static func zone(_ node: YAMLNode, text: Text, fail: Fail) throws(ArchiveError) -> TimeZone {
        let name = try text(node, "zone")
        guard let known = TimeZone(identifier: name) else { throw fail(node.place, "'\(name)' is not a time zone", "Name one such as Europe/Berlin or UTC.") }
        return known
    }

    /// `keep: { window: 14d, bases: 2 }`
    static func keep(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> KeepPolicy {
        let keys = try fields(node, ["window", "bases"], "'keep'")
        guard let window = keys["window"] else { throw fail(node.place, "'window' of 'keep' is missing", "Write how far back can be restored, such as window: 14d.") }
        var policy = KeepPolicy(window: try duration(window, "window", 0...3_650_000_000, such: "14d", text: text, fail: fail), bases: 2)
        if let node = keys["bases"] {
            let value = try text(node, "bases")
            guard let count = Int(value), (1...10_000).contains(count) else { throw fail(node.place, "'bases' is '\(value)'", "Write how many bases stay whatever their age, at least 1.") }
            policy.bases = count
        }
        return policy
    }

    /// `slot_guard: { policy: hold, warn: 2h, drop: 10m }`
    static func slotGuard(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> SlotSettings {
        let keys = try fields(node, ["policy", "warn", "drop"], "'slot_guard'")
        var settings = SlotSettings()
        if let node = keys["policy"] { settings.policy = try choice(node, "policy", text: text, fail: fail) }
        if let node = keys["warn"] { settings.warn = try duration(node, "warn", 1...31_536_000, such: "2h", text: text, fail: fail) }
        if let node = keys["drop"] {
            guard settings.policy == .drop else { throw fail(node.place, "'drop' goes with 'policy: drop' only", nil) }
            settings.drop = try duration(node, "drop", 1...31_536_000, such: "10m", text: text, fail: fail)
        }
        return settings
    }
}

extension Configuration.Source {
    /// `nil` for a source that has none.
    var slotGuard: Configuration.SlotSettings? {
        if case .postgres(_, _, _, let settings) = kind { settings } else { nil }
    }
}
