import ArchiveCore
import Foundation
import Pack
import Store

extension Configuration {
    typealias Fields = (YAMLNode, [String], String) throws(ArchiveError) -> [String: YAMLNode]
    typealias Text = (YAMLNode, String) throws(ArchiveError) -> String
    typealias Fail = (YAMLPlace, String, String?) -> ArchiveError

    /// `encrypt: { recipients: [age1…], identity: FILE }`
    static func encryption(
        _ node: YAMLNode, fields: Fields, text: Text, fail: Fail
    ) throws(ArchiveError) -> (recipients: [String], identities: [String]) {
        let keys = try fields(node, ["recipients", "identity"], "'encrypt'")
        var recipients: [String] = []
        for item in try items(keys["recipients"]) {
            let value = try text(item, "recipients")
            do { _ = try AgeRecipient(value) } catch { throw fail(item.place, String(error.message.dropLast()), error.remedy) }
            guard !recipients.contains(value) else { throw fail(item.place, "'\(value)' is named twice", nil) }
            recipients.append(value)
        }
        var identities: [String] = []
        for item in try items(keys["identity"]) {
            let path = try text(item, "identity")
            guard path.hasPrefix("/") else { throw fail(item.place, "'identity' is not an absolute path", nil) }
            identities.append(path)
        }
        guard !recipients.isEmpty || !identities.isEmpty else {
            throw fail(node.place, "'encrypt' names nobody", "List age public keys in 'recipients'; `age-keygen` makes one.")
        }
        return (recipients, identities)
    }

    /// One value, or several.
    private static func items(_ node: YAMLNode?) throws(ArchiveError) -> [YAMLNode] {
        switch node {
        case nil: []
        case .sequence(let items, _): items
        case .some(let one): [one]
        }
    }

    /// `bandwidth: { upload: 50MB/s, download: …, schedule: [{ days: mon-fri, from: "08:00", to: "18:00", zone: …, upload: … }] }`
    static func bandwidth(_ node: YAMLNode, fields: Fields, text: Text, fail: Fail) throws(ArchiveError) -> BandwidthPlan {
        let keys = try fields(node, ["upload", "download", "schedule"], "'bandwidth'")
        func rate(_ node: YAMLNode?, _ key: String) throws(ArchiveError) -> UInt64? {
            guard let node else { return nil }
            let value = try text(node, key)
            if value == "unlimited" { return nil }
            guard let bytes = Self.bytesPerSecond(value) else {
                throw fail(node.place, "'\(key)' is '\(value)'", "Write bytes a second, from 10kB/s on, such as 50MB/s or 100MiB/s, or unlimited.")
            }
            return bytes
        }
        func limits(_ keys: [String: YAMLNode]) throws(ArchiveError) -> BandwidthPlan.Limits {
            BandwidthPlan.Limits(upload: try rate(keys["upload"], "upload"), download: try rate(keys["download"], "download"))
        }
        var plan = BandwidthPlan(always: try limits(keys))
        guard let schedule = keys["schedule"] else { return plan }
        guard case .sequence(let rules, _) = schedule else { throw fail(schedule.place, "'schedule' takes a list", nil) }
        for item in rules {
            let keys = try fields(item, ["days", "from", "to", "zone", "upload", "download"], "a rule of the schedule")
            func minute(_ key: String) throws(ArchiveError) -> Int {
                guard let node = keys[key] else { throw fail(item.place, "'\(key)' of the rule is missing", "Write a time of day in quotes, such as \"08:00\".") }
                let value = try text(node, key)
                let parts = value.split(separator: ":", omittingEmptySubsequences: false)
                guard parts.count == 2, parts.allSatisfy({ $0.utf8.count == 2 && $0.utf8.allSatisfy { (0x30...0x39).contains($0) } }), let h = Int(parts[0]), let m = Int(parts[1]), m < 60,
                    h * 60 + m <= 1440
                else { throw fail(node.place, "'\(key)' is '\(value)'", "Write a time of day in quotes, such as \"08:00\".") }
                return h * 60 + m
            }
            var zone = TimeZone(secondsFromGMT: 0)!
            if let node = keys["zone"] { zone = try Self.zone(node, text: text, fail: fail) }
            var days = Set(1...7)
            if let node = keys["days"] {
                let value = try text(node, "days")
                guard let some = Self.days(value) else { throw fail(node.place, "'days' is '\(value)'", "Write days such as mon-fri or sat,sun.") }
                days = some
            }
            plan.rules.append(.init(days: days, from: try minute("from"), to: try minute("to"), zone: zone, limits: try limits(keys)))
        }
        return plan
    }

    /// `50MB/s`, `100KiB/s`, `1GB/s`; from 10,000 bytes a second on.
    static func bytesPerSecond(_ text: String) -> UInt64? {
        let units: [(String, UInt64)] = [("kB/s", 1000), ("KiB/s", 1 << 10), ("MB/s", 1_000_000), ("MiB/s", 1 << 20), ("GB/s", 1_000_000_000), ("GiB/s", 1 << 30)]
        guard let unit = units.first(where: { text.hasSuffix($0.0) }) else { return nil }
        let digits = text.dropLast(unit.0.count)
        guard !digits.isEmpty, digits.utf8.count <= 9, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let n = UInt64(digits), n * unit.1 >= 10_000
        else { return nil }
        return n * unit.1
    }

    /// `mon-fri`, `sat,sun`, `mon,wed-fri`: 1 is Monday.
    static func days(_ text: String) -> Set<Int>? {
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        var days: Set<Int> = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { names.firstIndex(of: String($0)) }
            guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1] else { return nil }
            var day = first
            while true {
                days.insert(day + 1)
                if day == last { break }
                day = (day + 1) % 7
            }
        }
        return days
    }
}
