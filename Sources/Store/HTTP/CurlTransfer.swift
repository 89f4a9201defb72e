import CCurl
import Glibc
import Synchronization

/// One request on its way, and what has come back so far.
///
/// Everything but `cancelled` belongs to the lane's thread once the transfer was handed over.
final class CurlTransfer: @unchecked Sendable {
    /// Set by any thread.
    final class Flag: Sendable { let isSet = Atomic(false) }

    let id: UInt64
    let request: HTTPRequest
    let options: TransportOptions
    let bandwidth: Bandwidth?
    let cancelled: Flag
    private var continuation: CheckedContinuation<HTTPResponse, any Error>?

    private var handle: UnsafeMutableRawPointer?
    private var headerList: UnsafeMutablePointer<curl_slist>?
    private let errorText = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))

    private var sent = 0
    private var head = ResponseHead()
    private var body: [UInt8] = []
    /// Why we ended it ourselves.
    private var refusal: HTTPFailure?
    private var watch: StallWatch
    /// Bytes that each direction was let through and has not moved yet.
    private var allowance = [0, 0]
    /// `CURLPAUSE_…`: the directions that wait in line.
    private var paused: Int32 = 0

    init(
        id: UInt64, _ request: HTTPRequest, _ options: TransportOptions, _ bandwidth: Bandwidth?, _ cancelled: Flag,
        _ continuation: CheckedContinuation<HTTPResponse, any Error>
    ) {
        self.id = id
        self.request = request
        self.options = options
        self.bandwidth = bandwidth
        self.cancelled = cancelled
        self.continuation = continuation
        watch = StallWatch(timeout: options.stallTimeout)
        errorText.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
    }

    deinit { errorText.deallocate() }

    // MARK: Beginning and end

    /// - Returns: the handle that is to be run, or `nil` when the request cannot be sent.
    func prepare() -> UnsafeMutableRawPointer? {
        guard request.scheme == "https" || request.scheme == "http", !request.host.isEmpty, request.path.hasPrefix("/") else {
            refusal = HTTPFailure(.request, "'\(request.summary)' cannot be sent: it has no address of HTTP.")
            return nil
        }
        for (name, value) in request.headers + [("", request.url)] where (name + value).utf8.contains(where: { $0 < 0x20 && $0 != 9 || $0 == 0x7F }) {
            refusal = HTTPFailure(.request, "'\(request.method.rawValue) \(request.server)' cannot be sent: it has a line break or the like in it.")
            return nil
        }
        guard let handle = curl_easy_init() else {
            refusal = HTTPFailure(.request, "libcurl has no memory for a request.")
            return nil
        }
        self.handle = handle
        setRequest(handle)
        setConnection(handle)
        setCallbacks(handle)
        return handle
    }

    private func setRequest(_ handle: UnsafeMutableRawPointer) {
        tm_curl_set_text(handle, CURLOPT_URL, request.url)
        tm_curl_set_text(handle, CURLOPT_PROTOCOLS_STR, "http,https")
        tm_curl_set_long(handle, CURLOPT_PATH_AS_IS, 1)
        switch request.method {
        case .head: tm_curl_set_long(handle, CURLOPT_NOBODY, 1)
        case .get where request.body.isEmpty: tm_curl_set_long(handle, CURLOPT_HTTPGET, 1)
        case .delete where request.body.isEmpty: tm_curl_set_text(handle, CURLOPT_CUSTOMREQUEST, "DELETE")
        default:
            tm_curl_set_long(handle, CURLOPT_UPLOAD, 1)
            tm_curl_set_offset(handle, CURLOPT_INFILESIZE_LARGE, curl_off_t(request.body.count))
            tm_curl_set_text(handle, CURLOPT_CUSTOMREQUEST, request.method.rawValue)
        }
        // The lengths are ours to say, and nobody waits for 100 Continue.
        let own = ["content-length", "transfer-encoding", "expect"]
        var lines = ["Expect:"]
        for (name, value) in request.headers where !own.contains(name.lowercased()) { lines.append(value.isEmpty ? "\(name);" : "\(name): \(value)") }
        if request["user-agent"] == nil { lines.append("User-Agent: tidemark") }
        for line in lines { headerList = curl_slist_append(headerList, line) }
        tm_curl_set_pointer(handle, CURLOPT_HTTPHEADER, headerList)
    }

    private func setConnection(_ handle: UnsafeMutableRawPointer) {
        tm_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        tm_curl_set_long(handle, CURLOPT_QUICK_EXIT, 1)  // a name server that does not answer holds up nobody else
        tm_curl_set_long(handle, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS)
        tm_curl_set_long(handle, CURLOPT_SSL_VERIFYPEER, 1)
        tm_curl_set_long(handle, CURLOPT_SSL_VERIFYHOST, 2)
        tm_curl_set_long(handle, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2)
        tm_curl_set_long(handle, CURLOPT_CA_CACHE_TIMEOUT, 60)
        if let file = options.caFile { tm_curl_set_text(handle, CURLOPT_CAINFO, file) }
        if let proxy = options.proxy { tm_curl_set_text(handle, CURLOPT_PROXY, proxy) }
        tm_curl_set_long(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        tm_curl_set_long(handle, CURLOPT_CONNECTTIMEOUT_MS, Int((options.connectTimeout * 1000).rounded(.up)))
        tm_curl_set_long(handle, CURLOPT_TCP_KEEPALIVE, 1)
        tm_curl_set_long(handle, CURLOPT_BUFFERSIZE, bandwidth?.piece(.download) ?? 128 << 10)
        tm_curl_set_long(handle, CURLOPT_UPLOAD_BUFFERSIZE, 128 << 10)
    }

    private func setCallbacks(_ handle: UnsafeMutableRawPointer) {
        let context = Unmanaged.passUnretained(self).toOpaque()
        tm_curl_set_pointer(handle, CURLOPT_ERRORBUFFER, errorText)
        for option in [CURLOPT_READDATA, CURLOPT_WRITEDATA, CURLOPT_HEADERDATA, CURLOPT_SEEKDATA, CURLOPT_PREREQDATA] {
            tm_curl_set_pointer(handle, option, context)
        }
        tm_curl_set_data_function(handle, CURLOPT_READFUNCTION) { bytes, size, count, context in
            CurlTransfer.of(context).give(UnsafeMutableRawBufferPointer(start: bytes, count: size * count))
        }
        tm_curl_set_data_function(handle, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            CurlTransfer.of(context).receive(UnsafeRawBufferPointer(start: bytes, count: size * count))
        }
        tm_curl_set_data_function(handle, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            CurlTransfer.of(context).receiveHead(UnsafeRawBufferPointer(start: bytes, count: size * count))
        }
        tm_curl_set_seek(handle) { context, offset, origin in
            guard origin == SEEK_SET else { return CURL_SEEKFUNC_FAIL }
            CurlTransfer.of(context).sent = Int(offset)
            return CURL_SEEKFUNC_OK
        }
        tm_curl_set_prerequest(handle) { context, _, _, _, _ in
            CurlTransfer.of(context).touch()
            return CURL_PREREQFUNC_OK
        }
        tm_curl_set_socket(handle) { _, _, address in
            guard let address else { return CURL_SOCKET_BAD }
            // No child process inherits it. What waits in the kernel is kept short, so that a slow line is not taken for a stalled one.
            let type = address.pointee.socktype | Int32(SOCK_CLOEXEC.rawValue)
            let descriptor = socket(address.pointee.family, type, address.pointee.protocol)
            var low: Int32 = 256 << 10
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, &low, 4)
            return descriptor
        }
    }

    /// Frees what curl holds and answers whoever waits; once.
    func finish(_ code: CURLcode) {
        let result = outcome(code)
        if let bandwidth { for way in Bandwidth.Direction.allCases { bandwidth.leave(id, way, unused: allowance[way.rawValue]) } }
        if let handle { curl_easy_cleanup(handle) }
        handle = nil
        curl_slist_free_all(headerList)
        headerList = nil
        body = []
        continuation?.resume(with: result)
        continuation = nil
    }

    /// As `finish`, with a reason of our own.
    func finish(_ failure: HTTPFailure) {
        refusal = failure
        finish(CURLE_ABORTED_BY_CALLBACK)
    }

    private func outcome(_ code: CURLcode) -> Result<HTTPResponse, any Error> {
        if let refusal { return .failure(refusal) }
        guard let handle, code == CURLE_OK else { return .failure(failure(code).failure) }
        // curl is content with the first line of an answer.
        guard head.isComplete else { return .failure(failure(CURLE_PARTIAL_FILE).failure) }
        let status = long(handle, CURLINFO_RESPONSE_CODE)
        // The server itself never asks for a proxy's password.
        if status == 407 { return .failure(HTTPFailure.proxyRefused(request.server, status: status)) }
        return .success(HTTPResponse(status: status, headers: head.headers, body: body))
    }

    private func failure(_ code: CURLcode) -> CurlFailure {
        // Only what comes behind a user and a password.
        let proxy = options.proxy?.split(separator: "@").last?.split(separator: "/").last.map(String.init)
        let number = handle.map { long($0, CURLINFO_OS_ERRNO) } ?? 0
        return CurlFailure(
            code: code, server: request.server, proxy: proxy, detail: String(cString: errorText),
            reason: number == 0 ? nil : String(cString: strerror(Int32(number))),
            proxyStatus: handle.map { long($0, CURLINFO_HTTP_CONNECTCODE) } ?? 0, connectTimeout: options.connectTimeout, caFile: options.caFile)
    }

    private func long(_ handle: UnsafeMutableRawPointer, _ info: CURLINFO) -> Int {
        var value = 0
        tm_curl_get_long(handle, info, &value)
        return value
    }

    // MARK: Bytes

    private static func of(_ context: UnsafeMutableRawPointer?) -> CurlTransfer {
        Unmanaged<CurlTransfer>.fromOpaque(context!).takeUnretainedValue()
    }

    private func touch(_ bytes: Int = 0) { watch.moved(bytes, at: steadySeconds()) }

    private func give(_ room: UnsafeMutableRawBufferPointer) -> Int {
        touch()
        var count = min(room.count, request.body.count - sent)
        if count > 0, let bandwidth {
            count = min(count, bandwidth.piece(.upload))
            guard passes(count, .upload) else { return Int(CURL_READFUNC_PAUSE) }
        }
        request.body.withUnsafeBytes { room.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[sent..<sent + count])) }
        sent += count
        touch(count)
        return count
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) -> Int {
        touch(bytes.count)
        guard body.count + bytes.count <= request.responseLimit else {
            refusal = .tooLong(request)
            return 0
        }
        if bytes.count > 0, bandwidth != nil, !passes(bytes.count, .download) { return Int(CURL_WRITEFUNC_PAUSE) }
        body.append(contentsOf: bytes)
        return bytes.count
    }

    private func receiveHead(_ line: UnsafeRawBufferPointer) -> Int {
        touch(line.count)
        let wasComplete = head.isComplete
        guard head.add(line: line) else {
            refusal = HTTPFailure(.malformed, "What \(request.server) answered begins with more than \(ResponseHead.limit) bytes of headers.")
            return 0
        }
        if head.isComplete, !wasComplete, request.method != .head, let length = head.contentLength, length > 0 {
            guard length <= request.responseLimit else {
                refusal = .tooLong(request)
                return 0
            }
            body.reserveCapacity(length)
        }
        return line.count
    }

    /// Whether so many bytes may move now; if not, the direction is paused and waits in line.
    private func passes(_ bytes: Int, _ way: Bandwidth.Direction) -> Bool {
        let missing = bytes - allowance[way.rawValue]
        guard missing <= 0 || bandwidth?.take(missing, way, for: id) != false else {
            paused |= Self.pause(way)
            return false
        }
        allowance[way.rawValue] = max(0, -missing)
        return true
    }

    /// Goes on with `bytes` more.
    ///
    /// - Returns: how it ended, when going on ended it.
    func admit(_ bytes: Int, _ way: Bandwidth.Direction) -> CURLcode? {
        guard let handle else { return nil }
        watch.begin(at: steadySeconds())
        allowance[way.rawValue] += bytes
        paused &= ~Self.pause(way)
        let code = curl_easy_pause(handle, paused)
        return code == CURLE_OK ? nil : code
    }

    private static func pause(_ way: Bandwidth.Direction) -> Int32 { way == .upload ? CURLPAUSE_SEND : CURLPAUSE_RECV }

    /// When it counts as stalled, in seconds of the steady clock; `nil` while connecting, which curl limits, and while it waits in line.
    var stallDeadline: Double? { paused == 0 ? watch.deadline : nil }

    /// Once that has passed.
    var stall: HTTPFailure { HTTPFailure(.timeout, watch.reason(request.server)) }
}

extension HTTPFailure {
    static func tooLong(_ request: HTTPRequest) -> HTTPFailure {
        HTTPFailure(.tooLong, "\(request.server) answered with more than the \(request.responseLimit) bytes that were expected.")
    }
}

/// Seconds of the clock that nobody sets.
func steadySeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
