import ArchiveCore

/// What of a source stays and what goes. Pure.
///
/// Whatever can be restored of the times from `now - window` to `now` stays restorable: all bases that were completed in it, for each branch the
/// newest usable one before it, and all log from the first of them on. `policy.bases` usable bases stay whatever their age, and as long as the
/// source has no usable base at all, nothing goes.
///
/// A base that stays keeps all log from it on, also where nothing between it and the next one is wanted: log without a hole is what every
/// reader of the archive expects, what `verify` proves, and what makes each time behind the base reachable.
public struct RetentionPlan: Sendable {
    public enum Reason: Sendable, Hashable {
        case inWindow
        /// The newest usable base before the window: all times from its beginning on are restored with it.
        case windowBegins
        /// One of so many newest usable bases.
        case newest(Int)
        case lastUsable
        case protected(Protection.Kind)
        case locked(Moment)
        /// Another base has content in it.
        case referred(by: String)
        case unreadable
        case noUsableBase
    }
    public struct Kept: Sendable {
        public var base: RetentionView.Base
        /// At least one.
        public var reasons: [Reason]
    }
    /// What happens to the log of one branch.
    public enum LogFate: Sendable, Hashable {
        case all
        /// It stays from this piece on.
        case from(String)
        case none
    }

    public var source: String
    /// The beginning of the window.
    public var start: Moment
    /// Oldest first.
    public var kept: [Kept] = []
    public var removed: [RetentionView.Base] = []
    /// By history and branch; of histories that stay.
    public var log: [String: [UInt32: LogFate]] = [:]
    /// Histories of which nothing stays, oldest first.
    public var removedHistories: [String] = []

    /// Seconds by which clocks may differ without a base before the window being too young for it: as many as plans allow for, but no more
    /// than a tenth of the window.
    private static func margin(_ policy: KeepPolicy) -> Double { min(600, policy.window / 10) }

    /// - Parameter now: for a source that is no longer archived, or whose archive is behind, the time up to which it is known counts instead:
    ///   its window does not run empty while nobody looks, nor when a clock is set ahead.
    public init(_ view: RetentionView, policy: KeepPolicy, protections: [Protection] = [], now: Moment) {
        source = view.source
        let known = view.histories.map(\.latest).max() ?? now
        start = min(now, known).adding(seconds: -policy.window)
        let edge = start.adding(seconds: -Self.margin(policy))
        var reasons = Self.reasons(view, policy, edge: edge, now: now)
        for protection in protections { reasons[protection.base, default: []].append(.protected(protection.kind)) }
        Self.followOrigins(view, &reasons)
        for base in view.bases.sorted(by: { ($0.ready, $0.reference.base) < ($1.ready, $1.reference.base) }) {
            if let reasons = reasons[base.reference], !reasons.isEmpty { kept.append(Kept(base: base, reasons: reasons)) } else { removed.append(base) }
        }
        let newest = view.histories.map(\.number).max()
        let isAnythingUsable = view.bases.contains(where: \.isUsable)
        for history in view.histories {
            let bases = kept.map(\.base).filter { $0.reference.incarnation == history.id }
            if bases.isEmpty, history.number != newest, history.latest < edge, isAnythingUsable { removedHistories.append(history.id) } else {
                log[history.id] = Self.log(of: history, for: bases, isNewest: history.number == newest)
            }
        }
    }

    private static func reasons(_ view: RetentionView, _ policy: KeepPolicy, edge: Moment, now: Moment) -> [BaseReference: [Reason]] {
        var reasons: [BaseReference: [Reason]] = [:]
        func keep(_ base: RetentionView.Base, _ reason: Reason) {
            if !(reasons[base.reference] ?? []).contains(reason) { reasons[base.reference, default: []].append(reason) }
        }
        let numbers = Dictionary(view.histories.map { ($0.id, $0.number) }, uniquingKeysWith: { a, _ in a })
        let usable = view.bases.filter(\.isUsable).sorted {
            (numbers[$0.reference.incarnation] ?? 0, $0.ready, $0.reference.base) < (numbers[$1.reference.incarnation] ?? 0, $1.ready, $1.reference.base)
        }
        guard let last = usable.last else {
            for base in view.bases { keep(base, .noUsableBase) }
            return reasons
        }
        for base in view.bases where base.ready > edge { keep(base, .inWindow) }
        for history in view.histories {
            // A branch whose last commit lies before the window has nothing in it that its successors do not have.
            for (branch, end) in history.ends where end >= edge {
                let before = usable.filter { $0.reference.incarnation == history.id && $0.usableOn.contains(branch) && $0.ready <= edge }
                if let base = before.max(by: { ($0.ready, $0.reference.base) < ($1.ready, $1.reference.base) }) { keep(base, .windowBegins) }
            }
        }
        for base in usable.suffix(policy.bases) { keep(base, .newest(policy.bases)) }
        keep(last, .lastUsable)
        for base in view.bases {
            if let until = base.lockedUntil, until > now { keep(base, .locked(until)) }
            if !base.isReadable { keep(base, .unreadable) }
        }
        return reasons
    }

