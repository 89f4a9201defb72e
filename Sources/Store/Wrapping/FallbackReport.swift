import ArchiveCore
import Synchronization

/// What a command read from another place than the primary, and why. Nothing was put in order by it.
public final class FallbackReport: Sendable {
    /// What one place had to stand in for.
    public struct Entry: Sendable, Hashable {
        /// The place that the objects came from.
        public var store: String
        /// Different objects; counted up to `FallbackReport.limit`.
        public var objects = 0
        /// The first few of them, each with the reason.
        public var examples: [Example] = []
        /// Why names were listed there alone, where the primary could not be listed.
        public var listing: String?
    }
    public struct Example: Sendable, Hashable, Codable {
        public var key: String
        public var reason: String
    }

    /// Different objects that are remembered, and examples that are kept for each place.
    public static let limit = 65_536
    static let examples = 3

    private struct State {
        var entries: [Entry] = []
        var seen: Set<ObjectKey> = []
        /// Places that were left out, with the reason.
        var notes: [String] = []
    }
    private let state = Mutex(State())

    public init() {}

    /// For each place, in the order in which they were first needed.
    public var entries: [Entry] { state.withLock { $0.entries } }

    /// Places that are no copy of this archive.
    public var notes: [String] { state.withLock { $0.notes } }

    func tell(_ key: ObjectKey, from store: String, because reason: String) {
        state.withLock { state in
            guard state.seen.count < Self.limit, state.seen.insert(key).inserted else { return }
            let i = Self.index(of: store, in: &state)
            state.entries[i].objects += 1
            if state.entries[i].examples.count < Self.examples { state.entries[i].examples.append(Example(key: key.path, reason: reason)) }
        }
    }

    func tellListing(from store: String, because reason: String) {
        state.withLock { state in
            let i = Self.index(of: store, in: &state)
            if state.entries[i].listing == nil { state.entries[i].listing = reason }
        }
    }

    func note(_ text: String) { state.withLock { if !$0.notes.contains(text) { $0.notes.append(text) } } }

    private static func index(of store: String, in state: inout State) -> Int {
        if let i = state.entries.firstIndex(where: { $0.store == store }) { return i }
        state.entries.append(Entry(store: store))
        return state.entries.count - 1
    }

    /// One sentence for each place, for the operator; none when everything came from the primary.
    public var warnings: [String] {
        entries.map { entry in
            var parts: [String] = []
            if entry.objects > 0 {
                let some = entry.examples.map { "'\($0.key)': \($0.reason)" }.joined(separator: "; ")
                let count = entry.objects == 1 ? "1 object" : "\(entry.objects)\(entry.objects == Self.limit ? " or more" : "") objects"
                parts.append("\(count) came from \(entry.store), not from the primary (\(some)\(entry.objects > entry.examples.count ? "; …" : ""))")
            }
            if let listing = entry.listing { parts.append("what there is was listed in \(entry.store) without the primary (\(listing))") }
            return parts.joined(separator: "; ")
        } + notes
    }
}
