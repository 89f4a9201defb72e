import ArchiveCore
import Sidecar

/// Who is told of which events, and how.
public struct Recipient: Sendable, Hashable {
    /// How many notifications within which time.
    public struct Limit: Sendable, Hashable {
        public var count: Int
        /// Seconds.
        public var period: Double

        /// - Precondition: both are positive, and `count` is at most 1000.
        public init(count: Int, period: Double) {
            precondition((1...1000).contains(count) && period > 0)
            self.count = count
            self.period = period
        }

        public static let standard = Limit(count: 10, period: 3600)
    }

    public enum Channel: Sendable, Hashable {
        case webhook(Webhook)
        case email(Mailbox)
        /// A program with its arguments.
        case command([String])
    }

    public var channel: Channel
    /// The kinds that it hears of, beside `.test`.
    public var kinds: Set<AgentEvent.Kind>
    public var limit: Limit

    /// All but success.
    public static let standardKinds = Set(AgentEvent.Kind.allCases).subtracting([.success, .test])

    public init(_ channel: Channel, kinds: Set<AgentEvent.Kind> = standardKinds, limit: Limit = .standard) {
        self.channel = channel
        self.kinds = kinds
        self.limit = limit
    }

    /// For logs, metrics and errors. The path of a webhook is a secret, and a command's arguments may be.
    public var name: String {
        switch channel {
        case .webhook(let webhook): "webhook \(webhook.shown)"
        case .email(let mailbox): "email \(mailbox.to.joined(separator: ","))"
        case .command(let words): "command \(words.first ?? "")"
        }
    }
}

/// Something that goes out to one recipient.
public struct Notice: Sendable, Hashable {
    /// The newest event that it stands for.
    public var event: AgentEvent
    /// How often the same was told since the last message of it; 0: it is the first.
    public var repeats = 0
    /// Others that were kept back since the last message, because there were too many; by kind.
    public var leftOut: [AgentEvent.Kind: Int] = [:]

    public init(_ event: AgentEvent, repeats: Int = 0, leftOut: [AgentEvent.Kind: Int] = [:]) {
        self.event = event
        self.repeats = repeats
        self.leftOut = leftOut
    }
}

/// From where notifications come.
public struct Origin: Sendable, Hashable {
    public var host: String
    /// The archive's place, without credentials.
    public var archive: String
    public var version: String

    public init(host: String, archive: String, version: String) {
        self.host = host
        self.archive = archive
        self.version = version
    }
}

extension ArchiveError.Code {
    /// A notification that did not go out; the same attempt may succeed later.
    public static let notificationFailed = ArchiveError.Code("notification-failed", isRetryable: true)
    /// A notification that its recipient will not take as it is.
    public static let notificationRefused = ArchiveError.Code("notification-refused")
}
