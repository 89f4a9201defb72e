import ArchiveCore
import Catalog
import Runtime

/// Runs `body` while this process alone holds a lease of the archive; renews it meanwhile, and lets go of it afterwards.
///
/// - Parameters:
///   - name: of the lease, see `Lease`.
///   - purpose: for people who wait.
///   - isPatient: whether to wait for whoever has it.
///   - waiting: hears each time it was found held.
/// - Throws: `.alreadyRunning` where somebody has it and this does not wait; `.leaseLost` when it could not be kept: then `body` was
///   cancelled; what `body` throws.
public func holdingLease<T: Sendable>(
    _ name: String, for purpose: String, in catalog: Catalog, isPatient: Bool, waiting: @Sendable (LeaseRecord) -> Void = { _ in },
    _ body: @escaping @Sendable () async throws -> T
) async throws -> T {
    // A clock that does not jump, with a beginning that people can read.
    let (begun, start) = (now(), ContinuousClock.now)
    let time: @Sendable () -> Moment = {
        let passed = (ContinuousClock.now - start).components
        return begun.adding(seconds: Double(passed.seconds) + Double(passed.attoseconds) / 1e18)
    }
    var lease = Lease(name, in: catalog)
    var taken = time()
    while case .held(let other) = try await lease.take(for: purpose, at: taken) {
        guard isPatient else {
            throw ArchiveError(
                .alreadyRunning, "\(other.host) (process \(other.process)) has been at it since \(other.since): \(other.purpose).",
                remedy: "Wait for it to end, or leave out --no-wait to have that done.")
        }
        waiting(other)
        try await Task.sleep(for: .seconds(1))
        taken = time()
    }
    let work = Task { try await body() }
    let keeping = Task { [lease, taken] in
        var lease = lease
        // Counted from before a number was written: whoever wants the lease counts from when he saw it, which was later.
        var renewed = taken
        var pause = Lease.renewal
        while true {
            do { try await Task.sleep(for: .seconds(pause)) } catch { return (lease, true) }
            let begun = time()
            let deadline = renewed.adding(seconds: Lease.lifetime - Lease.renewal)
            do {
                // A store that hangs must not carry us past the moment from which on others may take it.
                let answer = try await within(max(0.1, deadline - begun)) { [lease] in
                    var lease = lease
                    let isOurs = try await lease.renew(at: begun)
                    return (lease, isOurs)
                }
                if let answer {
                    lease = answer.0
                    guard answer.1 else {
                        work.cancel()
                        return (lease, false)
                    }
                    renewed = begun
                    pause = Lease.renewal
                    continue
                }
            } catch is CancellationError { return (lease, true) } catch {
                Log(name).warning("the lease could not be renewed yet: \(error)")
            }
            guard time() < deadline else {
                work.cancel()
                return (lease, false)
            }
            pause = min(2, max(0.1, deadline - time()))
        }
    }
    let result = await withTaskCancellationHandler { await work.result } onCancel: { work.cancel() }
    keeping.cancel()
    let (kept, isOurs) = await keeping.value
    guard isOurs else {
        throw ArchiveError(
            .leaseLost, "The lease '\(name)' of the archive could not be renewed in time, so the work was stopped: \(purpose).",
            remedy: "See whether the store answers; it is tried again.")
    }
    // Not cancelled with us.
    let release = Task {
        var lease = kept
        try await lease.release(at: time())
    }
    do { try await release.value } catch { Log(name).warning("the lease could not be given back, and ends by itself within \(Int(Lease.lifetime)) s: \(error)") }
    return try result.get()
}
