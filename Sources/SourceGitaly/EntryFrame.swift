import ArchiveCore

/// An entry as it lies in a pack: a frame of tar members `<partition>/<LSN>/…`, so that `zstd -dc pack | tar x` gives every entry back
/// as it lay in `wal/`. Contents of in-storage links follow in a frame of their own, since whether they could still be read says
/// nothing about the entry: the first frame's digest is the entry's.
enum EntryFrame {
    /// The frame that ends a pack.
    static let end = [UInt8](repeating: 0, count: 1024)
    private static let links = "storage-links"

    static func encode(
        partition: String, lsn: UInt64, time: Moment, manifest: [UInt8], files: [(name: String, file: ReplayableEntry.File)]
    ) -> [UInt8] {
        let folder = "\(partition)/\(PartitionLSN(rawValue: lsn))/"
        let seconds = time.rawValue / 1_000_000_000
        var output: [UInt8] = []
        output.reserveCapacity(files.reduce(4096) { $0 + $1.file.bytes.count + 1024 })
        TarBlocks.append(folder, isDirectory: true, mode: 0o700, modified: seconds, content: [], to: &output)
        TarBlocks.append(folder + "MANIFEST", isDirectory: false, mode: 0o400, modified: seconds, content: manifest, to: &output)
        for (name, file) in files {
            TarBlocks.append(folder + name, isDirectory: false, mode: file.mode, modified: seconds, content: file.bytes, to: &output)
        }
        return output
    }

    static func encodeLinks(partition: String, lsn: UInt64, time: Moment, _ links: [Int: ReplayableEntry.File]) -> [UInt8] {
        let folder = "\(partition)/\(PartitionLSN(rawValue: lsn))/\(Self.links)/"
        let seconds = time.rawValue / 1_000_000_000
        var output: [UInt8] = []
        TarBlocks.append(folder, isDirectory: true, mode: 0o700, modified: seconds, content: [], to: &output)
        for (index, file) in links.sorted(by: { $0.key < $1.key }) {
            TarBlocks.append("\(folder)\(index)", isDirectory: false, mode: file.mode, modified: seconds, content: file.bytes, to: &output)
        }
        return output
    }

    /// - Throws: `.objectDamaged` for anything that `encode` does not write, or when a file that an operation names is missing.
    static func decode(_ frames: [[UInt8]]) throws(ArchiveError) -> ReplayableEntry {
        do { return try read(frames) } catch {
            throw ArchiveError(.objectDamaged, "An archived log entry is damaged: \(error).", remedy: "Restore to a time before it, or from a newer base.")
        }
    }

    private static func read(_ frames: [[UInt8]]) throws(WireError) -> ReplayableEntry {
        var place: (partition: String, lsn: UInt64, folder: String)?
        var manifest: [UInt8]?
        var files: [String: ReplayableEntry.File] = [:]
        var links: [Int: ReplayableEntry.File] = [:]
        for frame in frames {
            for member in try TarBlocks.members(of: frame) {
                var foreign: WireError { WireError(offset: 0, reason: "'\(member.name)' does not belong to it") }
                if place == nil {
                    let parts = member.name.utf8.split(separator: 0x2F, omittingEmptySubsequences: false)
                    guard parts.count >= 2, !parts[0].isEmpty, parts[0].allSatisfy({ (0x30...0x39).contains($0) }),
                        let lsn = PartitionLSN(String(decoding: parts[1], as: UTF8.self))
                    else { throw foreign }
                    let partition = String(decoding: parts[0], as: UTF8.self)
                    place = (partition, lsn.rawValue, "\(partition)/\(lsn)/")
                }
                guard let place, member.name.hasPrefix(place.folder) else { throw foreign }
                let inner = member.name.dropFirst(place.folder.count)
                if member.isDirectory {
                    guard inner.isEmpty || inner == Self.links + "/" else { throw foreign }
                    continue
                }
                let file = ReplayableEntry.File(bytes: Array(member.content), mode: member.mode & 0o777)
                if inner.utf8.contains(0x2F) {
                    guard inner.hasPrefix(Self.links + "/"), let index = Int(inner.dropFirst(Self.links.count + 1)) else { throw foreign }
                    links[index] = file
                } else if inner == "MANIFEST" { manifest = file.bytes } else {
                    guard !inner.isEmpty else { throw foreign }
                    files[String(inner)] = file
                }
            }
        }
        guard let place, let manifest else { throw WireError(offset: 0, reason: "it has no MANIFEST") }
        let entry = try LogEntry(decoding: manifest)
        for name in entry.fileNames where files[name] == nil { throw WireError(offset: 0, reason: "its file '\(name)' is missing") }
        return ReplayableEntry(partition: place.partition, lsn: place.lsn, entry: entry, files: files, links: links)
    }
}
