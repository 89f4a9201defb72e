import ArchiveTesting
import DurableIO
import Source
import Testing

@testable import SourceGitaly

@Suite("Gitaly's process")
struct ProcessTests {
    @Test("is found by its name, and its environment is read where this account may")
    func processes() throws {
        let root = try TemporaryDirectory()
        func process(_ id: String, _ comm: String, _ environment: String?) throws {
            try Files.makeDirectory("\(root.path)/\(id)")
            try Files.writeDurably(Array(comm.utf8), to: "\(root.path)/\(id)/comm")
            if let environment { try Files.writeDurably(Array(environment.utf8), to: "\(root.path)/\(id)/environ") }
        }
        try process("10", "gitaly\n", "A=b\0GITALY_KEEP_WAL_LOG_ENTRIES=1\0C=d\0")
        try process("11", "gitaly\n", "A=GITALY_KEEP_WAL_LOG_ENTRIES=1\0XGITALY_KEEP_WAL_LOG_ENTRIES=1\0")
        try process("9", "gitaly\n", nil)
        try process("12", "gitaly-hooks\n", "GITALY_KEEP_WAL_LOG_ENTRIES=1\0")
        try process("self", "gitaly\n", "")
        let found = GitalyProcess.all(in: root.path)
        #expect(found.map(\.id) == [9, 10, 11] && found.map(\.keepsEntries) == [nil, true, false])
        #expect(GitalyProcess.all(in: root.path + "/none").isEmpty)
    }

    @Test("the variable counts whatever its value is; what was cut off is not known")
    func variable() {
        #expect(GitalyProcess.keeps(Array("GITALY_KEEP_WAL_LOG_ENTRIES=\0".utf8)) == true)
        #expect(GitalyProcess.keeps(Array("GITALY_KEEP_WAL_LOG_ENTRIES\0".utf8)) == false)
        #expect(GitalyProcess.keeps([]) == false)
        #expect(GitalyProcess.keeps([UInt8](repeating: 0x41, count: 1 << 16)) == nil)
    }

    @Test("what follows from it", arguments: [
        ([] as [Bool?], 0, 0, nil as String?), ([], 3, 7, nil), ([], 3, 0, "warning"), ([nil], 3, 0, "warning"), ([nil], 3, 7, nil), ([false], 3, 7, "failure"), ([true], 3, 0, "ok"),
        ([true, false], 3, 7, nil), ([false, false], 0, 0, "failure"), ([true, nil], 3, 0, "warning"),
    ])
    func keeping(_ processes: [Bool?], _ partitions: Int, _ entries: Int, _ level: String?) {
        #expect(GitalyComponent.keeping(processes, partitions: partitions, entries: entries, name: "default")?.level.rawValue == level)
    }
}
