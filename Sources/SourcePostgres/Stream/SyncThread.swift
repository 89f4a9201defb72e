import ArchiveCore
import Runtime
import Synchronization

/// Makes spooled bytes durable on a thread of its own: one flush under way, and at most one more asked for, which takes in
/// everything that was written meanwhile.
final class SyncThread: Sendable {
    private struct State {
        var files: [SpoolFile] = []
        var position: UInt64 = 0
        var asked = false
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
                return (state.files, state.position, state.closing)
            }
            if !files.isEmpty {
                let result = Result { for file in files { try file.syncData() } }
                state.withLock { state in
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
