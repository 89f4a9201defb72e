import ArchiveCore
import ArchiveTesting
import Glibc
import Testing

@testable import Runtime

@Suite("The service manager")
struct ServiceManagerTests {
    /// A datagram socket as systemd has it.
    private struct Listener: ~Copyable {
        let handle: Int32

        init(_ name: String) throws {
            handle = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            var (address, length) = try #require(ServiceManager.address(name))
            let result = withUnsafePointer(to: &address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(handle, $0, length) } }
            try #require(result == 0, "bind: \(errno)")
            length = 0
        }

        deinit { close(handle) }

        func receive() -> String {
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = recv(handle, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
        }
    }

    @Test("is told over a path and over an abstract name, one datagram each")
    func sockets() throws {
        let directory = try TemporaryDirectory()
        for name in [directory.path + "/notify", "@tidemark-test-\(getpid())"] {
            let listener = try Listener(name)
            let manager = try #require(ServiceManager { $0 == "NOTIFY_SOCKET" ? name : nil })
            #expect(manager.watchdog == nil)
            try manager.notify("READY=1\nSTATUS=archiving")
            try manager.notify("STOPPING=1")
            #expect(listener.receive() == "READY=1\nSTATUS=archiving")
            #expect(listener.receive() == "STOPPING=1")
        }
    }

    @Test("one that is gone is an error, and no end of anything")
    func gone() throws {
        let directory = try TemporaryDirectory()
        let manager = try #require(ServiceManager { $0 == "NOTIFY_SOCKET" ? directory.path + "/none" : nil })
        #expect(throws: ArchiveError.self) { try manager.notify("READY=1") }
    }

    @Test("what is no socket is none", arguments: ["", "x", "relative/path", "/", "@", "vsock:2:1234", "/" + String(repeating: "a", count: 200)])
    func none(_ name: String) {
        #expect(ServiceManager { $0 == "NOTIFY_SOCKET" ? name : nil } == nil)
    }

    @Test("the watchdog's time counts for the process that it is meant for", arguments: [
        ("30000000", nil, 30.0 as Double?), ("30000000", "7", 30), ("30000000", "8", nil), ("30000000", "x", nil), ("0", nil, nil), ("-5", nil, nil), ("1e6", nil, nil),
        ("500000", "7", 0.5), ("99999999999999999999999", nil, nil),
    ] as [(String, String?, Double?)])
    func watchdog(_ time: String, _ process: String?, _ expected: Double?) {
        let environment = ["NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": time, "WATCHDOG_PID": process]
        #expect(ServiceManager(process: 7) { environment[$0] ?? nil }?.watchdog == expected)
    }
}
