import ArchiveCore
import ArchiveTesting
import Runtime
import Source
import Synchronization
import Testing

@testable import SourcePostgres

@Suite("Lone commits")
struct LoneCommitsTests {
    /// Whether the next one is expected after each of `count` answers, a millisecond's third apart.
    private func answers(_ lone: inout LoneCommits, _ count: Int, commits: Int = 1, from begun: Double) -> [Bool] {
        (0..<count).map { n in
            let time = begun + Double(n) * 0.0003
            lone.received(commits, at: time)
            return lone.answered(at: time + 0.0001)
        }
    }

    @Test("are expected after eight in a row, each soon after the answer to the one before, and no more once several come together")
    func habit() {
        var lone = LoneCommits()
        #expect(answers(&lone, 10, from: 100) == [Bool](repeating: false, count: 7) + [true, true, true])
        #expect(answers(&lone, 1, commits: 0, from: 100.003) == [true])
        // One that comes late is not expected by then, the next one is.
        #expect(answers(&lone, 2, from: 101) == [false, true])
        #expect(answers(&lone, 9, commits: 2, from: 101.0006).allSatisfy { !$0 })
        #expect(answers(&lone, 8, from: 101.0033) == [Bool](repeating: false, count: 7) + [true])
    }
}

@Suite("Whether commits wait for a receiver", .serialized)
struct CommitWaitsTests {
    @Test("is asked once for a while, at once and beside the caller; who may not ask is not waited for")
    func asked() async throws {
        let count = Mutex(0)
        let answer = Mutex<Result<Bool, ArchiveError>>(.success(true))
        let waits = CommitWaits {
            count.withLock { $0 += 1 }
            return try answer.withLock { try $0.get() }
        }
        let begun = monotonic()
        _ = waits.isKnown(at: begun)
        try await eventually("the answer") { waits.isKnown(at: begun) }
        for _ in 0..<100 { #expect(waits.isKnown(at: begun)) }
        #expect(count.withLock { $0 } == 1)
        answer.withLock { $0 = .failure(ArchiveError(.sourceRefused, "No.")) }
        try await eventually("the failure") { !waits.isKnown(at: begun + 60) }
        // It is left alone for longer than an answer holds.
        for _ in 0..<100 { #expect(!waits.isKnown(at: begun + 120)) }
        #expect(count.withLock { $0 } == 2)
        answer.withLock { $0 = .success(true) }
        try await eventually("the next answer") { waits.isKnown(at: begun + 1200) }
    }

    @Test("is what the server says of the process that sends to it", .timeLimit(.minutes(10)))
    func real() async throws {
        let server = try await Server(try #require(Server.bindirs.first))
        let state = try TemporaryDirectory()
        let source = PostgresLogSource(conninfo: server.conninfo, slot: "tidemark", stateDirectory: state.path, tail: 0.1)
        let identity = try await source.identify()
        let incarnation = IncarnationRecord(
            source: "main", id: "x-0001", kind: "postgres", identity: identity.identity, number: 1, created: now(), facts: identity.facts, reason: nil)
        let collector = Collector()
        let task = Task { await collector.run(source, from: ResumeState(incarnation: incarnation)) }
        func sender() async throws -> Int32? {
            Int32(String(try await server.sql("SELECT pid FROM pg_stat_replication WHERE state = 'streaming'").prefix { $0 != "\n" }))
        }
        try await eventually("the stream") { try await sender() != nil }
        let process = try #require(try await sender())
        let waits = CommitWaits(conninfo: server.conninfo, process: process)
        let time = Mutex(monotonic())
        /// The next question is always due.
        func isKnown() -> Bool {
            waits.isKnown(at: time.withLock { time in
                time += 1000
                return time
            })
        }
        for _ in 0..<20 { #expect(!isKnown()) }
        try await server.sql("ALTER SYSTEM SET synchronous_standby_names = 'tidemark'")
        try await server.sql("SELECT pg_reload_conf()")
        try await eventually("commits to wait") { isKnown() }
        try await server.sql("CREATE TABLE waited_for()")
        try await server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        try await server.sql("SELECT pg_reload_conf()")
        try await eventually("commits to wait no more") { !isKnown() }
        await source.stop()
        await task.value
        #expect(await collector.failure == nil)
    }
}
