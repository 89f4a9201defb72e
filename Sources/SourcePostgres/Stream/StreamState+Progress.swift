import ArchiveCore
import Source

extension StreamState {
    /// Seconds of silence after which nobody knows what the server has: an idle one is asked more often.
    static let silence = 15.0

    /// The server was heard, and its log ends at `end`.
    mutating func heard(end: UInt64, at now: Moment) {
        contact = now
        serverEnd = end
        aheadSince = end > received ? aheadSince ?? now : nil
    }

    /// What is on its way at this moment.
    func progress(at now: Moment) -> LogProgress {
        var progress = LogProgress()
        if let contact, now - contact > Self.silence {
            progress.unreceived = .init(bytes: nil, since: contact)
        } else if serverEnd > received {
            progress.unreceived = .init(bytes: serverEnd - received, since: aheadSince)
        }
        if received > flushed {
            let closed = unarchived.first { !$0.spooled && $0.commit != nil }?.commit
            progress.unsynced = .init(bytes: received - flushed, since: closed ?? open?.events.firstCommit(behind: flushed))
        }
        var ungiven: UInt64 = 0
        for segment in unarchived where segment.sequence == nil { ungiven += segment.end - segment.start }
        if let open { ungiven += open.received - min(open.received, open.given) }
        let closed = unarchived.first { $0.sequence == nil && $0.commit != nil }?.commit
        progress.ungiven = .init(bytes: ungiven, since: closed ?? open?.events.firstCommit(behind: open?.given ?? 0))
        return progress
    }
}

extension [LogEvent] {
    /// Time of the first commit that ends behind an offset. They are in the order of their ends.
    func firstCommit(behind offset: UInt64) -> Moment? {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if self[middle].end > offset { high = middle } else { low = middle + 1 }
        }
        return self[low...].first { $0.isCommit }?.time
    }
}
