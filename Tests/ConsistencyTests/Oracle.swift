import ArchiveCore
import Planner
import Restore

/// What was found out about many plans.
struct Tally {
    var planned = 0
    var refused = 0
    var rows = 0
    var undecided = 0
    /// Rows in a cut whose entry is not: behind a held deletion, not archived yet, by clocks that no fence measured, and else.
    var behindHeld = 0
    var unarchived = 0
    var unmeasured = 0
    /// Bases behind the cut that clocks misjudged which no fence measured.
    var misjudgedBases = 0
    var violations = 0
    /// Deletions in a cut that came later.
    var deletions = 0
    var unmeasuredDeletions = 0
    /// Entries that a cut has against the documented rule, or has not.
    var broken = 0
    /// How far repositories were ahead of the first commit that is out, and how much later than the target an entry was, in nanoseconds.
    var lead: Int64 = 0
    var ahead: Int64 = 0
    /// How much later than the target by its own clock an entry was that is missing.
    var missing: Int64 = 0
    var bothFences = 0
    var problems: [String] = []

    static func += (a: inout Tally, b: Tally) {
        a.planned += b.planned
        a.refused += b.refused
        a.rows += b.rows
        a.undecided += b.undecided
        a.behindHeld += b.behindHeld
        a.unarchived += b.unarchived
        a.unmeasured += b.unmeasured
        a.misjudgedBases += b.misjudgedBases
        a.violations += b.violations
        a.deletions += b.deletions
        a.unmeasuredDeletions += b.unmeasuredDeletions
        a.broken += b.broken
        a.lead = max(a.lead, b.lead)
        a.ahead = max(a.ahead, b.ahead)
        a.missing = max(a.missing, b.missing)
        a.bothFences += b.bothFences
        a.problems += b.problems
    }

    var description: String {
        """
        \(planned) planned, \(refused) refused, \(rows) rows compared, \(bothFences) cuts between two fences, \(undecided) entries undecided; rows without entry: \
        \(violations), \(behindHeld) behind held deletions, \(unarchived) not archived, \(unmeasured) by clocks not measured, \(misjudgedBases) bases misjudged by such; \
        \(deletions) later deletions (\(unmeasuredDeletions) by clocks not measured), \(broken) against the rule; \
        repositories ahead of the first commit out by at most \(lead / 1_000_000) ms, of the target by \(ahead / 1_000_000) ms; missing by \(missing / 1_000_000) ms
        """
    }
}

/// Knows the true order, and judges plans by it.
struct Oracle {
    let world: World
    /// The pack that completes a fence.
    private var packs: [String: Int] = [:]
    private var histories: [UInt32: [Record]] = [:]
    private var decisive: [UInt32: [Record]] = [:]

    init(_ world: World) {
        self.world = world
        for storage in world.storages { for (n, pack) in storage.packs.enumerated() { for fence in pack.fences { packs[fence.id] = n + 1 } } }
        for branch in 1...world.branch {
            let history = world.history(to: branch)
            histories[branch] = history
            decisive[branch] = history.filter(\.isDecisive)
        }
    }

    /// Where the anchor's log must be cut.
    struct Cut {
        var history: [Record]
        var inside: ArraySlice<Record>
        var firstOut: Record?
        var lower: UInt64
        var order: AnchorCut.Order
        var time: Int64
    }

