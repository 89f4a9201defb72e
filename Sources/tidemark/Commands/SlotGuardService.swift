import ArchiveCore
import Glibc
import Runtime
import Sidecar
import Source

/// Watches over what one source keeps for us: forecast, warning, and what the policy says.
struct SlotGuardService: AgentService {
    let name: String
    private let shipment: Shipment
    private let watch: any SourceGuard
    private let context: AgentContext

    /// Seconds between two looks at most while the source is not archived.
    private static let hurry = 3.0
    /// Seconds until a drop that goes on failing is told again.
    private static let repetition = 3600.0

    /// - Returns: one for each source that has something to be watched.
    static func all(_ context: AgentContext) -> [any AgentService] {
        context.shipments.compactMap { shipment in
            guard let source = context.configuration.sources.first(where: { $0.name == shipment.source }),
                let watch = Registry.component(source, of: context.configuration).component.makeGuard()
            else { return nil }
            return SlotGuardService(name: "guard \(shipment.source)", shipment: shipment, watch: watch, context: context)
        }
    }

    func run() async throws {
        var forecast = RoomForecast()
        var policy = SlotPolicy()
        var isBlind = false
        var noted: String?
        // When it was told that the slot cannot be dropped.
        var toldFailure: Double?
        while true {
            try Task.checkCancellation()
            // Two looks make a pace: until then it does not wait long.
            var pause = 10.0
            do {
                let reading = try await watch.look()
                if isBlind { Log(name).info("the slot can be looked at again") }
                isBlind = false
                if let reading {
                    let time = monotonicSeconds()
                    let left = forecast.take(reading, at: time)
                    show(reading, left)
                    if let note = reading.note, note != noted { Log(name).warning("no forecast: \(note)") }
                    noted = reading.note
                    let settings = settings()
                    let drop = settings.policy == .drop ? settings.drop : nil
                    let decision = policy.decide(reading, forecast: left, warn: settings.warn, drop: drop, at: time)
                    if decision == .drop {
                        do {
                            try await giveUp(reading)
                            policy.dropped()
                            forecast = RoomForecast()
                            toldFailure = nil
                        } catch is CancellationError { throw CancellationError() } catch {
                            if toldFailure.map({ time - $0 >= Self.repetition }) ?? true {
                                toldFailure = time
                                tell(
                                    .slotDanger, "The slot '\(reading.name)' has to be dropped and cannot be: \(error)",
                                    "It is tried again at each look. See in pg_stat_replication whether something else receives from it, and end that.")
                            }
                        }
                    } else {
                        act(decision, reading, left)
                    }
                    if !forecast.isYoung { pause = policy.pause(reading, forecast: left) }
                } else {
                    forecast = RoomForecast()
                    context.board.update(shipment.source) { $0.slot = nil }
                }
            } catch is CancellationError { throw CancellationError() } catch {
                if !isBlind { Log(name).warning("\(error) It goes on trying.") }
                isBlind = true
            }
            try await wait(pause)
        }
    }

    /// Waits for the next look: shorter when the source is no longer archived, since then the slot's room goes.
    private func wait(_ seconds: Double) async throws {
        let begun = monotonicSeconds()
        while true {
            let left = (context.isArchiving(shipment.source) ? seconds : min(seconds, Self.hurry)) - (monotonicSeconds() - begun)
            guard left > 0 else { return }
            try await Task.sleep(for: .seconds(min(left, 1)))
        }
    }

    private func settings() -> Configuration.SlotSettings {
        context.configuration.sources.first { $0.name == shipment.source }?.slotGuard ?? Configuration.SlotSettings()
    }

    private func show(_ reading: GuardReading, _ left: Double?) {
        context.board.update(shipment.source) {
            $0.slot = .init(name: reading.name, state: reading.state, retained: reading.retained, room: reading.room, forecast: left)
        }
    }

    private func facts(_ reading: GuardReading) -> String {
        "the slot '\(reading.name)' keeps \(reading.retained >> 20) MiB of WAL, \(reading.room.map { "\($0 >> 20) MiB may follow" } ?? "room unknown")"
    }

    /// What is told; a drop is `giveUp`.
    private func act(_ decision: SlotPolicy.Decision, _ reading: GuardReading, _ left: Double?) {
        switch decision {
        case .none, .drop: break
        case .warn:
            let when = left.map { "used up in \(Self.words($0)) at the pace of late" } ?? "nearly used up"
            tell(
                .slotDanger, "\(facts(reading)), which is \(when).", "Bring the archive's store back, or give PostgreSQL more room; else drop the slot and take a base.")
        case .recovered: tell(.recovered, "The danger is over: \(facts(reading)).", nil)
        case .lost:
            tell(
                .slotDanger, "The slot '\(reading.name)' is lost: PostgreSQL has removed WAL that was not archived.",
                "The agent records the gap when it connects again; take a base then: tidemark backup --source \(shipment.source)")
        }
    }

    private static func words(_ seconds: Double) -> String { seconds < 120 ? "\(Int(seconds)) s" : "\(Int(seconds / 60)) min" }

    /// Lets go of the slot and drops it.
    private func giveUp(_ reading: GuardReading) async throws {
        await shipment.shipping.startOver(
            because: ArchiveError(
                .sourceUnreachable, "The slot '\(reading.name)' was given up before it filled PostgreSQL's disk.",
                remedy: "Bring the archive's store back; then a new slot is made, the gap is recorded, and a base is due."))
        try await watch.release()
        context.board.update(shipment.source) { $0.slot = nil }
        tell(
            .slotDanger, "Dropped: \(facts(reading)).",
            "Bring the archive's store back, then take a base: tidemark backup --source \(shipment.source)")
    }

    private func tell(_ kind: AgentEvent.Kind, _ message: String, _ remedy: String?) {
        if kind == .recovered { Log(name).info(message) } else { Log(name).error([message, remedy].compactMap { $0 }.joined(separator: " ")) }
        context.post(AgentEvent(kind, at: now(), source: shipment.source, message, remedy: remedy))
    }
}

/// Seconds of a clock that never jumps.
private func monotonicSeconds() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) / 1e9
}
