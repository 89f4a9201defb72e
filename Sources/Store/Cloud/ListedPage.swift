import ArchiveCore

/// Objects of a listing, as they come from a service: filtered, in order, up to a limit.
///
/// What is below `probe/` is the store's own and not part of the archive; what is no object's name is somebody else's.
struct ListedPage {
    private let root: String
    private let prefix: String
    private let after: String?
    private let limit: Int
    private var last: String?
    private(set) var found: [ObjectInfo] = []

    /// - Parameter root: what all names in the service begin with.
    init(root: String, prefix: String, after: String?, limit: Int) {
        self.root = root
        self.prefix = prefix
        self.after = after
        self.limit = limit
    }

    /// - Returns: whether more is wanted.
    mutating func add(_ name: String, size: UInt64, disorder: (String) -> DisorderedListing) throws -> Bool {
        if let last, !last.utf8.lexicographicallyPrecedes(name.utf8) { throw disorder("its names are out of order") }
        last = name
        guard name.hasPrefix(root + prefix) else { throw disorder("it has names of elsewhere") }
        let path = String(name.utf8.dropFirst(root.utf8.count)) ?? ""
        guard after.map({ $0.utf8.lexicographicallyPrecedes(path.utf8) }) ?? true, let key = ObjectKey(path), !path.hasPrefix("probe/") else { return true }
        found.append(ObjectInfo(key: key, size: size))
        return found.count < limit
    }
}

/// The part of a common prefix behind the folder that was listed; `nil` for the store's own and for what objects' names cannot hold.
func folderName(_ name: String, below whole: String, isRoot: Bool) -> String? {
    guard name.hasPrefix(whole), name.hasSuffix("/"), name.utf8.count > whole.utf8.count + 1 else { return nil }
    let folder = String(name.dropFirst(whole.count).dropLast())
    guard ObjectKey(folder) != nil, !folder.contains("/"), !(isRoot && folder == "probe") else { return nil }
    return folder
}

/// A listing that cannot be: from something that does not know better, or damaged on its way.
struct DisorderedListing: Error {
    let failure: ArchiveError

    init(_ failure: ArchiveError) { self.failure = failure }

    init(_ store: String, _ what: String) {
        failure = ArchiveError(
            .storeUnavailable, "A listing of \(store) cannot be: \(what).",
            remedy: "See whether something between here and the service changes its answers. Tidemark needs listings in byte order of names.")
    }
}

extension ObjectStore {
    /// Lists once more where a listing cannot be: what the service itself says is the same again.
    ///
    /// - Throws: `ArchiveError` when it still cannot be; whatever else `list` does.
    func listedTwice<T>(_ list: () async throws -> T) async throws -> T {
        do { return try await list() } catch let error as DisorderedListing {
            notice("\(error.failure.description) It is asked for once more.")
            do { return try await list() } catch let error as DisorderedListing { throw error.failure }
        }
    }
}
