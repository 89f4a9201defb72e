import ArchiveCore
import Catalog
import DurableIO
import Glibc
import Runtime
import Source

/// Keeps the shipping of one source going: locks it, starts over with growing pauses after failures, until it is stopped.
public actor SourceKeeper {
    private let shipping: Shipping
    private let locks: [String]
    private let output: Log
    private let meter: SourceMeter?
    private var stopping = false
    private var sleeper: Task<Void, Never>?

    /// Seconds between attempts: doubled after each failure, from the first to the last.
    static let pauses = (first: 0.5, last: 30.0)

    public init(shipping: Shipping, locks: [String], output: Log, meter: SourceMeter? = nil) {
        self.meter = meter
        self.shipping = shipping
        self.locks = locks
        self.output = output
    }

    /// Returns when this and the shipping are free to be asked: at once, unless something hangs in them.
    public func answer() async { await shipping.answer() }

    public func stop() async {
        stopping = true
        sleeper?.cancel()
        await shipping.stop()
    }

    /// Whether trying again could only write two histories under one name: somebody has to look.
    private static func isFinal(_ error: any Error) -> Bool { (error as? ArchiveError)?.code == .twoHistories }

    /// Runs until stopped.
    ///
    /// - Throws: `.alreadyRunning` when another process archives the source, `.twoHistories` when it is not the one in the archive.
    public func run() async throws {
        do { try await keep() } catch {
            if !stopping, !Task.isCancelled { meter?.refused(error, at: now()) }
            throw error
        }
        meter?.stopped(at: now())
    }

    private func keep() async throws {
        let held = try await blocking { [locks, source = shipping.source] in try SourceLock(locks, source: source) }
        defer { withExtendedLifetime(held) {} }
        var pause = Self.pauses.first
        while !stopping {
            let begun = ContinuousClock.now
            do {
                try await shipping.run()
                return
            } catch {
                if Task.isCancelled || stopping || Self.isFinal(error) { throw error }
                if ContinuousClock.now - begun > .seconds(60) { pause = Self.pauses.first }
                output.error("\(error) Trying again in \(pause) s.")
                let seconds = pause
                let sleeper = Task {
                    // Ended early by `stop`, which is no failure.
                    do { try await Task.sleep(for: .seconds(seconds)) } catch { return }
                }
                self.sleeper = sleeper
                await withTaskCancellationHandler { await sleeper.value } onCancel: { sleeper.cancel() }
                pause = min(pause * 2, Self.pauses.last)
            }
        }
    }
}

extension Shipping {
    fileprivate func answer() {}
}

/// The locks that keep a second process of this machine away from a source, held as long as this lives.
public final class SourceLock: Sendable {
    private final class Held: Sendable {
        let descriptor: Descriptor
        init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
    }
    private let held: [Held]

    /// - Throws: `.alreadyRunning`.
    public init(_ paths: [String], source: String) throws {
        var held: [Held] = []
        for path in paths {
            let status = try Files.status(path)
            if status == nil { try Files.makeDirectory(Files.parent(of: path)) }
            let isFolder = status.map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
            let descriptor = try isFolder ? Descriptor(path, O_RDONLY | O_DIRECTORY) : Descriptor(path, O_RDWR | O_CREAT, mode: 0o600)
            guard try descriptor.lock() else {
                throw ArchiveError(
                    .alreadyRunning, "Another process archives '\(source)' already: it holds the lock on '\(path)'.",
                    remedy: "Let it run, or stop it first.")
            }
            held.append(Held(descriptor))
        }
        self.held = held
    }

    /// Lets others in now, not only when the last reference to this is gone. Calls `flock`.
    public func release() { for one in held { flock(one.descriptor.raw, LOCK_UN) } }
}
