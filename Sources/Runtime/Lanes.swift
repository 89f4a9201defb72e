import ArchiveCore
import CSystem
import Glibc
import Synchronization

/// Runs blocking calls on threads of their own, so that Swift's cooperative pool, as wide as the cores, never waits for a disk
/// or a socket. Threads are made when needed and kept; at most `limit` run at once.
public final class BlockingPool: Sendable {
    public static let shared = BlockingPool(limit: 32)

    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var idle = 0
        var threads = 0
    }
    private let state = Mutex(State())
    private let ready = Semaphore()
    private let limit: Int

    /// - Precondition: `limit` is at least 1.
    public init(limit: Int) {
        precondition(limit > 0)
        self.limit = limit
    }

    /// Runs `body` on a thread of the pool and waits for it. Does not look at cancellation: `body` must end by itself.
    public func run<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            submit { continuation.resume(with: Result(catching: body)) }
        }
    }

    private func submit(_ job: @escaping @Sendable () -> Void) {
        let grow = state.withLock { state in
            state.jobs.append(job)
            guard state.idle < state.jobs.count, state.threads < limit else { return false }
            state.threads += 1
            return true
        }
        ready.signal()
        if grow {
            startThread { [self] in
                while true {
                    state.withLock { $0.idle += 1 }
                    ready.wait()
                    let job = state.withLock { state in
                        state.idle -= 1
                        return state.jobs.isEmpty ? nil : state.jobs.removeFirst()
                    }
                    job?()
                }
            }
        }
    }
}

/// Runs `body` on the shared pool of blocking threads.
public func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await BlockingPool.shared.run(body)
}

/// Starts a detached thread. Calls `pthread_create`.
public func startThread(_ body: @escaping @Sendable () -> Void) {
    final class Box { let body: @Sendable () -> Void; init(_ body: @escaping @Sendable () -> Void) { self.body = body } }
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
    pthread_attr_setstacksize(&attributes, 1 << 20)
    defer { pthread_attr_destroy(&attributes) }
    var thread = pthread_t()
    let result = pthread_create(&thread, &attributes, { argument in
        Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
    }, Unmanaged.passRetained(Box(body)).toOpaque())
    precondition(result == 0, "the system refused a thread: error \(result)")
}

/// A counting semaphore of POSIX. Waiting blocks its thread: never use it from `async` code.
public final class Semaphore: @unchecked Sendable {  // sem_t is made to be shared; it is never moved
    private let handle: UnsafeMutablePointer<sem_t>

    public init(_ value: UInt32 = 0) {
        handle = .allocate(capacity: 1)
        sem_init(handle, 0, value)
    }

    deinit {
        sem_destroy(handle)
        handle.deallocate()
    }

    public func signal() { sem_post(handle) }
    public func wait() { while sem_wait(handle) != 0 {} }

    /// - Returns: `false` when `seconds` passed first.
    public func wait(seconds: Double) -> Bool {
        var deadline = timespec()
        clock_gettime(CLOCK_REALTIME, &deadline)
        let total = Double(deadline.tv_nsec) + seconds * 1e9
        deadline.tv_sec += Int(total / 1e9)
        deadline.tv_nsec = Int(total.truncatingRemainder(dividingBy: 1e9))
        while sem_timedwait(handle, &deadline) != 0 { if errno == ETIMEDOUT { return false } }
        return true
    }
}

/// A queue of at most `limit` elements between threads and tasks; the giver waits when it is full.
public final class BoundedQueue<Element: Sendable>: Sendable {
    private struct State {
        var elements: [Element] = []
        var receivers: [CheckedContinuation<Element?, any Error>] = []
        var finished = false
        var failure: (any Error)?
    }
    private let state = Mutex(State())
    private let room: Semaphore

    /// - Precondition: `limit` is at least 1.
    public init(limit: Int) {
        precondition(limit > 0)
        room = Semaphore(UInt32(limit))
    }

    /// Gives one element, waiting for room up to `patience` seconds (`nil`: for ever). Blocks: for threads only.
    ///
    /// - Returns: `false` when there was no room in time, or the queue was finished.
    public func give(_ element: Element, patience: Double? = nil) -> Bool {
        if let patience { guard room.wait(seconds: patience) else { return false } } else { room.wait() }
        let receiver: CheckedContinuation<Element?, any Error>?? = state.withLock { state in
            if state.finished { return .none }
            if !state.receivers.isEmpty { return .some(state.receivers.removeFirst()) }
            state.elements.append(element)
            return .some(nil)
        }
        guard let receiver else {
            room.signal()
            return false
        }
        if let receiver {
            room.signal()
            receiver.resume(returning: element)
        }
        return true
    }

    /// Ends the queue: what is in it is still received, then `nil`, or `failure`. Givers in waiting are let go.
    public func finish(_ failure: (any Error)? = nil) {
        let receivers = state.withLock { state in
            guard !state.finished else { return [CheckedContinuation<Element?, any Error>]() }
            state.finished = true
            state.failure = failure
            defer { state.receivers = [] }
            return state.receivers
        }
        for receiver in receivers { if let failure { receiver.resume(throwing: failure) } else { receiver.resume(returning: nil) } }
        room.signal()
    }

    /// Waits for the next element; `nil` when the queue was finished and is empty.
    public func receive() async throws -> Element? {
        try await withCheckedThrowingContinuation { continuation in
            let answer: Result<Element?, any Error>? = state.withLock { state in
                if !state.elements.isEmpty { return .success(state.elements.removeFirst()) }
                if state.finished { return state.failure.map { .failure($0) } ?? .success(nil) }
                state.receivers.append(continuation)
                return nil
            }
            guard let answer else { return }
            if case .success(.some) = answer { room.signal() }
            continuation.resume(with: answer)
        }
    }

    public var count: Int { state.withLock { $0.elements.count } }
}

/// Sees to it that memory which was freed goes back to the system: glibc otherwise keeps blocks as large as the largest that it has seen
/// freed. To be called first thing. Calls `mallopt`.
public func returnFreedMemory() { tidemark_return_memory() }

/// The time of day, from the system's clock.
public func now() -> Moment {
    var t = timespec()
    clock_gettime(CLOCK_REALTIME, &t)
    return Moment(nanoseconds: Int64(t.tv_sec) * 1_000_000_000 + Int64(t.tv_nsec))
}
