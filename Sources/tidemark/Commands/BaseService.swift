import ArchiveCore
import Catalog
import Planner
import Runtime
import Sidecar
import Synchronization

/// Takes bases by itself: on schedule, after downtime, and when a hole in the log asks for one. One at a time.
final class BaseService: AgentService {
    /// What is known of a source's bases.
    private struct Facts {
        var last: BaseRecord?
        var gapNoticed: Moment?
        var failures = 0
        var lastFailure: Moment?
        var isStaleTold = false
        /// Bases that turned out to lack log.
        var unusable: Set<String> = []
        var refreshed: ContinuousClock.Instant?
        /// Nothing is due before then, as long as nothing else becomes known; `nil`: not looked yet.
        var quietUntil: Moment?
    }

    let name = "base"
    private let context: AgentContext
    private let started = now()
    private let facts: Mutex<[String: Facts]>
    /// Whether a hole was noticed since the last look.
    private let isNews = Mutex(false)

    /// Seconds between two looks at what is due, and between two at what the archive has.
    private static let pauses = (look: 1.0, refresh: 60.0)

    init(_ context: AgentContext) {
        self.context = context
        facts = Mutex([:])
        context.listen { [weak self] event in if event.kind == .gap { self?.isNews.withLock { $0 = true } } }
    }

    func run() async throws {
        while true {
            let isNews = isNews.withLock { news in
                defer { news = false }
                return news
            }
            for source in context.configuration.sources where source.base != nil {
                do {
                    try await refresh(source.name, force: isNews)
                    try await look(source)
                } catch {
                    try Task.checkCancellation()
                    Log(source.name).warning("whether a base is due could not be seen, which is tried again: \(error)")
                    try await Task.sleep(for: .seconds(30))
                }
            }
            try await Task.sleep(for: .seconds(Self.pauses.look))
        }
    }

    private func known(_ source: String) -> Facts { facts.withLock { $0[source] ?? Facts() } }
    private func note(_ source: String, _ change: (inout Facts) -> Void) { facts.withLock { change(&$0[source, default: Facts()]) } }

    private func refresh(_ source: String, force: Bool) async throws {
        if !force, let last = known(source).refreshed, ContinuousClock.now - last < .seconds(Self.pauses.refresh) { return }
        guard let incarnation = try await context.catalog.incarnations(of: source).last else { return }
        let unusable = known(source).unusable
        let last = try await context.catalog.bases(of: incarnation).last { !unusable.contains($0.id) }
        let gap = try await context.catalog.gaps(of: incarnation).map(\.noticed).max()
        note(source) {
            $0.last = last
            $0.gapNoticed = gap
            $0.refreshed = .now
            $0.quietUntil = nil
        }
        context.board.update(source) { status in
            guard let last else { return }
            status.bases.lastID = last.id
            status.bases.lastStarted = last.started
            status.bases.lastBytes = last.bytes
            status.bases.lastWarnings = last.warnings.count
        }
    }

    private func look(_ source: Configuration.Source) async throws {
        let facts = known(source.name)
        let time = now()
        if let quiet = facts.quietUntil, time < quiet { return }
        var decision = BaseDecision(policy: source.base, source: source.name, archive: context.catalog.identity.id, agentStarted: started)
        decision.lastStarted = facts.last?.started
        decision.gapNoticed = facts.gapNoticed
        decision.failures = facts.failures
        decision.lastFailure = facts.lastFailure
        let verdict = decision.verdict(at: time)
        var next: Moment? = time
        if case .wait(let until) = verdict {
            next = until
            note(source.name) { $0.quietUntil = until ?? Moment(rawValue: .max) }
        }
        context.board.update(source.name) { [next] in $0.bases.next = next }
        tellStale(source.name, decision.staleSince(at: time), facts)
        // Only a source that is archived can have a base that is worth something.
        guard case .take(let reason) = verdict, context.isArchiving(source.name) else { return }
        try await take(source, because: reason)
    }

