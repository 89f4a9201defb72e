import ArchiveCore
import Foundation
import Glibc
import Runtime
import Synchronization

@testable import Store

/// A real server of S3 that tests share: moto, started by the first who asks and ended with this process, however that ends; or the
/// one that TIDEMARK_TEST_S3 names as `endpoint,bucket,key,secret`.
struct S3Server: Sendable {
    var endpoint: String
    var bucket: String
    var key = "AKIDTEST"
    var secret = "a-secret-for-tests"

    private static let running = Mutex<Task<S3Server, any Error>?>(nil)

    static func shared() async throws -> S3Server {
        let task = running.withLock { state in
            if let state { return state }
            let task = Task { try await begin() }
            state = task
            return task
        }
        return try await task.value
    }

    private static func begin() async throws -> S3Server {
        if let text = getenv("TIDEMARK_TEST_S3").map({ String(cString: $0) }) {
            let parts = text.split(separator: ",").map(String.init)
            guard parts.count == 4 else { throw ArchiveError(.configuration, "TIDEMARK_TEST_S3 is not endpoint,bucket,key,secret.") }
            return S3Server(endpoint: parts[0], bucket: parts[1], key: parts[2], secret: parts[3])
        }
        let port = try await blocking { try startMoto() }
        let server = S3Server(endpoint: "http://127.0.0.1:\(port)", bucket: "tidemark")
        let deadline = steadySeconds() + 60
        while (try? await server.ask(.head, "/")) == nil {
            guard steadySeconds() < deadline else { throw ArchiveError(.inputOutput, "moto did not answer within a minute.") }
            try await Task.sleep(for: .milliseconds(50))
        }
        _ = try await server.ask(.put, "/\(server.bucket)")
        return server
    }

    /// Whoever reads the pipe ends moto when it closes, as it does when this process is gone.
    private static func startMoto() throws -> UInt16 {
        let tools = getenv("TIDEMARK_TEST_TOOLS").map { String(cString: $0) } ?? "/var/cache/tidemark-test/tools/bin"
        guard access(tools + "/moto_server", X_OK) == 0 else {
            throw ArchiveError(
                .configuration, "There is no moto_server in \(tools).",
                remedy: "Run integration/test, which installs it, or set TIDEMARK_TEST_TOOLS to where it is.")
        }
        let port = try freePort()
        let life = Pipe()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", "\"$@\" & cat; kill -KILL $!", "sh", tools + "/moto_server", "-H", "127.0.0.1", "-p", "\(port)"]
        process.standardInput = life
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        lives.withLock { $0.append(life) }
        return port
    }
    private static let lives = Mutex<[Pipe]>([])

    private static func freePort() throws -> UInt16 {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(socket, address, length) == 0 && getsockname(socket, address, &length) == 0
            }
        }
        guard bound else { throw ArchiveError(.inputOutput, "No port of loopback is free.") }
        return UInt16(bigEndian: address.sin_port)
    }

    /// Sends a signed request past the store, as an administrator would.
    func ask(
        _ method: HTTPRequest.Method, _ path: String, query: [(name: String, value: String?)] = [], headers: [(name: String, value: String)] = [],
        body: String = ""
    ) async throws -> HTTPResponse {
        guard let address = ServiceEndpoint(endpoint) else { throw ArchiveError(.configuration, "'\(endpoint)' is no address.") }
        let request = HTTPRequest(
            method, scheme: address.scheme, host: address.host, path: path, query: query, headers: headers, body: Array(body.utf8))
        return try await CurlTransport().send(
            S3Signer(credentials: S3Credentials(accessKeyID: key, secretAccessKey: secret), region: "us-east-1").sign(request, at: now()))
    }

    var environment: [String: String] { ["AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "HOME": "/nonexistent"] }

    /// A store in a folder of its own, or in `folder`.
    func store(
        folder: String = "t" + String(UInt64.random(in: .min ... .max), radix: 16), bucket: String? = nil, options: String = "",
        transport: @escaping @Sendable (any HTTPTransport) -> any HTTPTransport = { $0 }, warn: @escaping @Sendable (String) -> Void = { _ in }
    ) throws -> S3Store {
        let environment = environment
        let place = try StoreLocation("s3://\(bucket ?? self.bucket)/\(folder)?endpoint=\(endpoint)\(options)")
        let store = try place.open(
            StoreContext(transport: { transport(CurlTransport($0)) }, environment: { environment[$0] }, now: { now() }, warn: warn))
        guard let store = store as? S3Store else { throw ArchiveError(.configuration, "\(place) is no S3.") }
        return store
    }
}

/// Takes a header out of every request, as a server does that does not know it, and signs what is left.
struct DeafTransport: HTTPTransport {
    var inner: any HTTPTransport
    var header: String
    var server: S3Server

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        var request = request
        request.headers.removeAll { $0.name.lowercased() == header }
        let signer = S3Signer(credentials: S3Credentials(accessKeyID: server.key, secretAccessKey: server.secret), region: "us-east-1")
        return try await inner.send(signer.sign(request, at: now()))
    }
}
