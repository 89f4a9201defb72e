import ArchiveCore
import Digests

extension S3Store {
    public func list(prefix: String, after: String?, limit: Int) async throws -> [ObjectInfo] {
        var found: [ObjectInfo] = []
        guard limit > 0 else { return [] }
        try await pages(prefix: prefix, after: after, delimiter: nil, wanted: { limit - found.count }) { page in
            found += page.objects.prefix(limit - found.count)
            return found.count < limit
        }
        return found
    }

    public func folders(below prefix: String) async throws -> [String] {
        var names = Set<String>()
        try await pages(prefix: prefix, after: nil, delimiter: "/", wanted: { 1000 }) { page in
            for folder in page.folders {
                let name = folder.dropFirst(prefix.utf8.count)
                if folder.hasPrefix(prefix), name.hasSuffix("/"), ObjectKey(folder + "x") != nil { names.insert(String(name.dropLast())) }
            }
            return true
        }
        if prefix.isEmpty { names.remove(Self.probeFolder) }
        return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// What lies in the folder that lists leave out.
    func namesOfTrials() async throws -> Set<String> {
        var names = Set<String>()
        try await pages(prefix: Self.probeFolder + "/", after: nil, delimiter: nil, wanted: { 1000 }) { page in
            names.formUnion(page.trials)
            return true
        }
        return names
    }

    /// What lies there is for the server to be tried on, and no object of the archive.
    static let probeFolder = "probe"

    /// One answer to ListObjectsV2, without the archive's prefix.
    struct Page: Sendable {
        var objects: [ObjectInfo] = []
        var folders: [String] = []
        /// Of `probe`.
        var trials: [String] = []
        /// What to go on with; `nil`: this was the end.
        var token: String?
    }

    /// Reads pages until the end, or until `take` has enough. Names that are no keys of an archive, and what lies in `probe`, are left out.
    ///
    /// - Throws: `.storeUnavailable` for answers that cannot be: names out of order, of elsewhere, or for ever the same page.
    private func pages(
        prefix: String, after: String?, delimiter: String?, wanted: () -> Int, take: (Page) throws -> Bool
    ) async throws {
        let root = service.location.prefix
        var token: String?
        var last = after.map { root + $0 }
        var empty = 0
        while true {
            var query: [(name: String, value: String?)] = [
                ("list-type", "2"), ("encoding-type", "url"), ("max-keys", String(max(1, min(1000, wanted())))), ("prefix", root + prefix),
            ]
            if let delimiter { query.append(("delimiter", delimiter)) }
            if let token { query.append(("continuation-token", token)) } else if let last, last != root { query.append(("start-after", last)) }
            let (page, end) = try await listedTwice { try read(try await ask(query), root: root, prefix: root + prefix, after: last) }
            if let end { last = end }
            guard try take(page), let next = page.token else { return }
            // A server may have nothing for us on a page, but not for ever.
            empty = page.objects.isEmpty && page.folders.isEmpty && end == nil ? empty + 1 : 0
            guard next != token, empty < 100 else { throw odd("it gave the same page again and again").failure }
            token = next
        }
    }

    private func ask(_ query: [(name: String, value: String?)]) async throws -> XMLElement {
        let response = try await service.send(
            S3Request(
                action: .list, method: .get, query: query, limit: 8 << 20,
                check: { response in
                    response.status == 200 && (try? XMLElement.parse(response.body)) == nil ? "the list is no whole XML" : nil
                }))
        guard response.status == 200 else { throw S3Answer(response).error(.list, service.location, key: nil, skew: service.skew) }
        return try XMLElement.parse(response.body)
    }

    private func odd(_ why: String) -> DisorderedListing { DisorderedListing(description, why) }

    /// - Returns: the page, and the last name on it as the server has it, foreign ones included.
    private func read(_ answer: XMLElement, root: String, prefix: String, after: String?) throws -> (Page, String?) {
        guard answer.name == "ListBucketResult" else { throw odd("it is no list") }
        let encoding = answer["EncodingType"] ?? ""
        guard encoding.isEmpty || encoding == "url" else { throw odd("its names are in an unknown encoding") }
        func name(_ text: String?) throws -> String {
            guard let text, let name = encoding.isEmpty ? text : urlDecoded(text) else { throw odd("a name in it cannot be read") }
            guard name.hasPrefix(prefix) else { throw odd("it has names of elsewhere") }
            return name
        }
        var page = Page()
        var last = after
        for item in answer.all("Contents") {
            let key = try name(item["Key"])
            guard last.map({ $0.utf8.lexicographicallyPrecedes(key.utf8) }) ?? true else { throw odd("its names are out of order") }
            last = key
            guard let size = item["Size"].flatMap(UInt64.init) else { throw odd("an object in it has no size") }
            guard let known = ObjectKey(String(key.dropFirst(root.count))) else { continue }
            guard !known.path.hasPrefix(Self.probeFolder + "/") else {
                page.trials.append(known.path)
                continue
            }
            page.objects.append(ObjectInfo(key: known, size: size))
        }
        for item in answer.all("CommonPrefixes") { page.folders.append(String(try name(item["Prefix"]).dropFirst(root.count))) }
        switch answer["IsTruncated"] {
        case "true":
            guard let token = answer["NextContinuationToken"], !token.isEmpty else { throw odd("it goes on, and does not say where") }
            page.token = token
        case "false": break
        default: throw odd("it does not say whether it goes on")
        }
        return (page, last == after ? nil : last)
    }

    // MARK: Removing many

    public func remove(_ keys: [ObjectKey]) async throws {
        var rest = keys[...]
        while !rest.isEmpty {
            let batch = Array(rest.prefix(1000))
            rest = rest.dropFirst(1000)
            if batch.count > 1, deletesMany.withLock({ $0 }), try await removeBatch(batch) { continue }
            for key in batch { try await remove(key) }
        }
    }

    private func oddRemoval(_ why: String) -> ArchiveError {
        ArchiveError(.storeUnavailable, "The answer of \(description) to DeleteObjects cannot be: \(why).", remedy: "See what stands between here and the service.")
    }

    /// - Returns: `false` when the server does not know this request.
    private func removeBatch(_ keys: [ObjectKey]) async throws -> Bool {
        let root = service.location.prefix
        var left = Set(keys.map { root + $0.path })
        var failures: [String: String] = [:]
        for _ in 0..<3 {
            let items = left.sorted().map { "<Object><Key>\($0)</Key></Object>" }.joined()
            let body = Array(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\(items)</Delete>"
                    .utf8)
            let response = try await service.send(
                S3Request(
                    action: .deleteMany, method: .post, query: [("delete", nil)],
                    headers: [("Content-Type", "application/xml"), ("Content-MD5", base64(MD5.of(body)))], body: body, limit: 2 << 20))
            let answer = S3Answer(response)
            if response.status == 501 || response.status == 405 || answer.code == "NotImplemented" || answer.code == "MethodNotAllowed" {
                deletesMany.withLock { $0 = false }
                return false
            }
            guard response.status == 200 else { throw answer.error(.deleteMany, service.location, key: nil, skew: service.skew) }
            let result = try XMLElement.parse(response.body)
            guard result.name == "DeleteResult" || result.name == "DeleteObjectsResult" else { throw oddRemoval("it is none") }
            failures = [:]
            for error in result.all("Error") {
                guard let key = error["Key"], error["Code"] != "NoSuchKey" else { continue }
                guard left.contains(key) else { throw oddRemoval("it failed to delete what nobody asked for") }
                failures[key] = shownCode(error["Code"]) ?? "no reason"
            }
            guard !failures.isEmpty else { return true }
            left = Set(failures.keys)
            guard failures.values.allSatisfy({ $0 == "InternalError" || $0 == "SlowDown" || $0 == "ServiceUnavailable" }) else { break }
        }
        let first = failures.min { $0.key < $1.key }
        let isDenied = first?.value == "AccessDenied"
        throw ArchiveError(
            isDenied ? .storeRefused : .storeUnavailable,
            "\(description) did not remove \(failures.count) of \(keys.count) objects, the first '\(first?.key.dropFirst(root.count) ?? "")': \(first?.value ?? "").",
            remedy: isDenied
                ? "Allow s3:DeleteObject on arn:aws:s3:::\(service.location.bucket)/\(root)*; locked objects go when their time is over."
                : "It is tried again next time.")
    }
}

/// Names in lists, encoded like a form: `%XX`, and `+` for a space.
func urlDecoded(_ text: String) -> String? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        switch byte {
        case UInt8(ascii: "+"): bytes.append(0x20)
        case UInt8(ascii: "%"):
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        default: bytes.append(byte)
        }
    }
    return String(validating: bytes, as: UTF8.self)
}
