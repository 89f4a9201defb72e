import ArchiveCore
import Runtime
import Synchronization

/// Makes spooled bytes durable on a thread of its own: one flush under way, and at most one more asked for, which takes in
/// everything that was written meanwhile. While it has nothing to do, whoever would wait for it flushes by himself, which spares two
/// changes of threads.
final class SyncThread: Sendable {
    private struct State {
        var files: [SpoolFile] = []
        var position: UInt64 = 0
        var asked = false
        var busy = false
        var closing = false
        var failure: (any Error)?
        var done: UInt64 = 0
    }
    private let state = Mutex(State())
    private let work = Semaphore()
    private let ended = Semaphore()
    private let notify: @Sendable () -> Void

    /// - Parameter notify: called after every flush, and when one failed.
    init(notify: @escaping @Sendable () -> Void) {
        self.notify = notify
        startThread { [self] in
            loop()
            ended.signal()
        }
    }

    /// Everything written to `file` up to `position` shall become durable, after all that was asked before.
    func ask(_ file: SpoolFile, position: UInt64) {
        let wake = state.withLock { state in
            if state.files.last !== file { state.files.append(file) }
            state.position = position
            defer { state.asked = true }
            return !state.asked
        }
        if wake { work.signal() }
    }

    /// Begins anew at a position, which may lie before what was made durable: nothing behind it counts. Nothing may be under way.
    func restart(at position: UInt64) { state.withLock { $0.done = position } }

    /// Makes everything written to `file` up to `position` durable on the calling thread, the one that asks. Blocks.
    ///
    /// - Returns: `false` when a flush is asked for or under way.
    func flushHere(_ file: SpoolFile, position: UInt64) throws -> Bool {
        guard state.withLock({ !$0.asked && !$0.busy && $0.failure == nil }) else { return false }
        try file.syncData()
        state.withLock { $0.done = position }
        return true
    }

    /// The first position that is not durable yet, as far as was asked. - Throws: what a flush failed with.
    func durable() throws -> UInt64 {
        try state.withLock { state in
            if let failure = state.failure { throw failure }
            return state.done
        }
    }

    func close() {
        state.withLock { $0.closing = true }
        work.signal()
        ended.wait()
    }

    private func loop() {
        while true {
            work.wait()
            let (files, position, closing) = state.withLock { state in
                defer {
                    state.files = []
                    state.asked = false
                }
                state.busy = !state.files.isEmpty
                return (state.files, state.position, state.closing)
            }
            if !files.isEmpty {
                let result = Result { for file in files { try file.syncData() } }
                state.withLock { state in
                    state.busy = false
                    switch result {
                    case .success: state.done = position
                    case .failure(let error): state.failure = error
                    }
                }
                notify()
                if case .failure = result { return }
            }
            if closing { return }
        }
    }
}