    /// - Parameter start: where the base's window begins: what lies before it is in it.
    func cut(_ target: RecoveryTarget, exclusive: Bool, moment: Moment?, branch: UInt32, window: LogSpan, completed: Moment) -> Cut {
        let history = histories[branch]!
        let decisive = decisive[branch]!
        var exclusive = exclusive
        var position: UInt64?
        switch target {
        case .position(let p): position = p
        case .transaction(let number): position = world.records.first { $0.number == number && $0.kind == .commit }?.start
        case .name(let name): position = world.records.first { $0.subject == name }?.start
        case .fence(let id):
            position = world.storages.flatMap(\.fences).first { $0.record.id == id }?.record.position
            exclusive = true
        case .time, .latest: break
        }
        if case .latest = target { exclusive = false }
        let time = moment?.rawValue ?? 0
        let out = decisive.firstIndex { record in
            if let position { return exclusive ? record.start >= position : record.start > position }
            return record.start >= window.start && (exclusive ? record.time >= time : record.time > time)
        }
        let inside = decisive[..<(out ?? decisive.count)]
        let lower = max(window.end, inside.last?.end ?? 0)
        let last = max(inside.filter { $0.start >= window.start }.map(\.time).max() ?? completed.rawValue, completed.rawValue)
        return Cut(
            history: history, inside: inside, firstOut: out.map { decisive[$0] }, lower: lower, order: position.map { .position(max($0, lower)) } ?? .time(Moment(rawValue: time)),
            time: position == nil ? time : last)
    }

    /// The confirmed fences around a cut by the documented rule.
    func fences(around cut: Cut, of storage: Int) -> (before: Fence?, after: Fence?) {
        let markers = Set(cut.history.filter { $0.kind == .fence }.map(\.subject))
        var before: Fence?
        for fence in world.storages[storage].fences where markers.contains(fence.record.id) {
            let position = fence.record.position
            let isBefore =
                if position <= cut.lower { true } else if let out = cut.firstOut, position > out.start { false } else {
                    switch cut.order {
                    case .time(let time): fence.record.anchorTime <= time
                    case .position(let p): position <= p
                    }
                }
            if !isBefore { return (before, fence) }
            before = fence
        }
        return (before, nil)
    }

    func judge(_ plan: JointPlan, _ target: RecoveryTarget, exclusive: Bool, slack: Int64) -> Tally {
        var tally = Tally()
        tally.planned = 1
        guard let main = plan.plans.first(where: { $0.source == "main" }), let end = main.cuts.first?.end, let window = main.spans.first else {
            tally.problems.append("no plan of the anchor")
            return tally
        }
        let cut = cut(target, exclusive: exclusive, moment: plan.moment, branch: main.branch, window: window, completed: main.base.completed)
        // 1: the commits that are in are those that the rule says.
        let inside = cut.history.filter { $0.isDecisive && $0.end <= end }
        if inside.count != cut.inside.count { tally.problems.append("\(inside.count) commits are in instead of \(cut.inside.count)") }
        // 6: the base holds nothing that is out.
        let fork = world.branches.first { $0.branch == main.branch }?.ancestors.first { $0.branch == window.branch }?.end ?? .max
        if end < window.end || cut.firstOut.map({ $0.start < window.end }) ?? false || window.end > fork { tally.problems.append("the base \(main.base.id) is behind the cut") }
        for part in plan.plans {
            guard let storage = world.storages.indices.first(where: { World.name($0) == part.source }) else { continue }
            judge(part, of: storage, cut, slack: slack, into: &tally)
        }
        return tally
    }

    /// Whether a storage's clocks were measured when a base was taken.
    private func isBaseMeasured(_ base: BaseRecord, _ offset: ClosedRange<Int64>?, _ s: Int) -> Bool {
        guard let truth = world.storages[s].bases.first(where: { $0.completed == base.completed })?.to else { return true }
        return (offset ?? 0...0).contains(world.clock.read(truth) - world.storages[s].clock.read(truth))
    }

