import ArchiveCore
import Catalog
import Runtime
import Sidecar
import Source

/// Watches how far the archive is behind each source, and records it in the archive. Never in the way of the shipping.
struct LagService: AgentService {
    let name = "rpo"
    let context: AgentContext
    let sources: [(monitor: SourceMonitor, shipping: Shipping)]

    /// Seconds between two looks at a source, and between two looks for rows that are full.
    private static let pace = (look: 1.0, record: 5.0)
    /// Seconds between two times that rows of the past are put together, and that it is asked whether a base mended a hole.
    private static let upkeep = (compaction: 3600.0, mending: 30.0)

    func run() async throws {
        await withDiscardingTaskGroup { group in
            for (monitor, shipping) in sources {
                group.addTask { await look(monitor, shipping) }
                group.addTask { await record(monitor) }
            }
        }
    }

    private func look(_ monitor: SourceMonitor, _ shipping: Shipping) async {
        repeat {
            monitor.setObjective(context.configuration.objective)
            monitor.sample(await shipping.progress(), at: now())
        } while await pause(Self.pace.look)
    }

    private func record(_ monitor: SourceMonitor) async {
        let (catalog, source) = (context.catalog, monitor.source)
        let output = Log(source)
        let recorder = LagRecorder(source: source, output: output) { try await catalog.record($0, of: source) }
        var compacted: ContinuousClock.Instant?
        var asked = ContinuousClock.now
        while await pause(Self.pace.record) {
            await recorder.record(monitor.takeRows())
            if ContinuousClock.now - asked > .seconds(Self.upkeep.mending) {
                asked = .now
                await mend(monitor)
            }
            guard compacted.map({ ContinuousClock.now - $0 > .seconds(Self.upkeep.compaction) }) ?? true, await recorder.waiting == 0 else { continue }
            compacted = .now
            do { try await catalog.compactLag(of: source, at: now()) } catch is CancellationError {} catch {
                output.warning("records of lag could not be put together, which is tried again in an hour: \(error)")
            }
        }
        // The agent ends: what was measured since the last full minute. Not cancelled with us.
        await Task { await recorder.record(monitor.takeRows(all: true)) }.value
    }

    private func mend(_ monitor: SourceMonitor) async {
        guard let (incarnation, gaps) = monitor.openGaps else { return }
        do {
            if try await context.catalog.openGaps(of: incarnation, among: gaps).isEmpty { monitor.mended(gaps, at: now()) }
        } catch is CancellationError {} catch {
            Log(monitor.source).warning("whether a base lies behind the hole in the log could not be found out, which is tried again: \(error)")
        }
    }

    /// - Returns: `false` once the agent ends.
    private func pause(_ seconds: Double) async -> Bool {
        do { try await Task.sleep(for: .seconds(seconds)) } catch { return false }
        return true
    }
}
