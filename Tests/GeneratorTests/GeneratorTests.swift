import ArchiveCore
import ArchiveTesting
import Catalog
import Planner
import Restore
import SourceGitaly
import SourcePostgres
import Store
import Testing

@testable import archive_generator

@Suite("Generated archives")
struct GeneratorTests {
    private let directory: TemporaryDirectory
    private let shape: Shape

    init() throws {
        directory = try TemporaryDirectory()
        var shape = Shape()
        shape.days = 3
        shape.segments = 1800
        shape.packs = 1800
        shape.entries = 18_000
        shape.partitions = 50
        shape.commitsInSegment = 10
        shape.targets = ["2025-01-02T03:15:00Z", "2025-01-02T15:00:00Z"].compactMap { Moment($0) }
        self.shape = shape
    }

    private func generate(_ name: String) async throws -> Catalog {
        _ = try await Generator.generate(shape, in: "\(directory.path)/\(name)")
        return try await Catalog.open(FileStore(path: "\(directory.path)/\(name)"))
    }

    @Test("two of the same seed are the same but for their ids")
    func deterministic() async throws {
        let (a, b) = (try await generate("a"), try await generate("b"))
        let keys = try await a.store.listAll(prefix: "").map(\.key)
        #expect(try await b.store.listAll(prefix: "").map(\.key) == keys)
        #expect(keys.count > 2 * (shape.segments + shape.packs))
        for key in keys where key.path != "tidemark.json" { #expect(try await a.store.get(key) == b.store.get(key), "\(key)") }
    }

    @Test("chapters say of every piece whose index is there just what the index says")
    func chapters() async throws {
        let catalog = try await generate("a")
        var compared = 0
        for source in try await catalog.sources() {
            let incarnation = try await catalog.incarnations(of: source)[0]
            let branch = try await catalog.archivedBranches(of: incarnation)[0]
            for name in try await catalog.chapters(of: incarnation, branch: branch) {
                let chapter = try await catalog.chapter(name, of: incarnation)
                var real = chapter
                for (n, piece) in chapter.pieces.enumerated() {
                    // Indexes that no plan reads are empty files.
                    guard try await !catalog.store.get(ObjectKey(known: catalog.dataKey(piece.name, of: incarnation).path + ".idx")).isEmpty else { continue }
                    real.pieces[n] = PieceSummary(piece.name, try await catalog.index(of: piece.name, of: incarnation))
                    compared += 1
                }
                #expect(real.encoded() == chapter.encoded())
            }
        }
        #expect(compared > 1000)
    }

    @Test("plans are made over them; a target inside a storage base's window takes the base before")
    func plans() async throws {
        let loader = PlanLoader(catalog: try await generate("a"), kinds: [PostgresKind(), GitalyKind()])
        let inside = try await loader.plan(PlanRequest(target: .time(shape.targets[0])), sources: ["default", "main"])
        #expect(inside.plans.map(\.base.id) == ["20250101T030000Z-0000", "20250102T020000Z-0000"])
        let plan = try await loader.plan(PlanRequest(target: .time(shape.targets[1])), sources: ["default", "main"])
        #expect(plan.plans.map(\.base.id) == ["20250102T030000Z-0000", "20250102T020000Z-0000"])
        #expect(plan.plans[0].cuts.count == shape.partitions)
        #expect(plan.plans[0].precision?.before != nil && plan.plans[0].precision?.after != nil)
        // Half a day of 600 pieces a day, and what was written while the base was taken.
        for part in plan.plans { #expect((290...330).contains(part.pieces.count), "\(part.source): \(part.pieces.count)") }
    }
}
