import ArchiveCore
import Synchronization

/// One answer to List Blobs.
struct AzurePage: Sendable {
    var blobs: [(name: String, size: UInt64)] = []
    var prefixes: [String] = []
    /// Where to go on; `nil` at the end.
    var marker: String?

    /// - Throws: `DisorderedListing` for an answer that is none.
    init(_ bytes: [UInt8], unusable: DisorderedListing) throws {
        let root: XMLElement
        do { root = try XMLElement.parse(withoutMark(bytes)) } catch { throw DisorderedListing(error) }
        guard root.name == "EnumerationResults", let list = root.first("Blobs") else { throw unusable }
        for element in list.children {
            guard let name = element["Name"] else { throw unusable }
            switch element.name {
            case "Blob":
                guard let size = element.first("Properties")?["Content-Length"].flatMap({ UInt64($0) }) else { throw unusable }
                blobs.append((name, size))
            case "BlobPrefix": prefixes.append(name)
            default: throw unusable
            }
        }
        if let next = root["NextMarker"], !next.isEmpty { marker = next }
    }
}

extension AzureService {
    /// - Parameter prefix: whole, with the location's.
    func page(prefix: String, delimiter: String?, limit: Int, marker: String?) async throws -> AzurePage {
        var query: [(name: String, value: String?)] = [("restype", "container"), ("comp", "list"), ("maxresults", "\(limit)")]
        if !prefix.isEmpty { query.append(("prefix", prefix)) }
        if let delimiter { query.append(("delimiter", delimiter)) }
        if let marker { query.append(("marker", marker)) }
        var request = request(.get, query: query)
        request.responseLimit = XMLElement.maximumSize
        // A marker that is not taken is the caller's affair.
        let response = try await send(request, accepting: { $0.status == 400 && marker != nil }, to: "list \(description)", needing: "l")
        if response.status == 400 { throw MarkerRefused() }
        return try AzurePage(response.body, unusable: DisorderedListing(unusableAnswer(description, request)))
    }

    /// The place to go on from is not known any more.
    struct MarkerRefused: Error {}
}

/// Places in listings that have been seen: the name after which a marker goes on.
///
/// List Blobs cannot begin after a name, only at a marker, which it gives at the end of a page. Whoever goes through a listing page
/// by page finds the last marker here; who comes with another name begins at the nearest place before it.
final class ListingPlaces: Sendable {
    struct Place: Sendable {
        var name: String
        var marker: String
    }
    /// Places of one prefix, and prefixes altogether.
    static let maximumPlaces = 512
    static let maximumPrefixes = 64

    /// For each prefix, ascending by name.
    private let places = Mutex<[String: [Place]]>([:])

    func add(_ place: Place, prefix: String) {
        places.withLock { all in
            if all[prefix] == nil, all.count >= Self.maximumPrefixes, let victim = all.keys.randomElement() { all[victim] = nil }
            var list = all[prefix] ?? []
            let index = Self.count(of: list, upTo: place.name)
            if index > 0, list[index - 1].name == place.name { list[index - 1] = place } else { list.insert(place, at: index) }
            // Every second place, from the end on, which is asked for most.
            if list.count > Self.maximumPlaces { list = list.indices.filter { (list.count - 1 - $0) % 2 == 0 }.map { list[$0] } }
            all[prefix] = list
        }
    }

    /// The last place that is not behind `name`.
    func nearest(_ name: String, prefix: String) -> Place? {
        places.withLock { all in
            guard let list = all[prefix] else { return nil }
            let index = Self.count(of: list, upTo: name)
            return index > 0 ? list[index - 1] : nil
        }
    }

    func forget(prefix: String) { places.withLock { $0[prefix] = nil } }

    private static func count(of list: [Place], upTo name: String) -> Int {
        var low = 0
        var high = list.count
        while low < high {
            let middle = (low + high) / 2
            if name.utf8.lexicographicallyPrecedes(list[middle].name.utf8) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
