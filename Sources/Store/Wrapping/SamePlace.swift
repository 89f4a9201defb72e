import ArchiveCore
import Glibc
import Runtime

/// How two places lie to each other. Two that share objects are no two places: what one loses, both lose.
public enum PlaceOverlap: String, Sendable {
    case same = "is the same place as"
    case inside = "lies inside"
    case around = "contains"

    /// - Parameters: what ends in `/`, or is empty.
    fileprivate init?(_ folder: String, _ other: String) {
        if folder == other { self = .same } else if folder.hasPrefix(other) { self = .inside } else if other.hasPrefix(folder) { self = .around } else { return nil }
    }
}

extension StoreLocation {
    /// How this place and another one share objects, as far as their names tell; `nil`: they seem to be apart. Follows symbolic links, so it blocks.
    public func overlap(with other: StoreLocation) -> PlaceOverlap? {
        switch (self, other) {
        case (.file(let a), .file(let b)): PlaceOverlap(resolved(a), resolved(b))
        case (.s3(let a), .s3(let b)) where a.bucket == b.bucket && a.endpoint == b.endpoint && a.profile == b.profile: PlaceOverlap(a.prefix, b.prefix)
        case (.gcs(let a), .gcs(let b)) where a.bucket == b.bucket && a.endpoint == b.endpoint: PlaceOverlap(a.prefix, b.prefix)
        case (.azure(let a), .azure(let b)) where a.container == b.container && a.account == b.account && a.endpoint == b.endpoint:
            PlaceOverlap(a.prefix, b.prefix)
        default: nil
        }
    }
}

/// A directory without symbolic links, `.` and `..`, as far as it exists; ends in `/`.
private func resolved(_ path: String) -> String {
    var result = ""
    for part in path.split(separator: "/") where part != "." {
        if let real = realpath("\(result)/\(part)", nil) {
            defer { free(real) }
            result = String(cString: real)
            if result == "/" { result = "" }
        } else if part == ".." {
            result = result.lastIndex(of: "/").map { String(result[..<$0]) } ?? ""
        } else {
            result += "/\(part)"
        }
    }
    return result + "/"
}

extension ObjectStore {
    /// Whether what is put here is there: then both are the same place, whatever they are called. Puts an object below `probe/` and removes it.
    public func isSamePlace(as other: any ObjectStore) async throws -> Bool {
        let probe = ObjectKey(known: "probe/place-\(hex(UInt64.random(in: .min ... .max), 16))")
        try await put([1], at: probe)
        let found: Result<Bool, any Error>
        do {
            _ = try await other.get(probe)
            found = .success(true)
        } catch let error as ArchiveError where error.code == .objectMissing {
            found = .success(false)
        } catch {
            found = .failure(error)
        }
        try await remove(probe)
        return try found.get()
    }
}

extension ArchiveError {
    /// What is named as a copy shares its objects with another place.
    public static func noCopy(_ copy: String, _ overlap: PlaceOverlap, _ other: String, isPrimary: Bool) -> ArchiveError {
        ArchiveError(
            .archiveExists, "\(copy) cannot be a copy: it \(overlap.rawValue) the \(isPrimary ? "primary" : "copy") \(other), and is lost together with it.",
            remedy: "Name another place under 'copies', best on another machine.")
    }
}
