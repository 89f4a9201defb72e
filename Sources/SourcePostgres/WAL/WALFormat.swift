import ArchiveCore

/// The layout of PostgreSQL's write-ahead log, as it is from 13 to 18, little endian.
enum WALFormat {
    static let pageSize: UInt64 = 8192
    static let shortHeader = 24
    static let longHeader = 40
    static let recordHeader = 24

    static let firstIsContinuation: UInt16 = 1
    static let hasLongHeader: UInt16 = 2
    static let firstIsOverwrite: UInt16 = 8
    static let knownFlags: UInt16 = 15

    /// The page magic of each major version.
    static let majors: [UInt16: Int] = [0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18]

    static let resourceManagerXLog: UInt8 = 0
    static let resourceManagerTransaction: UInt8 = 1
    static let resourceManagerMessage: UInt8 = 21
    static let infoSwitch: UInt8 = 0x40
    static let infoRestorePoint: UInt8 = 0x70
    static let infoMessage: UInt8 = 0x00

    static func aligned(_ value: UInt64) -> UInt64 { (value + 7) & ~7 }

    static func damaged(_ lsn: UInt64, _ what: String) -> ArchiveError {
        ArchiveError(
            .logDamaged, "The WAL received at \(LSN(rawValue: lsn)) is damaged: \(what).",
            remedy: "Compare with pg_waldump on the server; nothing from there on was archived.")
    }
}

extension UnsafeRawBufferPointer {
    /// The little-endian number at `offset`. - Precondition: it lies inside.
    @inline(__always)
    func number<T: FixedWidthInteger>(_ offset: Int, as: T.Type = T.self) -> T {
        T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }
}
