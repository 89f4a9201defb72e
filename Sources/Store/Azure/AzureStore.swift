import ArchiveCore

/// An archive in a container of Azure Blob Storage.
///
/// Each object goes up as one block blob, with its checksum and the condition that its name is free, and is then looked at: a put
/// returns when the service shows the blob with the size and checksum that were sent.
public final class AzureStore: ObjectStore {
    private let warn: @Sendable (String) -> Void
    private let service: AzureService
    private let writes: WriteOnce<AzureService>
    private let places = ListingPlaces()
    /// Blobs in a page of List Blobs.
    private static let largestPage = 5000

    /// - Throws: `.configuration` when the environment names no account, or a secret that is malformed; whatever making a transport does.
    public init(_ location: AzureLocation, _ context: StoreContext) throws {
        service = try AzureService(location, context)
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
        // Where the place is not known, what follows may still be in the folder of `after`, which is smaller.
        if let key, let slash = key.lastIndex(of: "/"), case let folder = String(key[...slash]), folder.hasPrefix(prefix), folder != prefix,
            places.nearest(service.location.prefix + key, prefix: service.location.prefix + prefix) == nil,
            case let found = try await flat(prefix: folder, after: key, limit: limit), found.count == limit
        { return found }
        return try await flat(prefix: prefix, after: key, limit: limit)
    }

    /// Lists from the nearest known place on.
    private func flat(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        let root = service.location.prefix
        let whole = root + prefix
        // What does not come after the prefix leaves nothing out.
        if let key, !whole.utf8.lexicographicallyPrecedes((root + key).utf8) { return try await flat(prefix: prefix, from: nil, after: key, limit: limit) }
        do {
            return try await flat(prefix: prefix, from: key.flatMap { places.nearest(root + $0, prefix: whole) }, after: key, limit: limit)
        } catch is AzureService.MarkerRefused {
            places.forget(prefix: whole)
            do { return try await flat(prefix: prefix, from: nil, after: key, limit: limit) } catch is AzureService.MarkerRefused {
                throw disorder("it goes on with a marker that the service itself does not take")
            }
        }
    }

    private func flat(prefix: String, from place: ListingPlaces.Place?, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        let whole = service.location.prefix + prefix
        var page = ListedPage(root: service.location.prefix, prefix: prefix, after: key, limit: limit)
        var marker = place?.marker
        // Whether the page begins right behind `after`: then as many as are wanted end where the next call goes on.
        let isExact = key == nil || place.map { $0.name == service.location.prefix + (key ?? "") } ?? false
        while true {
            let size = isExact ? min(Self.largestPage, limit - page.found.count) : Self.largestPage
            let answer = try await service.page(prefix: whole, delimiter: nil, limit: size, marker: marker)
            var isFull = false
            for blob in answer.blobs where !isFull { isFull = try !page.add(blob.name, size: blob.size, disorder: disorder) }
            guard let next = answer.marker else { return page.found }
            guard next != marker else { throw disorder("it goes on with the same page") }
            if let last = answer.blobs.last { places.add(ListingPlaces.Place(name: last.name, marker: next), prefix: whole) }
            if isFull { return page.found }
            marker = next
        }
    }

    public func folders(below prefix: String) async throws -> [String] {
        try await listedTwice { try await foundFolders(below: prefix) }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    private func foundFolders(below prefix: String) async throws -> Set<String> {
        let whole = service.location.prefix + prefix
        var names: Set<String> = []
        var marker: String?
        do {
            while true {
                let answer = try await service.page(prefix: whole, delimiter: "/", limit: Self.largestPage, marker: marker)
                names.formUnion(answer.prefixes.compactMap { folderName($0, below: whole, isRoot: prefix.isEmpty) })
                guard let next = answer.marker else { return names }
                guard next != marker else { throw disorder("it goes on with the same page") }
                marker = next
            }
        } catch is AzureService.MarkerRefused { throw disorder("it goes on with a marker that the service itself does not take") }
    }

    private func disorder(_ what: String) -> DisorderedListing { DisorderedListing(description, what) }

    public func examine() async -> [StoreFinding] { await AzureExamination(service, writes).run() }
}
