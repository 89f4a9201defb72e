import CCurl
import Glibc
import Runtime
import Synchronization

/// The one thread of a process that moves bytes over HTTP. It runs a multi handle of libcurl, which keeps connections and uses them again;
/// other threads hand transfers over and wake it.
///
/// It starts with the first request: a process that makes none has no such thread.
final class CurlLane: Sendable {
    static let shared = CurlLane()

    private enum Command: Sendable {
        case start(CurlTransfer)
        case cancel(UInt64)
    }
    /// libcurl's multi handle; other threads call only `curl_multi_wakeup`, which may be called from any.
    private struct Multi: @unchecked Sendable { let handle: UnsafeMutableRawPointer }
    private let multi: Multi
    private let commands = Mutex<[Command]>([])
    private let lastID = Atomic<UInt64>(0)

    private init() {
        guard curl_global_init(Int(CURL_GLOBAL_ALL)) == CURLE_OK, let handle = curl_multi_init() else {
            preconditionFailure("libcurl cannot be used")
        }
        tm_curl_multi_set_long(handle, CURLMOPT_MAXCONNECTS, 256)
        multi = Multi(handle: handle)
        startThread { [self] in
            // A peer that is gone is an error of the transfer, never a signal.
            var all = sigset_t()
            sigfillset(&all)
            pthread_sigmask(SIG_BLOCK, &all, nil)
            var run = Run(multi: multi.handle)
            while true { run.turn(takeCommands()) }
        }
    }

    /// Carries a request to its answer; removes it at once when the task is cancelled.
    func send(_ request: HTTPRequest, _ options: TransportOptions, _ bandwidth: Bandwidth?) async throws -> HTTPResponse {
        let id = lastID.add(1, ordering: .relaxed).newValue
        let cancelled = CurlTransfer.Flag()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { post(.start(CurlTransfer(id: id, request, options, bandwidth, cancelled, $0))) }
        } onCancel: {
            // The cancellation may come before the start: then the start sees the flag.
            cancelled.isSet.store(true, ordering: .releasing)
            post(.cancel(id))
        }
    }

    private func post(_ command: Command) {
        commands.withLock { $0.append(command) }
        curl_multi_wakeup(multi.handle)
    }

    private func takeCommands() -> [Command] {
        commands.withLock { commands in
            defer { commands = [] }
            return commands
        }
    }

    /// What only the thread itself touches.
    private struct Run {
        let multi: UnsafeMutableRawPointer
        private var transfers: [UInt64: (transfer: CurlTransfer, handle: UnsafeMutableRawPointer)] = [:]
        private var ids: [UnsafeMutableRawPointer: UInt64] = [:]
        /// When stalled transfers are looked for again, in seconds of the steady clock.
        private var nextLook = 0.0

        init(multi: UnsafeMutableRawPointer) { self.multi = multi }

        /// One round: new requests, bytes, endings, what the bandwidth lets through, what stalls; then waits for more.
        mutating func turn(_ commands: [Command]) {
            for command in commands {
                switch command {
                case .start(let transfer): start(transfer)
                case .cancel(let id): end(id, failure: HTTPFailure(.cancelled, "The request was cancelled."))
                }
            }
            var running: Int32 = 0
            curl_multi_perform(multi, &running)
            collect()
            let limits = Dictionary(transfers.values.compactMap { $0.transfer.bandwidth.map { (ObjectIdentifier($0), $0) } }) { a, _ in a }.values
            for bandwidth in limits {
                for grant in bandwidth.admit() {
                    if let code = transfers[grant.id]?.transfer.admit(grant.bytes, grant.direction) { end(grant.id, code) }
                }
            }
            var patience = transfers.isEmpty ? 60 : endStalled()
            for bandwidth in limits { patience = min(patience, bandwidth.wait ?? patience) }
            // curl knows itself what else it waits for.
            curl_multi_poll(multi, nil, 0, Int32((patience * 1000).rounded(.up)), nil)
        }

        /// - Returns: seconds until it has to be called again.
        private mutating func endStalled() -> Double {
            let now = steadySeconds()
            guard now >= nextLook else { return nextLook - now }
            nextLook = now + 1
            for (id, entry) in transfers {
                guard let deadline = entry.transfer.stallDeadline else { continue }
                if deadline <= now {
                    end(id, failure: entry.transfer.stall)
                } else {
                    nextLook = min(nextLook, max(deadline, now + 0.05))
                }
            }
            return nextLook - now
        }

        private mutating func start(_ transfer: CurlTransfer) {
            if transfer.cancelled.isSet.load(ordering: .acquiring) { return transfer.finish(HTTPFailure(.cancelled, "The request was cancelled.")) }
            guard let handle = transfer.prepare() else { return transfer.finish(CURLE_URL_MALFORMAT) }
            guard curl_multi_add_handle(multi, handle) == CURLM_OK else { return transfer.finish(CURLE_OUT_OF_MEMORY) }
            transfers[transfer.id] = (transfer, handle)
            nextLook = min(nextLook, steadySeconds() + transfer.options.stallTimeout)
            ids[handle] = transfer.id
        }

        /// Ends what curl has finished.
        private mutating func collect() {
            var left: Int32 = 0
            while let message = curl_multi_info_read(multi, &left) {
                guard message.pointee.msg == CURLMSG_DONE, let id = ids[message.pointee.easy_handle] else { continue }
                end(id, message.pointee.data.result)
            }
        }

        private mutating func end(_ id: UInt64, _ code: CURLcode = CURLE_OK, failure: HTTPFailure? = nil) {
            guard let (transfer, handle) = transfers.removeValue(forKey: id) else { return }
            ids[handle] = nil
            curl_multi_remove_handle(multi, handle)
            if let failure { transfer.finish(failure) } else { transfer.finish(code) }
        }
    }
}
