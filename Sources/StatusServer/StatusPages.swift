import ArchiveCore
import Sidecar

/// What each path of the status server answers. Pure.
public enum StatusPages {
    public static let paths = ["/healthz", "/readyz", "/metrics", "/status"]

    /// Seconds without a sign of life of the agent's tasks after which it counts as wedged.
    public static let patience = 60.0

    /// What a request is answered from.
    public struct Facts: Sendable {
        public var snapshot: StatusBoard.Snapshot
        public var process: ProcessFigures
        /// Seconds since the agent's tasks gave a sign of life.
        public var silence: Double
        public var time: Moment

        public init(snapshot: StatusBoard.Snapshot, process: ProcessFigures, silence: Double, time: Moment) {
            self.snapshot = snapshot
            self.process = process
            self.silence = silence
            self.time = time
        }
    }

    /// - Parameter path: without its query.
    public static func answer(method: String, path: String, _ facts: @autoclosure () -> Facts) -> Answer {
        guard paths.contains(path) else { return .text(404, "There is nothing at this path. There is: \(paths.joined(separator: " "))") }
        guard method == "GET" || method == "HEAD" else { return .text(405, "Only GET and HEAD are answered.", allow: "GET, HEAD") }
        let facts = facts()
        switch path {
        case "/healthz":
            guard facts.silence <= patience else { return .text(503, "The agent's tasks gave no sign of life for \(Int(facts.silence)) s.") }
            return .text(200, "ok")
        case "/readyz":
            let reasons = Readiness.reasons(facts.snapshot)
            return reasons.isEmpty ? .text(200, "ok") : .text(503, reasons.joined(separator: "\n"))
        case "/metrics":
            return Answer(status: 200, type: "text/plain; version=0.0.4; charset=utf-8", body: Array(Metrics.text(facts.snapshot, facts.process).utf8))
        default:
            return Answer(status: 200, type: "application/json", body: StatusDocument(facts.snapshot, at: facts.time).json())
        }
    }
}