    private func judge(_ plan: SourcePlan, of s: Int, _ cut: Cut, slack: Int64, into tally: inout Tally) {
        let storage = world.storages[s]
        guard let precision = plan.precision else {
            tally.problems.append("\(plan.source) was cut without a rule")
            return
        }
        var ends: [Int: UInt64] = [:]
        var windows: [Int: UInt64] = [:]
        for span in plan.spans { windows[Int(span.stream)!] = span.end }
        for (partition, end) in windows { ends[partition] = end }
        for cut in plan.cuts { ends[Int(cut.stream)!] = max(ends[Int(cut.stream)!] ?? 0, cut.end) }
        let held = Set(precision.heldDeletions.map { Int($0.split(separator: "/")[0])! })
        // The fences are those that truly lie around the cut, as far as they are behind the base.
        let firstPack = Int(UInt64(plan.base.firstPiece!, radix: 16)!)
        let around = fences(around: cut, of: s)
        // One before the base is looked for nearby.
        let before = around.before.flatMap { packs[$0.record.id]! >= firstPack || precision.before != nil ? $0 : nil }
        let after = around.after
        // Without a fence between the base and the cut only the clocks order them.
        if before == nil, let after, packs[after.record.id]! < firstPack, !isBaseMeasured(plan.base, precision.offset, s) {
            tally.misjudgedBases += 1
            return
        }
        if precision.before?.id != before?.record.id || precision.after?.id != after?.record.id {
            tally.problems.append(
                "\(plan.source) from pack \(firstPack) is between \(precision.before?.id ?? "-") and \(precision.after?.id ?? "-") instead of \(before?.record.id ?? "-") and \(after?.record.id ?? "-") of \(storage.fences.map { "\($0.record.id)@\($0.record.branch)/\($0.record.position) in \(packs[$0.record.id]!)" }), cut \(cut.lower) to \(cut.firstOut?.start ?? 0), forks \(world.branches.map(\.ancestors))")
            return
        }
        let isBetween = before != nil && after != nil
        if isBetween { tally.bothFences += 1 }
        tally.undecided += precision.undecided
        let hull = precision.offset ?? 0...0
        func isMeasured(_ entry: Entry) -> Bool { hull.contains(entry.anchorTime - entry.time) }
        /// The time of a partition's first entry that is out.
        func firstOut(_ partition: Int) -> Int64 {
            world.index(Place(storage: s, partition: partition, offset: max(1, ends[partition] ?? 1))).map { storage.entries[$0].time } ?? 0
        }
        // 2: every row's entry is in.
        for row in cut.inside {
            for place in row.names where place.storage == s {
                tally.rows += 1
                guard place.offset >= ends[place.partition] ?? 0 else { continue }
                let entry = storage.entries[world.index(place)!]
                if !entry.isArchived {
                    tally.unarchived += 1
                    if after != nil { tally.problems.append("\(plan.source)/\(place.partition)/\(place.offset) is not archived, though a fence follows the cut") }
                } else if held.contains(place.partition) {
                    tally.behindHeld += 1
                } else if isMeasured(entry) || isBetween && !world.options.isHostile {
                    tally.violations += 1
                    tally.missing = max(tally.missing, firstOut(place.partition) - cut.time)
                    if world.options.hasFences {
                        tally.problems.append(
                            "a row of \(row.truth - beginning) names \(plan.source)/\(place.partition)/\(place.offset), which is out: \(entry.anchorTime - cut.time) ns behind the target, offset \(entry.anchorTime - entry.time) in \(hull)")
                    }
                } else {
                    tally.unmeasured += 1
                    tally.missing = max(tally.missing, firstOut(place.partition) - cut.time)
                }
            }
        }
        // 3: nothing that came after the fence behind the cut. 4: all that came before the fence before it.
        if let after {
            for (partition, end) in ends where end > (after.v2[partition] ?? 0) + 1 {
                tally.broken += 1
                tally.problems.append("\(plan.source)/\(partition) goes to \(end), beyond the fence \(after.record.id)")
            }
        }
        if let before {
            for (partition, v) in before.v where (ends[partition] ?? 1) <= v {
                tally.broken += 1
                tally.problems.append("\(plan.source)/\(partition) goes to \(ends[partition] ?? 0), short of the fence \(before.record.id)")
            }
        }
        if let after, packs[after.record.id]! < firstPack { tally.problems.append("the base \(plan.base.id) of \(plan.source) is behind the fence \(after.record.id)") }
        let lastPack = after.map { packs[$0.record.id]! } ?? .max
        var known: [Int: UInt64] = [:]
        var limits: [Int: UInt64] = [:]
        var unsure: Set<Int> = []
        let from = min(firstPack - 1, storage.packs.count)
        let undecided = storage.packs[from..<max(from, min(lastPack, storage.packs.count))].flatMap(\.entries)
        for n in undecided {
            let entry = storage.entries[n]
            let p = entry.place.partition
            let isIn = entry.place.offset < ends[p] ?? 0
            if isIn, let out = cut.firstOut { tally.lead = max(tally.lead, entry.truth - out.truth) }
            guard entry.place.offset > before?.v[p] ?? 0 else { continue }
            if entry.time + hull.lowerBound <= cut.time + slack { limits[p] = entry.place.offset + 1 }
            if isIn, entry.place.offset >= windows[p] ?? 0 { tally.ahead = max(tally.ahead, entry.anchorTime - cut.time) }
            guard entry.flags.contains(.deleted) else { continue }
            if entry.time + hull.upperBound > cut.time || after.map({ entry.place.offset > $0.v[p] ?? 0 }) ?? false { unsure.insert(p) }
            // 5: no deletion that came later, unless what followed it did not.
            if isIn, entry.place.offset >= windows[p] ?? 0 {
                let following = undecided.lazy.map { storage.entries[$0] }.filter {
                    $0.place.partition == p && $0.place.offset >= entry.place.offset && $0.place.offset < ends[p] ?? 0
                }
                if !following.contains(where: { $0.anchorTime <= cut.time }) {
                    if following.allSatisfy(isMeasured) || isBetween && !world.options.isHostile {
                        tally.deletions += 1
                        tally.problems.append("\(plan.source)/\(p)/\(entry.place.offset) deletes \(entry.anchorTime - cut.time) ns behind the target, offset \(entry.anchorTime - entry.time) in \(hull)")
                    } else {
                        tally.unmeasuredDeletions += 1
                    }
                }
            }
        }
        guard before != nil || after != nil else { return }
        known = before?.v ?? [:]
        for p in Set(limits.keys).union(known.keys).union(ends.keys) where !unsure.contains(p) {
            let expected = max(windows[p] ?? 1, max(limits[p] ?? 1, (known[p] ?? 0) + 1))
            if expected != ends[p] ?? 1 {
                tally.broken += 1
                tally.problems.append("\(plan.source)/\(p) goes to \(ends[p] ?? 1); by the rule it goes to \(expected)")
            }
        }
    }

