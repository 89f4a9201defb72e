/// What `body` gives within some seconds; `nil` when it has not come by then: it is cancelled, and not waited for if it does not mind.
public func within<T: Sendable>(_ seconds: Double, _ body: @escaping @Sendable () async throws -> T) async throws -> T? {
    let (ends, end) = AsyncStream.makeStream(of: Result<T, any Error>.self)
    let work = Task {
        do { end.yield(.success(try await body())) } catch { end.yield(.failure(error)) }
        end.finish()
    }
    let timer = Task {
        do { try await Task.sleep(for: .seconds(seconds)) } catch { return }
        end.finish()
    }
    defer {
        work.cancel()
        timer.cancel()
    }
    for await result in ends { return try result.get() }
    try Task.checkCancellation()
    return nil
}
