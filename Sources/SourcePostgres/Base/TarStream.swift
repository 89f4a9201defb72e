import ArchiveCore
import Source

/// Takes the tar that PostgreSQL sends apart while it arrives, in portions of any size.
struct TarStream {
    /// What every path of this archive begins with, such as `pg_tblspc/16384/`; may be empty.
    let prefix: String
    private var header: [UInt8] = []
    private var remaining: UInt64 = 0
    private var padding: UInt64 = 0
    private var isKept = false
    private var content: [UInt8] = []
    private var longName: [UInt8]?
    private enum Kind { case file, longName, skipped }
    private var kind = Kind.file

    init(prefix: String) { self.prefix = prefix }

    mutating func feed(_ bytes: UnsafeRawBufferPointer, into sink: any TreeSink) throws {
        var at = 0
        while at < bytes.count {
            if remaining > 0 {
                let n = Int(min(remaining, UInt64(bytes.count - at)))
                let part = UnsafeRawBufferPointer(rebasing: bytes[at..<at + n])
                switch kind {
                case .file: try sink.write(part)
                case .longName: content.append(contentsOf: part)
                case .skipped: break
                }
                remaining -= UInt64(n)
                at += n
                if remaining == 0, kind == .longName {
                    longName = content.prefix { $0 != 0 } + []
                    content = []
                }
            } else if padding > 0 {
                let n = Int(min(padding, UInt64(bytes.count - at)))
                padding -= UInt64(n)
                at += n
            } else {
                let n = min(512 - header.count, bytes.count - at)
                header.append(contentsOf: bytes[at..<at + n])
                at += n
                if header.count == 512 {
                    let block = header
                    header.removeAll(keepingCapacity: true)
                    try begin(block, sink)
                }
            }
        }
    }

    private mutating func begin(_ h: [UInt8], _ sink: any TreeSink) throws {
        if h.allSatisfy({ $0 == 0 }) { return }
        func text(_ offset: Int, _ count: Int) -> [UInt8] { Array(h[offset..<offset + count].prefix { $0 != 0 }) }
        func number(_ offset: Int, _ count: Int) throws -> UInt64 {
            if h[offset] & 0x80 != 0 { return h[(offset + 1)..<(offset + count)].suffix(8).reduce(0) { $0 << 8 | UInt64($1) } }
            guard let value = UInt64(String(decoding: text(offset, count).filter { $0 != 0x20 }, as: UTF8.self), radix: 8) else {
                throw ArchiveError(.logDamaged, "PostgreSQL's base backup has a tar header that was not understood.")
            }
            return value
        }
        let size = try number(124, 12)
        remaining = size
        padding = (512 - size % 512) % 512
        let name = longName ?? ((text(345, 155).isEmpty ? [] : text(345, 155) + [0x2F]) + text(0, 100))
        let type = h[156]
        if type == 0x4C {
            kind = .longName
            return
        }
        longName = nil
        var path = Array(prefix.utf8) + name
        while path.last == 0x2F { path.removeLast() }
        if path.starts(with: [0x2E, 0x2F]) { path.removeFirst(2) }
        let entry = TreeEntry(
            kind: .file, path: path, mode: UInt32(truncatingIfNeeded: try number(100, 8)) & 0o7777,
            owner: UInt32(truncatingIfNeeded: try number(108, 8)), group: UInt32(truncatingIfNeeded: try number(116, 8)),
            modified: Moment(nanoseconds: Int64(try number(136, 12)) * 1_000_000_000), size: size, target: text(157, 100))
        guard isSafeRelativePath(path) else {
            throw ArchiveError(.logDamaged, "PostgreSQL's base backup names the path '\(entry.displayPath)'.")
        }
        kind = .file
        switch type {
        case 0x30, 0: try sink.file(entry)
        case 0x35:
            var directory = entry
            directory.kind = .directory
            directory.size = 0
            try sink.directory(directory)
        case 0x32:
            // A tablespace's link: a restore makes its own.
            kind = .skipped
        default: throw ArchiveError(.logDamaged, "PostgreSQL's base backup holds '\(entry.displayPath)' of the unknown type \(type).")
        }
    }
}
