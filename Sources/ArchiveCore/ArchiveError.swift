/// What failed, with what, and what the reader can do about it.
public struct ArchiveError: Error, CustomStringConvertible, Sendable {
    /// A stable name of a kind of failure, and the exit status that belongs to it.
    public struct Code: Hashable, Sendable {
        public let name: String
        /// 1 failed, 2 usage, 3 refused, 4 finished but something was lost or skipped.
        public let exitStatus: Int32
        /// Whether the same attempt may succeed later with nobody doing anything.
        public let isRetryable: Bool

        public init(_ name: String, exitStatus: Int32 = 1, isRetryable: Bool = false) {
            self.name = name
            self.exitStatus = exitStatus
            self.isRetryable = isRetryable
        }

        public static let usage = Code("usage", exitStatus: 2)
        public static let configuration = Code("configuration", exitStatus: 2)
        public static let inputOutput = Code("input-output")
        public static let storeUnavailable = Code("store-unavailable", isRetryable: true)
        public static let objectMissing = Code("object-missing")
        public static let objectExists = Code("object-exists")
        public static let objectDamaged = Code("object-damaged")
        public static let archiveExists = Code("archive-exists", exitStatus: 3)
        public static let archiveMissing = Code("archive-missing")
        public static let archiveNewer = Code("archive-newer", exitStatus: 3)
        public static let archiveDamaged = Code("archive-damaged")
        public static let archiveGap = Code("archive-gap", exitStatus: 3)
        public static let twoHistories = Code("two-histories", exitStatus: 3)
        public static let targetUnreachable = Code("target-unreachable", exitStatus: 3)
        public static let targetNotEmpty = Code("target-not-empty", exitStatus: 3)
        public static let alreadyRunning = Code("already-running", exitStatus: 3)
        /// Somebody else may have begun what only one may do at a time.
        public static let leaseLost = Code("lease-lost", isRetryable: true)
        public static let sourceUnreachable = Code("source-unreachable", isRetryable: true)
        /// The source will not serve what is asked before an administrator changes something.
        public static let sourceRefused = Code("source-refused")
        public static let sourceUnsupported = Code("source-unsupported", exitStatus: 3)
        public static let logDamaged = Code("log-damaged")
        public static let logMissing = Code("log-missing")
        public static let recoveryFailed = Code("recovery-failed")
        public static let baseUnusable = Code("base-unusable")
        public static let interrupted = Code("interrupted")
        /// Something is encrypted and no identity was given, or none that opens it.
        public static let keyMissing = Code("key-missing", exitStatus: 3)
        public static let keyWrong = Code("key-wrong", exitStatus: 3)
        /// The configuration and the archive do not agree on encryption.
        public static let encryptionDiffers = Code("encryption-differs", exitStatus: 3)
    }

    public let code: Code
    /// One past-tense sentence that carries the names and numbers. Never a secret.
    public let message: String
    /// The operator's next step; `nil` when there is none.
    public let remedy: String?
    public let cause: (any Error)?

    public init(_ code: Code, _ message: String, remedy: String? = nil, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.remedy = remedy
        self.cause = cause
    }

    public var description: String {
        var text = message
        if let cause { text += " (\(cause))" }
        if let remedy { text += " " + remedy }
        return text
    }
}
