import ArchiveCore
import Catalog
import Runtime

/// Keeps bases, and the log behind them, from being expired while somebody reads them: a use in the archive, renewed until it is ended.
public final class UseKeeper: Sendable {
    /// Seconds for which a use holds without being renewed, and between two renewals.
    public static let lifetime = 3600.0
    static let interval = 300.0

    private let catalog: Catalog
    private let record: UseRecord
    private let clock: @Sendable () -> Moment
    private let renewing: Task<Int, Never>

    /// Writes the use down and makes sure that none of the bases is being removed.
    ///
    /// - Parameter note: is told when the use could not be written, as with credentials that only read: nothing is protected then.
    /// - Throws: `.targetUnreachable` when a base is being removed by an expiry, `.alreadyRunning` when one does not decide.
    public static func begin(
        _ what: String, bases: [BaseReference], in catalog: Catalog, owner: LeaseHolder, clock: @escaping @Sendable () -> Moment,
        patience: Double = 60, note: (String) -> Void
    ) async throws -> UseKeeper? {
        let time = clock()
        let record = UseRecord(
            id: time.identifier, what: what, host: owner.host, process: owner.process, started: time, expires: time.adding(seconds: lifetime), bases: bases)
        do { try await catalog.record(record, number: 0) } catch let error as ArchiveError {
            note("what is read is not protected from expiry: its use could not be written down: \(error.message)")
            return nil
        }
        do {
            let lost = try await catalog.lost(of: bases, patience: patience)
            guard let first = lost.min(by: { $0.base < $1.base }) else { return UseKeeper(catalog, record, clock) }
            throw ArchiveError(
                .targetUnreachable, "The base \(first) is being removed by an expiry.", remedy: "Choose a later time; `tidemark window` lists what can be reached.")
        } catch {
            await Task { try? await catalog.removeUse(record.id) }.value
            throw error
        }
    }

    private init(_ catalog: Catalog, _ record: UseRecord, _ clock: @escaping @Sendable () -> Moment) {
        self.catalog = catalog
        self.record = record
        self.clock = clock
        renewing = Task {
            var number = 0
            while true {
                do { try await Task.sleep(for: .seconds(Self.interval)) } catch { return number }
                var renewed = record
                renewed.expires = clock().adding(seconds: Self.lifetime)
                // One that fails is made up for by the next: the use holds for several intervals.
                do {
                    try await catalog.record(renewed, number: number + 1)
                    number += 1
                } catch { if error is CancellationError { return number } }
            }
        }
    }

    /// Ends the use.
    ///
    /// - Parameter seconds: what is read stays for so long, for a recovery that somebody starts later; `nil`: not at all.
    public func end(keepingFor seconds: Double? = nil) async {
        renewing.cancel()
        let number = await renewing.value
        let (catalog, record, clock) = (catalog, record, clock)
        // Also after a cancellation. What cannot be removed ends by itself.
        await Task {
            guard let seconds else { return try? await catalog.removeUse(record.id) }
            var last = record
            last.expires = clock().adding(seconds: seconds)
            return try? await catalog.record(last, number: number + 1)
        }.value
    }
}
