/// How much of a copy is in hand at once: so many transfers, and so many bytes of them; one alone may be larger.
actor TransferLimit {
    private var slots: Int
    private var bytes: Int
    private let allBytes: Int
    private var waiting: [(id: UInt64, bytes: Int, continuation: CheckedContinuation<Bool, Never>)] = []
    private var nextID: UInt64 = 0

    /// - Precondition: `slots` is at least 1.
    init(slots: Int, bytes: Int) {
        precondition(slots > 0)
        self.slots = slots
        self.bytes = bytes
        allBytes = bytes
    }

    /// Runs `body` when there is room for `count` bytes, in the order of asking.
    func run<T: Sendable>(_ count: Int, _ body: @Sendable () async throws -> T) async throws -> T {
        let count = min(max(count, 0), allBytes)
        try await enter(count)
        defer { leave(count) }
        return try await body()
    }

    private func enter(_ count: Int) async throws {
        try Task.checkCancellation()
        if waiting.isEmpty, slots > 0, bytes >= count {
            slots -= 1
            bytes -= count
            return
        }
        nextID += 1
        let id = nextID
        let isIn = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                // The cancellation may have come first: then nobody would wake it up.
                if Task.isCancelled { continuation.resume(returning: false) } else { waiting.append((id, count, continuation)) }
            }
        } onCancel: {
            Task { await self.giveUp(id) }
        }
        guard isIn else { throw CancellationError() }
    }

    private func giveUp(_ id: UInt64) {
        guard let i = waiting.firstIndex(where: { $0.id == id }) else { return }
        waiting.remove(at: i).continuation.resume(returning: false)
        admit()
    }

    private func leave(_ count: Int) {
        slots += 1
        bytes += count
        admit()
    }

    private func admit() {
        while let next = waiting.first, slots > 0, bytes >= next.bytes {
            slots -= 1
            bytes -= next.bytes
            waiting.removeFirst().continuation.resume(returning: true)
        }
    }
}
