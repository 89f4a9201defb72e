import ArchiveCore
import Lag
import Sidecar

/// What is known of an agent as Prometheus' metrics; docs/metrics.md lists them. Pure.
public enum Metrics {
    /// Bounds of the lag's histogram in seconds: whole doublings of a millisecond, which are bounds of `LagHistogram` too, so that counts are exact.
    public static let lagBounds = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 26].map { LagHistogram.bound(of: $0 * Int(LagHistogram.resolution)) }

    public static func text(_ snapshot: StatusBoard.Snapshot, _ process: ProcessFigures) -> String {
        var text = MetricsText()
        agent(snapshot, into: &text)
        shipping(snapshot.sources, into: &text)
        bases(snapshot.sources, into: &text)
        slots(snapshot.sources, into: &text)
        notifications(snapshot.notifications, into: &text)
        self.process(process, into: &text)
        return text.text
    }

    private static func agent(_ snapshot: StatusBoard.Snapshot, into text: inout MetricsText) {
        text.family("tidemark_build_info", .gauge, "Always 1; the label tells the agent's version.", [([("version", snapshot.version)], 1)])
        text.single("tidemark_archive_up", .gauge, "1 while the archive answers, else 0; missing before it was asked.", isUp(snapshot).map { $0 ? 1 : 0 })
        text.single("tidemark_archive_answered_timestamp_seconds", .gauge, "When the archive answered last.", seconds(snapshot.archiveAnswered))
        text.single("tidemark_rpo_objective_seconds", .gauge, "Seconds of commits that may be lost at most.", snapshot.objective)
        text.single("tidemark_configuration_loaded_timestamp_seconds", .gauge, "When the configuration in force was read.", seconds(snapshot.configurationLoaded))
        text.single("tidemark_configuration_reload_failed", .gauge, "1 when the newest reload was refused, else 0.", snapshot.lastReloadError == nil ? 0 : 1)
    }

    private static func isUp(_ snapshot: StatusBoard.Snapshot) -> Bool? {
        snapshot.archiveProblem == nil ? (snapshot.archiveAnswered == nil ? nil : true) : false
    }

    private static func labels(_ source: SourceStatus) -> MetricsText.Labels { [("source", source.name), ("kind", source.kind)] }

    private static func seconds(_ moment: Moment?) -> Double? { moment.map { Double($0.rawValue) / 1e9 } }

    private static func shipping(_ sources: [SourceStatus], into text: inout MetricsText) {
        func each(_ name: String, _ kind: MetricsText.Kind, _ help: String, _ value: (SourceStatus) -> Double?) {
            text.family(name, kind, help, sources.map { (labels($0), value($0)) })
        }
        text.family(
            "tidemark_source_state", .gauge, "1 for the state that the source is in, 0 for the others.",
            sources.flatMap { source in SourceStatus.State.allCases.map { (labels(source) + [("state", $0.rawValue)], source.state == $0 ? 1 : 0) } })
        each("tidemark_source_state_since_timestamp_seconds", .gauge, "When the source came into its state.") { seconds($0.since) }
        let stages = sources.flatMap { source in LagRow.Stage.allCases.map { (labels(source) + [("stage", $0.rawValue)], source.backlog[$0]) } }
        text.family("tidemark_backlog_seconds", .gauge, "Age of the oldest commit that the stage lacks; 0: it has all.", stages.map { ($0.0, $0.1?.seconds) })
        text.family(
            "tidemark_backlog_bytes", .gauge, "Bytes of log that the stage lacks and the one before it has.", stages.map { ($0.0, $0.1?.bytes.map { Double($0) }) })
        each("tidemark_watermark_timestamp_seconds", .gauge, "Everything committed up to this time is archived.") { seconds($0.watermark) }
        each("tidemark_rpo_missed", .gauge, "1 while the source is further behind than the objective, else 0.") { $0.isObjectiveMissed ? 1 : 0 }
        each("tidemark_pieces_archived_total", .counter, "Pieces of log that were stored.") { Double($0.pieces) }
        each("tidemark_stored_bytes_total", .counter, "Bytes that log took in the archive, packed.") { Double($0.bytesStored) }
        each("tidemark_commits_archived_total", .counter, "Commits that were stored.") { Double($0.commits) }
        each("tidemark_gaps_total", .counter, "Holes in the log that were noticed.") { Double($0.gaps) }
        each("tidemark_failures_total", .counter, "Failures of archiving the source; each is tried again.") { Double($0.failures) }
        text.histogram(
            "tidemark_archive_lag_seconds", "Seconds from a commit until it was archived.",
            sources.map { source in
                (labels(source), lagBounds.map { ($0, source.lag.weight(upTo: $0)) }, source.lag.total, source.lag.sum)
            })
    }

    private static func bases(_ sources: [SourceStatus], into text: inout MetricsText) {
        func each(_ name: String, _ help: String, _ value: (SourceStatus.Bases) -> Double?) {
            text.family(name, .gauge, help, sources.map { (labels($0), value($0.bases)) })
        }
        each("tidemark_base_last_start_timestamp_seconds", "When the newest usable base was begun.") { seconds($0.lastStarted) }
        each("tidemark_base_last_duration_seconds", "How long the newest usable base took.") { $0.lastSeconds }
        each("tidemark_base_last_size_bytes", "Bytes of files in the newest usable base.") { $0.lastBytes.map { Double($0) } }
        each("tidemark_base_last_warnings", "Warnings of the newest usable base.") { $0.lastWarnings.map { Double($0) } }
        each("tidemark_base_next_timestamp_seconds", "When the next base is due.") { seconds($0.next) }
        each("tidemark_base_running", "1 while a base is taken, else 0.") { $0.isRunning ? 1 : 0 }
        each("tidemark_base_failed_attempts", "Attempts at a base that failed since the last success.") { Double($0.failures) }
    }

    private static func slots(_ sources: [SourceStatus], into text: inout MetricsText) {
        let slots = sources.compactMap { source in source.slot.map { (labels(source) + [("slot", $0.name)], $0) } }
        text.family("tidemark_slot_retained_bytes", .gauge, "Bytes of WAL that the server keeps for the slot.", slots.map { ($0.0, Double($0.1.retained)) })
        text.family(
            "tidemark_slot_room_bytes", .gauge, "Bytes that can still be written before the slot is lost or the disk is full.", slots.map { ($0.0, $0.1.room.map { Double($0) }) })
        text.family("tidemark_slot_forecast_seconds", .gauge, "Seconds until the room is used up at the pace of late.", slots.map { ($0.0, $0.1.forecast) })
        text.family("tidemark_slot_info", .gauge, "Always 1; the label tells PostgreSQL's wal_status.", slots.map { ($0.0 + [("state", $0.1.state)], 1) })
    }

    private static func notifications(_ recipients: [RecipientStatus], into text: inout MetricsText) {
        func each(_ name: String, _ kind: MetricsText.Kind, _ help: String, _ value: (RecipientStatus) -> Double) {
            text.family(name, kind, help, recipients.map { ([("recipient", $0.name)], value($0)) })
        }
        each("tidemark_notifications_sent_total", .counter, "Notifications that were delivered.") { Double($0.sent) }
        each("tidemark_notifications_failed_total", .counter, "Notifications that were given up.") { Double($0.failed) }
        each("tidemark_notifications_waiting", .gauge, "Notifications that wait to be delivered.") { Double($0.waiting) }
    }

    /// Names as every client library of Prometheus has them.
    private static func process(_ figures: ProcessFigures, into text: inout MetricsText) {
        func number(_ value: UInt64?) -> Double? { value.map { Double($0) } }
        text.single("process_cpu_seconds_total", .counter, "User and system time of the agent.", figures.cpuSeconds)
        text.single("process_resident_memory_bytes", .gauge, "Memory that is resident.", number(figures.residentBytes))
        text.single("process_virtual_memory_bytes", .gauge, "Memory that is mapped.", number(figures.virtualBytes))
        text.single("process_open_fds", .gauge, "Open files and sockets.", number(figures.openFiles))
        text.single("process_max_fds", .gauge, "Files and sockets that may be open.", number(figures.maximumFiles))
        text.single("process_threads", .gauge, "Threads.", number(figures.threads))
        text.single("process_start_time_seconds", .gauge, "When the agent was started.", figures.startTime)
    }
}
