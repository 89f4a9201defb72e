import ArchiveCore
import ArchiveTesting
import DurableIO
import Glibc
import Runtime
import Testing

@Suite("Threads, queues and children")
struct RuntimeTests {
    @Test("more blocking calls than cores run at once", .timeLimit(.minutes(10)))
    func pool() async throws {
        let gate = Semaphore()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 { group.addTask { try await blocking { gate.wait() } } }
            // Only when all eight wait at the same time can one more call let them go.
            group.addTask { try await blocking { for _ in 0..<8 { gate.signal() } } }
            try await group.waitForAll()
        }
    }

    @Test("a queue hands over in order, holds no more than its limit, and ends", .timeLimit(.minutes(10)))
    func queue() async throws {
        let queue = BoundedQueue<Int>(limit: 2)
        async let given: Bool = blocking {
            for i in 0..<1000 { guard queue.give(i), queue.count <= 2 else { return false } }
            queue.finish()
            return true
        }
        var received: [Int] = []
        while let i = try await queue.receive() { received.append(i) }
        #expect(received == Array(0..<1000))
        #expect(try await given)
        #expect(!queue.give(1))
    }

    @Test("a queue that failed lets its giver go and tells its receiver", .timeLimit(.minutes(10)))
    func failing() async throws {
        let queue = BoundedQueue<Int>(limit: 1)
        #expect(queue.give(1))
        #expect(!queue.give(2, patience: 0.01))
        async let late: Bool = blocking { queue.give(2) }
        queue.finish(ArchiveError(.interrupted, "stop"))
        #expect(try await late == false)
        #expect(try await queue.receive() == 1)
        await #expect(throws: ArchiveError.self) { try await queue.receive() }
    }

    @Test("a child's output and status are collected, however much it prints", .timeLimit(.minutes(10)))
    func child() async throws {
        let result = try await Subprocess(["sh", "-c", "yes | head -c 3000000; yes no | head -c 300000 >&2; exit 7"]).run()
        #expect(result.status == 7)
        #expect(result.output.utf8.count == 1 << 20)
        #expect(result.errors.utf8.count == 300_000)
        let missing = await #expect(throws: ArchiveError.self) { try await Subprocess(["/nonexistent/program"]).run() }
        #expect(missing?.message.contains("/nonexistent/program") == true)
    }

    @Test("a cancelled child is ended", .timeLimit(.minutes(10)))
    func cancelled() async throws {
        // Before it is started, about then, and while it runs.
        for delay in [0, 1, 5, 100] {
            let task = Task { try await Subprocess(["sleep", "600"]).run() }
            try await Task.sleep(for: .milliseconds(delay))
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
    }

    @Test("a durable file appears whole or not at all, and a tree goes without following links")
    func files() throws {
        let directory = try TemporaryDirectory()
        try Files.writeDurably([1, 2], to: directory.path + "/a")
        try Files.writeDurably([3], to: directory.path + "/a")
        #expect(try Files.read(directory.path + "/a") == [3])
        #expect(try Files.names(in: directory.path) == ["a"])
        try Files.makeDirectory(directory.path + "/outside/deep")
        try Files.makeDirectory(directory.path + "/tree")
        #expect(symlink(directory.path + "/outside", directory.path + "/tree/link") == 0)
        try Files.removeTree(directory.path + "/tree")
        #expect(Files.exists(directory.path + "/outside/deep"))
        #expect(!Files.exists(directory.path + "/tree"))
        try Files.removeTree(directory.path + "/tree")
    }

    @Test("a lock is held by one descriptor at a time")
    func locks() throws {
        let directory = try TemporaryDirectory()
        let first = try Descriptor(directory.path, O_RDONLY | O_DIRECTORY)
        #expect(try first.lock())
        #expect(try !Descriptor(directory.path, O_RDONLY | O_DIRECTORY).lock())
        #expect(try first.lock())
    }
}
