import ArchiveCore

/// An archive in a bucket of Google Cloud Storage, by its JSON API.
///
/// Each object goes up in one request with its checksums and the condition that its name is free, and is then looked at: a put
/// returns when the service shows the object with the size and checksum that were sent.
public final class GCSStore: ObjectStore {
    private let warn: @Sendable (String) -> Void
    let service: GCSService
    private let writes: WriteOnce<GCSService>

    /// - Throws: `.usage` for a `STORAGE_EMULATOR_HOST` that is no address; whatever making a transport does.
    public init(_ location: GCSLocation, _ context: StoreContext) throws {
        service = try GCSService(location, context)
        writes = WriteOnce(service, believesAnswers: location.transport.believesAnswers, warn: context.warn)
        warn = context.warn
    }

    public var description: String { service.description }
    public var parallelism: Int { 8 }

    public func notice(_ message: String) { warn(message) }
    public func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await writes.put(bytes, at: key) }

    public func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await service.get(key, range: range) }

    public func lockedUntil(_ key: ObjectKey) async throws -> Moment? { try await service.lockedUntil(key) }

    public func remove(_ key: ObjectKey) async throws { try await service.remove(key) }

    public func remove(_ keys: [ObjectKey]) async throws { try await inParallel(keys, width: parallelism) { try await self.service.remove($0) } }

    public func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey] {
        try await list(prefix: prefix, after: key, limit: limit).map(\.key)
    }

    public func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        guard limit > 0 else { return [] }
        return try await listedTwice { try await found(prefix: prefix, after: key, limit: limit) }
    }

    private func found(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        let root = service.location.prefix
        var page = ListedPage(root: root, prefix: prefix, after: key, limit: limit)
        // The offset is included in what is listed; one before the prefix says nothing.
        let start = key.map { root + $0 }.flatMap { (root + prefix).utf8.lexicographicallyPrecedes($0.utf8) ? $0 : nil }
        try await everyPage(prefix: root + prefix, from: start, delimiter: nil, limit: { min(1000, limit - page.found.count + 1) }) { answer in
            for item in answer.items ?? [] {
                guard let name = item.name, let size = item.size.flatMap(UInt64.init) else { throw self.disorder("an object in it has no name or no size") }
                guard try page.add(name, size: size, disorder: self.disorder) else { return false }
            }
            return true
        }
        return page.found
    }

    public func folders(below prefix: String) async throws -> [String] {
        let whole = service.location.prefix + prefix
        let names = try await listedTwice {
            var names: Set<String> = []
            try await everyPage(prefix: whole, from: nil, delimiter: "/", limit: { 1000 }) { answer in
                names.formUnion((answer.prefixes ?? []).compactMap { folderName($0, below: whole, isRoot: prefix.isEmpty) })
                return true
            }
            return names
        }
        return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// - Parameter take: `false`: enough.
    private func everyPage(
        prefix: String, from start: String?, delimiter: String?, limit: () -> Int, _ take: (GCSPage) throws -> Bool
    ) async throws {
        var token: String?
        while true {
            let page = try await service.page(prefix: prefix, from: start, delimiter: delimiter, limit: limit(), token: token)
            guard try take(page), let next = page.nextPageToken, !next.isEmpty else { return }
            guard next != token else { throw disorder("it goes on with the same page") }
            token = next
        }
    }

    private func disorder(_ what: String) -> DisorderedListing { DisorderedListing(description, what) }

    public func examine() async -> [StoreFinding] { await GCSExamination(service, writes).run() }
}
