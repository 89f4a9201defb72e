import ArchiveCore
import Sidecar

/// Who is told of which events.
public struct Recipient: Sendable {
    /// The kinds that it hears of.
    public var kinds: Set<AgentEvent.Kind>

    public init(kinds: Set<AgentEvent.Kind>) { self.kinds = kinds }
}
