/// What a configuration that was read again changes in an agent that runs.
struct ConfigurationChange: Sendable {
    /// What the agent goes on with: the new one, but for what needs a restart.
    let result: Configuration
    /// Keys that take effect at once, as they are written.
    let applied: [String]
    /// Keys that changed in the file and stay as they were until the agent is started again.
    let pending: [String]

    init(from old: Configuration, to new: Configuration) {
        var result = new
        var applied: [String] = []
        var pending: [String] = []
        func compare<T: Equatable>(_ key: String, _ value: KeyPath<Configuration, T>) {
            if old[keyPath: value] != new[keyPath: value] { applied.append(key) }
        }
        func keep<T: Equatable>(_ key: String, _ value: WritableKeyPath<Configuration, T>) {
            guard old[keyPath: value] != new[keyPath: value] else { return }
            if !pending.contains(key) { pending.append(key) }
            result[keyPath: value] = old[keyPath: value]
        }
        compare("bandwidth", \.bandwidth)
        compare("rpo", \.objective)
        compare("log", \.logFormat)
        if old.checks.map(\.source) != new.checks.map(\.source) || old.checks.map(\.query) != new.checks.map(\.query) { applied.append("checks") }
        keep("archive", \.archive)
        keep("copies", \.copies)
        keep("encrypt", \.recipients)
        keep("encrypt", \.identities)
        keep("state", \.state)
        keep("tail", \.tail)
        keep("listen", \.listen)
        keep("notify", \.notify)
        // The sources stay the ones that are archived, in their order; their schedules and retention are the new ones.
        result.sources = old.sources.map { source in
            guard let other = new.sources.first(where: { $0.name == source.name }) else {
                pending.append("source '\(source.name)' (removed)")
                return source
            }
            var kept = source
            if case .postgres(let conninfo, let slot, let ack, let before) = source.kind, case .postgres(_, _, _, let after) = other.kind, before != after {
                applied.append("slot_guard of '\(source.name)'")
                kept.kind = .postgres(conninfo: conninfo, slot: slot, ack: ack, slotGuard: after)
            }
            if other.kind != kept.kind { pending.append("source '\(source.name)'") }
            if other.base != source.base { applied.append("base of '\(source.name)'") }
            if other.keep != source.keep { applied.append("keep of '\(source.name)'") }
            kept.base = other.base
            kept.keep = other.keep
            return kept
        }
        for source in new.sources where !old.sources.contains(where: { $0.name == source.name }) { pending.append("source '\(source.name)' (added)") }
        self.result = result
        self.applied = applied
        self.pending = pending
    }

    /// One sentence each for the log, the first of them information, the second a warning.
    var report: (information: String, warning: String?) {
        (
            applied.isEmpty ? "the configuration was read again: nothing that takes effect now changed"
                : "the configuration was read again; now in force: \(applied.joined(separator: ", "))",
            pending.isEmpty ? nil : "what changed of \(pending.joined(separator: ", ")) needs a restart, and stays as it was until then"
        )
    }
}
