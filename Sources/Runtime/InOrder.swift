/// Works on elements side by side and gives the results out one after the other, in the elements' order.
///
/// - Parameters:
///   - width: elements in work, or done and waiting for those before them, at any moment; at least 1.
///   - visit: called in order, one at a time; `false` ends it, and what is in work is cancelled.
/// - Throws: the first error of `body`, in the elements' order, and what `visit` throws.
public func inOrder<Element: Sendable, Value: Sendable>(
    _ elements: some Sequence<Element>, width: Int, _ body: @escaping @Sendable (Element) async throws -> Value,
    visit: (Element, Value) async throws -> Bool
) async throws {
    precondition(width > 0)
    try await withThrowingTaskGroup(of: (Int, Result<Value, any Error>).self) { group in
        var iterator = elements.makeIterator()
        var waiting: [Int: Element] = [:]
        var done: [Int: Result<Value, any Error>] = [:]
        var begun = 0
        var given = 0
        func begin() {
            guard let element = iterator.next() else { return }
            let number = begun
            begun += 1
            waiting[number] = element
            group.addTask {
                do { return (number, .success(try await body(element))) } catch { return (number, .failure(error)) }
            }
        }
        for _ in 0..<width { begin() }
        defer { group.cancelAll() }
        while given < begun {
            guard let result = done.removeValue(forKey: given), let element = waiting.removeValue(forKey: given) else {
                if let (number, result) = try await group.next() { done[number] = result }
                continue
            }
            given += 1
            guard try await visit(element, try result.get()) else { return }
            try Task.checkCancellation()
            begin()
        }
    }
}
