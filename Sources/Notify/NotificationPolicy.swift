import ArchiveCore
import Sidecar

/// What goes out to one recipient, and when. Pure: time comes in.
///
/// The first of a kind from a source goes out at once. The same again is counted, and told once an hour as long as it goes on. What
/// ends it (`recovered`, `rpo-recovered`) goes out at once too, and what comes then is a first again. Over all there are at most as many
/// as the recipient's limit; what is above it is counted, and the next message that goes out tells how many were left out.
public struct NotificationPolicy: Sendable {
    /// Seconds from one message to the next of the same.
    public static let repetition = 3600.0
    /// Different things that are told apart; there are few kinds and few sources.
    static let maximumTopics = 1000

    private struct Topic: Hashable {
        var kind: AgentEvent.Kind
        var source: String?
    }
    private struct Story {
        var told: Moment
        var repeats = 0
        var last: AgentEvent
    }

    private let kinds: Set<AgentEvent.Kind>
    private let limit: Recipient.Limit
    private var stories: [Topic: Story] = [:]
    /// When messages went out, within the limit's period, ascending.
    private var sent: [Moment] = []
    private var leftOut: [AgentEvent.Kind: Int] = [:]
    private var lastLeftOut: AgentEvent?

    public init(kinds: Set<AgentEvent.Kind>, limit: Recipient.Limit) {
        self.kinds = kinds
        self.limit = limit
    }

    /// Kinds that are told each time: each is a thing of its own.
    private static let single: Set<AgentEvent.Kind> = [.success, .recovered, .rpoRecovered, .test]

    /// What ends with an event of `kind`.
    private static func ended(by kind: AgentEvent.Kind) -> [AgentEvent.Kind] {
        switch kind {
        case .recovered: [.failure, .degraded, .slotDanger, .staleBase]
        case .rpoRecovered: [.rpoMissed]
        case .success: [.staleBase, .degraded]
        case .failure, .degraded, .rpoMissed, .gap, .slotDanger, .staleBase, .test: []
        }
    }

    /// - Returns: what is to go out now; `nil`: nothing.
    public mutating func admit(_ event: AgentEvent, at time: Moment) -> Notice? {
        for kind in Self.ended(by: event.kind) { stories[Topic(kind: kind, source: event.source)] = nil }
        guard kinds.contains(event.kind) || event.kind == .test else { return nil }
        guard !Self.single.contains(event.kind) else { return emit(Notice(event), at: time) }
        let topic = Topic(kind: event.kind, source: event.source)
        if var story = stories[topic], time - story.told < Self.repetition {
            story.repeats += 1
            story.last = event
            stories[topic] = story
            return nil
        }
        let repeats = stories[topic].map { $0.repeats > 0 ? $0.repeats + 1 : 0 } ?? 0
        if stories.count >= Self.maximumTopics { stories = stories.filter { time - $0.value.told < Self.repetition } }
        if stories.count < Self.maximumTopics { stories[topic] = Story(told: time, last: event) }
        return emit(Notice(event, repeats: repeats), at: time)
    }

    /// What has become due since: repetitions, and the number of those left out. To be asked every minute or so.
    public mutating func due(at time: Moment) -> [Notice] {
        var notices: [Notice] = []
        for (topic, story) in stories.sorted(by: { $0.value.last.time < $1.value.last.time }) where time - story.told >= Self.repetition {
            guard story.repeats > 0 else {
                stories[topic] = nil
                continue
            }
            stories[topic] = Story(told: time, last: story.last)
            if let notice = emit(Notice(story.last, repeats: story.repeats), at: time) { notices.append(notice) }
        }
        if let last = lastLeftOut, hasRoom(at: time) {
            // It is told itself now.
            leftOut[last.kind] = leftOut[last.kind].flatMap { $0 > 1 ? $0 - 1 : nil }
            if let notice = emit(Notice(last), at: time) { notices.append(notice) }
        }
        return notices
    }

    private mutating func hasRoom(at time: Moment) -> Bool {
        // A clock that was set back must not keep everybody silent.
        sent.removeAll { time - $0 >= limit.period || $0 > time }
        return sent.count < limit.count
    }

    private mutating func emit(_ notice: Notice, at time: Moment) -> Notice? {
        guard hasRoom(at: time) else {
            leftOut[notice.event.kind, default: 0] += 1
            lastLeftOut = notice.event
            return nil
        }
        sent.append(time)
        var notice = notice
        notice.leftOut = leftOut
        leftOut = [:]
        lastLeftOut = nil
        return notice
    }
}