    /// Whether a time could be refused: no base that is clearly older, or an archive that is not clearly complete.
    func mayRefuse(_ time: Moment, exclusive: Bool) -> Bool {
        let branch = world.branch
        let path = Set(world.branches.last?.ancestors.map(\.branch) ?? []).union([branch])
        guard time.rawValue <= world.anchorWatermark else { return true }
        let usable = world.anchorBases.filter { base in
            let fork = world.branches.last?.ancestors.first { $0.branch == base.branch }?.end ?? .max
            return path.contains(base.branch) && base.begun <= time && base.completed <= time && base.windows[0].end <= fork
        }
        let cuts = usable.map { cut(.time(time), exclusive: exclusive, moment: time, branch: branch, window: $0.windows[0], completed: $0.completed) }
        guard let n = cuts.indices.last(where: { n in cuts[n].firstOut.map { $0.start >= usable[n].windows[0].end } ?? true }) else { return true }
        let certain = 12 * second
        for s in world.storages.indices {
            let storage = world.storages[s]
            let around = fences(around: cuts[n], of: s)
            let hasBase = storage.bases.contains { base in
                base.completed.rawValue + certain <= time.rawValue || around.before.map { base.to < $0.asked && packs[$0.record.id]! >= Int(UInt64(base.firstPiece, radix: 16)!) } ?? false
            }
            if !hasBase { return true }
            if around.after == nil, storage.watermark < time.rawValue + certain { return true }
        }
        return false
    }
}