    /// A base that holds content of one that stays, stays with it.
    private static func followOrigins(_ view: RetentionView, _ reasons: inout [BaseReference: [Reason]]) {
        let bases = Dictionary(view.bases.map { ($0.reference, $0) }, uniquingKeysWith: { a, _ in a })
        var due = view.bases.filter { reasons[$0.reference] != nil }
        while let base = due.popLast() {
            for id in base.origins {
                var reference = base.reference
                reference.base = id
                guard let origin = bases[reference] else { continue }
                if reasons[reference] == nil { due.append(origin) }
                if !(reasons[reference] ?? []).contains(.referred(by: base.reference.base)) { reasons[reference, default: []].append(.referred(by: base.reference.base)) }
            }
        }
    }

    private static func log(of history: RetentionView.History, for bases: [RetentionView.Base], isNewest: Bool) -> [UInt32: LogFate] {
        var fates: [UInt32: LogFate] = [:]
        for branch in history.archived {
            fates[branch] = .all
            // Without a base there may be one soon, and the log of one that cannot be read is not known.
            guard !bases.isEmpty, bases.allSatisfy(\.isReadable) else { continue }
            let record = history.branches.first { $0.branch == branch }
            let ancestors = Set(record?.ancestors.map(\.branch) ?? [])
            // What leads to it begins earlier.
            if bases.contains(where: { ancestors.contains($0.branch) }) { continue }
            let own = bases.filter { $0.branch == branch }
            if !own.isEmpty {
                if !own.contains(where: { $0.firstPiece == nil }), let first = own.compactMap(\.firstPiece).min() { fates[branch] = .from(first) }
                continue
            }
            // The newest is being written. Where it is not known what a branch left, a base may lie on the way to it.
            if branch == history.archived.last { continue }
            if record != nil || bases.allSatisfy({ $0.branch > branch }) { fates[branch] = LogFate.none }
        }
        return fates
    }
}

extension RetentionPlan {
    /// What goes, as an expiry announces it.
    public func record(id: String, at time: Moment, host: String, process: Int32) -> ExpiryRecord {
        var logs: [ExpiryRecord.Log] = []
        for (incarnation, branches) in log.sorted(by: { $0.key < $1.key }) {
            for (branch, fate) in branches.sorted(by: { $0.key < $1.key }) {
                switch fate {
                case .all: break
                case .from(let piece): logs.append(.init(incarnation: incarnation, branch: branch, before: piece))
                case .none: logs.append(.init(incarnation: incarnation, branch: branch, before: nil))
                }
            }
        }
        return ExpiryRecord(
            id: id, started: time, host: host, process: process, source: source, bases: removed.map(\.reference), log: logs, incarnations: removedHistories)
    }
}

extension RetentionPlan.Reason: CustomStringConvertible {
    public var description: String {
        switch self {
        case .inWindow: "within the window"
        case .windowBegins: "the window begins here"
        case .newest(let count): count == 1 ? "the newest usable one" : "one of the \(count) newest usable ones"
        case .lastUsable: "the last usable one"
        case .protected(.hold(let id)): "held by \(id)"
        case .protected(.use(let id, let what, let host)): "in use by the \(what) \(id) on \(host)"
        case .protected(.plan(let id)): "wanted by the saved plan \(id)"
        case .protected(.primary): "the primary still has it"
        case .locked(let until): until.rawValue == .max ? "locked by the store for an unlimited time" : "locked by the store until \(until)"
        case .referred(let id): "the base \(id) refers to it"
        case .unreadable: "its record cannot be read"
        case .noUsableBase: "the source has no usable base"
        }
    }
}