    private func tellStale(_ source: String, _ since: Moment?, _ facts: Facts) {
        guard (since != nil) != facts.isStaleTold else { return }
        note(source) { $0.isStaleTold = since != nil }
        guard since != nil else { return }
        context.post(
            AgentEvent(
                .staleBase, at: now(), source: source, "The newest base of '\(source)' is \(facts.last.map { "of \($0.started)" } ?? "missing"): two scheduled ones were not taken.",
                remedy: "`tidemark status` and the agent's log say why; `tidemark backup --source \(source)` takes one now."))
    }

    private func take(_ source: Configuration.Source, because reason: BaseDecision.Reason) async throws {
        let output = Log(source.name)
        let (kind, component) = Registry.component(source, of: context.configuration)
        let run = BackupRun(source: source.name, kind: kind, snapshots: try component.makeSnapshotSource(), catalog: context.catalog) { _, _, _ in }
        do {
            let result: BackupRun.Result? = try await holdingLease("base", for: "a base of '\(source.name)'", in: context.catalog, isPatient: true) { [self] in
                // Somebody may have taken one while this waited.
                let before = known(source.name).last?.id
                try await refresh(source.name, force: true)
                if known(source.name).last?.id != before { return nil }
                output.info("taking a base: \(reason.words)")
                context.board.update(source.name) { $0.bases.isRunning = true }
                return try await run.run()
            }
            context.board.update(source.name) { $0.bases.isRunning = false }
            guard let result else { return }
            report(result, of: source.name, output)
            try await refresh(source.name, force: true)
        } catch {
            context.board.update(source.name) { $0.bases.isRunning = false }
            try Task.checkCancellation()
            failed(source.name, error, output)
        }
    }

    private func report(_ result: BackupRun.Result, of source: String, _ output: Log) {
        let (base, seconds) = (result.base, result.seconds)
        context.board.update(source) { $0.bases.lastSeconds = seconds }
        guard result.isUsable else {
            note(source) { $0.unusable.insert(base.id) }
            return failed(
                source,
                ArchiveError(
                    .baseUnusable, "The base \(base.id) of '\(source)' cannot be used: the log that it needs has not been archived, or lacks content that it refers to.",
                    remedy: "See whether the agent archives the source; another base is tried."), output)
        }
        note(source) {
            $0.failures = 0
            $0.lastFailure = nil
        }
        context.board.update(source) {
            $0.bases.failures = 0
            $0.bases.lastFailure = nil
        }
        output.info("base \(base.id): \(base.files) files, \(base.bytes) bytes, in \(Output.oneDecimal(seconds)) s")
        for warning in base.warnings { output.warning("base \(base.id): \(warning)") }
        if base.warnings.isEmpty { context.post(AgentEvent(.success, at: now(), source: source, "The base \(base.id) of '\(source)' was taken.")) } else {
            context.post(
                AgentEvent(
                    .degraded, at: now(), source: source, "The base \(base.id) of '\(source)' was taken with \(base.warnings.count) warning\(base.warnings.count == 1 ? "" : "s"): \(base.warnings[0])",
                    remedy: "`tidemark list` shows all of them."))
        }
    }

    private func failed(_ source: String, _ error: any Error, _ output: Log) {
        output.error("the base failed: \(error)")
        note(source) {
            $0.failures += 1
            $0.lastFailure = now()
            $0.quietUntil = nil
        }
        let failures = known(source).failures
        context.board.update(source) {
            $0.bases.failures = failures
            $0.bases.lastFailure = "\(error)"
        }
        let known = error as? ArchiveError
        context.post(AgentEvent(.failure, at: now(), source: source, "A base of '\(source)' failed, \(failures) time\(failures == 1 ? "" : "s") in a row: \(known?.message ?? "\(error)")", remedy: known?.remedy))
    }
}

extension BaseDecision.Reason {
    fileprivate var words: String {
        switch self {
        case .schedule: "it is scheduled"
        case .catchUp: "a scheduled one passed while no agent ran"
        case .first: "there is none yet"
        case .gap: "the log has a hole"
        case .retry: "the last attempt failed"
        }
    }
}

extension AgentContext {
    /// Whether a source's log goes into the archive at this moment.
    func isArchiving(_ source: String) -> Bool { board.snapshot.sources.first { $0.name == source }?.state == .archiving }
}
