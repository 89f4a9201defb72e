import ArchiveCore
import ArchiveTesting
import DurableIO
import Foundation
import Runtime
import Sidecar
import Store
import Synchronization
import Testing

@testable import Notify

@Suite("Notifications on their way")
struct NotifierTests {
    private let origin = Origin(host: "db1", archive: "file:///a", version: "1")
    private func event(_ n: Int, _ kind: AgentEvent.Kind = .recovered) -> AgentEvent { AgentEvent(kind, at: now(), source: "s\(n)", "event \(n)") }
    /// Sleeps that end at once: a second passes for each that is asked for.
    private func quick() -> Pacing {
        let clock = Mutex(0.0)
        let shared = Box(clock)
        return Pacing(
            random: { 0.5 },
            sleep: { seconds in
                try Task.checkCancellation()
                shared.clock.withLock { $0 += seconds }
                try await Task.sleep(for: .milliseconds(1))
            }, seconds: { shared.clock.withLock { $0 } })
    }
    private final class Box: Sendable {
        let clock: Mutex<Double>
        init(_ clock: consuming Mutex<Double>) { self.clock = clock }
    }
    private final class Seen: Sendable {
        let events = Mutex<[String]>([])
        let status = Mutex<[Int: RecipientStatus]>([:])
        func add(_ text: String) { events.withLock { $0.append(text) } }
        func until(_ done: @escaping @Sendable (Seen) -> Bool) async throws {
            while !done(self) { try await Task.sleep(for: .milliseconds(5)) }
        }
    }
    private func recipient() throws -> Recipient {
        Recipient(.webhook(try #require(Webhook("http://h/x"))), kinds: Set(AgentEvent.Kind.allCases), limit: .init(count: 1000, period: 60))
    }

    @Test("they arrive in order, tried again after failures, and one recipient's trouble is not another's")
    func order() async throws {
        let seen = Seen()
        let failures = Mutex(3)
        let box = FailureCount(failures)
        let notifier = Notifier(
            [try recipient(), Recipient(.command(["/x"]), kinds: [.recovered], limit: .init(count: 1000, period: 60))], pacing: quick(),
            report: { index, status in seen.status.withLock { $0[index] = status } }
        ) { recipient, notice in
            if case .command = recipient.channel { throw ArchiveError(.notificationRefused, "No.") }
            if box.take() { throw ArchiveError(.notificationFailed, "Not now.") }
            seen.add(notice.event.message)
        }
        let run = Task { await notifier.run() }
        for n in 0..<20 { notifier.post(event(n)) }
        try await seen.until { seen in seen.events.withLock { $0.count == 20 } && seen.status.withLock { $0[1]?.failed == 20 && $0[0]?.sent == 20 } }
        #expect(seen.events.withLock { $0 } == (0..<20).map { "event \($0)" })
        run.cancel()
        await run.value
    }

    private final class FailureCount: Sendable {
        private let left: Mutex<Int>
        init(_ left: consuming Mutex<Int>) { self.left = left }
        func take() -> Bool { left.withLock { $0 -= 1; return $0 >= 0 } }
    }

    @Test("what waits when the agent stops is still tried; one that hangs is left after the grace")
    func stop() async throws {
        let seen = Seen()
        let notifier = Notifier([try recipient()], pacing: .real) { _, notice in seen.add(notice.event.message) }
        for n in 0..<3 { notifier.post(event(n)) }
        let run = Task { await notifier.run() }
        run.cancel()
        await run.value
        #expect(seen.events.withLock { $0.count } == 3)
        notifier.post(event(3))
        #expect(seen.events.withLock { $0.count } == 3)

        let hanging = Notifier([try recipient()]) { _, _ in try await Task.sleep(for: .seconds(100_000)) }
        hanging.post(event(0))
        let other = Task { await hanging.run(grace: 0.1) }
        other.cancel()
        await other.value
    }

    @Test("no more than a thousand wait")
    func bounded() async throws {
        let seen = Seen()
        let gate = AsyncStream.makeStream(of: Void.self)
        let notifier = Notifier(
            [Recipient(.command(["/x"]), kinds: [.recovered], limit: .init(count: 1000, period: 0.000_001))],
            report: { index, status in seen.status.withLock { $0[index] = status } }
        ) { _, notice in
            for await _ in gate.stream {}
            seen.add(notice.event.message)
        }
        for n in 0..<1500 { notifier.post(event(n)) }
        #expect(seen.status.withLock { $0[0]?.waiting == 1000 && $0[0]?.failed == 500 })
        gate.continuation.finish()
        let run = Task { await notifier.run() }
        try await seen.until { seen in seen.events.withLock { $0.last == "event 1499" } }
        run.cancel()
        await run.value
        #expect(seen.events.withLock { $0.first } == "event 500")
    }

    @Test("a webhook is posted to; what it answers decides", arguments: [(204, nil), (500, true), (429, true), (404, false), (302, false)] as [(Int, Bool?)])
    func webhook(_ status: Int, _ mayPass: Bool?) async throws {
        let seen = Seen()
        let server = try LoopbackServer { connection in
            guard let head = connection.head(), let body = connection.read(exactly: head.length) else { return }
            seen.add("\(head.start) \(head["x-tidemark-signature"] ?? "") \(String(decoding: body, as: UTF8.self))")
            connection.answer(status, [("Location", "http://127.0.0.1:1/")])
        }
        defer { server.stop() }
        var webhook = try #require(Webhook("http://127.0.0.1:\(server.port)/hook/SECRET?a=b"))
        webhook.secret = "k"
        let deliver = Notifier.standard(from: origin, transport: CurlTransport())
        do {
            try await deliver(Recipient(.webhook(webhook)), Notice(event(1, .failure)))
            #expect(mayPass == nil)
        } catch let error as ArchiveError {
            #expect(error.code.isRetryable == mayPass && !"\(error)".contains("SECRET") && "\(error)".contains("\(status)"))
        }
        let request = try #require(seen.events.withLock { $0.first })
        #expect(request.hasPrefix("POST /hook/SECRET?a=b HTTP/1.1 sha256=") && request.contains(#""kind":"failure""#))
    }

    @Test("a server that is not there is no secret leak, and may come back")
    func unreachable() async throws {
        let server = try LoopbackServer { _ in }
        server.stop()
        let webhook = try #require(Webhook("http://127.0.0.1:\(server.port)/hook/SECRET"))
        await #expect { try await Notifier.standard(from: origin, transport: CurlTransport())(Recipient(.webhook(webhook)), Notice(event(1))) } throws: {
            !"\($0)".contains("SECRET") && ($0 as? ArchiveError)?.code.isRetryable == true
        }
    }

    @Test("a command reads the event, and its end decides")
    func command() async throws {
        let folder = try TemporaryDirectory()
        let deliver = Notifier.standard(from: origin, transport: CurlTransport())
        let script = "cat >\(folder.path)/in; echo \"$TIDEMARK_EVENT_KIND $TIDEMARK_EVENT_SOURCE\" >\(folder.path)/env"
        try await deliver(Recipient(.command(["/bin/sh", "-c", script])), Notice(event(7, .gap)))
        let input = try Files.read("\(folder.path)/in", limit: 1 << 20)
        #expect(try JSONSerialization.jsonObject(with: Data(input)) is [String: Any])
        #expect(String(decoding: try Files.read("\(folder.path)/env", limit: 1000), as: UTF8.self) == "gap s7\n")
        // It need not read, and may print more than is kept.
        signal(SIGPIPE, SIG_IGN)
        try await deliver(Recipient(.command(["/bin/sh", "-c", "exec <&-; head -c 200000 /dev/zero"])), Notice(event(7)))
        await #expect { try await deliver(Recipient(.command(["/bin/sh", "-c", "echo why >&2; exit 3"])), Notice(event(7))) } throws: {
            "\($0)".contains("status 3: why") && ($0 as? ArchiveError)?.code.isRetryable == true
        }
        await #expect { try await deliver(Recipient(.command(["/no/such"])), Notice(event(7))) } throws: { ($0 as? ArchiveError)?.code.isRetryable == false }
    }

    @Test("a command that does not end is killed with all that it started")
    func tooSlow() throws {
        let folder = try TemporaryDirectory()
        var process = Subprocess(["/bin/sh", "-c", "sleep 100000 & echo $! >\(folder.path)/pid; wait"])
        process.limit = 0.5
        let result = try process.runBlocking()
        #expect(result.wasTooSlow && result.status == 128 + 9)
        let pid = try #require(pid_t(String(decoding: try Files.read("\(folder.path)/pid", limit: 100), as: UTF8.self).dropLast()))
        // A zombie until init takes it, or nothing.
        while let status = try? String(decoding: Files.read("/proc/\(pid)/stat", limit: 4096), as: UTF8.self), !status.contains(") Z ") { usleep(10_000) }
        var closed = Subprocess(["/bin/sh", "-c", "exec >&- 2>&-; sleep 100000"])
        closed.limit = 0.5
        #expect(try closed.runBlocking().wasTooSlow)
    }
}
