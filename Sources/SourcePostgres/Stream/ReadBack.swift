import ArchiveCore
import Runtime
import Source

/// Reads closed segments again where the archive does not give them back, since it is encrypted and we hold public keys only: from a file
/// of the spool that was not used again yet, else from the server.
struct ReadBack: Sendable {
    let conninfo: String
    let stateDirectory: String
    let size: SegmentSize

    /// Seconds without a message from the server after which it is given up.
    private static let patience = 10.0

    /// See `ResumeState.content`.
    var content: @Sendable (PieceName) async throws -> [[UInt8]] { { name in try await blocking { [try self.read(name)] } } }

    private func read(_ name: PieceName) throws -> [UInt8] {
        guard name.part == nil, let segment = SegmentName(name.name, size: size) else { throw missing(name) }
        if let bytes = try Spool(stateDirectory: stateDirectory, segmentSize: size.bytes).readDiscarded(name.name) { return bytes }
        do { if let bytes = try fromServer(segment) { return bytes } } catch let error as ServerError {
            throw ArchiveError(.logMissing, "PostgreSQL did not send the segment '\(segment)' again.", cause: error)
        }
        throw missing(name)
    }

    private func missing(_ name: PieceName) -> ArchiveError {
        ArchiveError(.objectMissing, "The segment '\(name.name)' is encrypted in the archive, and neither the spool nor PostgreSQL has it any more.")
    }

    /// - Returns: `nil` when the server's log of that timeline ends within the segment, or it falls silent.
    private func fromServer(_ segment: SegmentName) throws -> [UInt8]? {
        let connection = try Connection(conninfo: conninfo, purpose: .replication)
        try connection.send("START_REPLICATION PHYSICAL \(segment.start) TIMELINE \(segment.timeline.rawValue)")
        guard case .copyBoth? = try connection.answer() else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(size.bytes))
        while bytes.count < Int(size.bytes) {
            let outcome = try connection.receive { message in
                // A message with WAL: its kind, three numbers of 8 bytes, then the WAL.
                if message.first == UInt8(ascii: "w"), message.count > 25 { bytes += message[25...].prefix(Int(size.bytes) - bytes.count) }
            }
            switch outcome {
            case .message: continue
            case .end: return nil
            case .nothing: guard connection.wait(seconds: Self.patience) else { return nil }
            }
        }
        return bytes
    }
}
