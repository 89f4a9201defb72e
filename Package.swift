// swift-tools-version: 6.2
import PackageDescription

/// Settings of every Swift target: Swift 6 language mode, explicit existentials, and no warning survives.
let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .treatAllWarnings(as: .error),
]

func module(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], fixtures: Bool = false) -> Target {
    .testTarget(
        name: name, dependencies: dependencies + ["ArchiveTesting", "Digests"],
        resources: fixtures ? [.copy("Fixtures")] : [], swiftSettings: settings)
}

let package = Package(
    name: "tidemark",
    products: [.executable(name: "tidemark", targets: ["tidemark"])],
    targets: [
        // C libraries of the system, one module map each.
        .systemLibrary(name: "CLibpq", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CYaml", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
        .systemLibrary(name: "CCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .systemLibrary(name: "CMicrohttpd", pkgConfig: "libmicrohttpd", providers: [.apt(["libmicrohttpd-dev"])]),
        .systemLibrary(name: "CGit2", pkgConfig: "libgit2", providers: [.apt(["libgit2-dev"])]),
        .systemLibrary(name: "CSystem"),
        // CRC-32C over the processor's instruction, with a table where there is none.
        .target(name: "CHash", cSettings: [.unsafeFlags(["-O2"])]),

        // The flow: source → pack → store → catalog → plan → restore. Each line may import only what it names.
        module("ArchiveCore", ["CHash"]),
        module("Digests", ["CCrypto"]),
        module("DurableIO", ["ArchiveCore", "CSystem"]),
        module("Runtime", ["ArchiveCore", "CSystem"]),
        module("Source", ["ArchiveCore"]),
        module("SourcePostgres", ["ArchiveCore", "Source", "DurableIO", "Runtime", "Digests", "CLibpq"]),
        module("SourceGitaly", ["ArchiveCore", "Source", "DurableIO", "Runtime", "Digests"]),
        module("Pack", ["ArchiveCore", "Digests", "CZstd", "CCrypto"]),
        module("Store", ["ArchiveCore", "DurableIO", "Runtime", "Digests", "CCurl", "CCrypto"]),
        module("Catalog", ["ArchiveCore", "Source", "Pack", "Store", "Lag", "Digests", "Runtime"]),
        module("Planner", ["ArchiveCore"]),
        module("Lag", ["ArchiveCore"]),
        module("Restore", ["ArchiveCore", "Source", "Planner", "Catalog", "Pack", "Store", "DurableIO", "Runtime", "Digests"]),
        module("Retention", ["ArchiveCore", "Source", "Planner", "Catalog", "Restore", "Store", "Runtime"]),
        module("CrossCheck", ["ArchiveCore", "Source", "DurableIO", "Runtime", "CGit2"]),
        module("Sidecar", ["ArchiveCore", "Source", "Catalog", "Planner", "Lag", "Pack", "Store", "DurableIO", "Runtime", "Digests"]),
        module("Notify", ["ArchiveCore", "Sidecar", "Store", "Runtime", "Digests", "CCurl"]),
        module("StatusServer", ["ArchiveCore", "Sidecar", "Lag", "Runtime", "CMicrohttpd"]),
        .executableTarget(
            name: "tidemark",
            dependencies: [
                "ArchiveCore", "Digests", "DurableIO", "Runtime", "Source", "SourcePostgres", "SourceGitaly", "Pack", "Store", "Catalog",
                "Planner", "Lag", "Restore", "Retention", "CrossCheck", "Sidecar", "Notify", "StatusServer", "CYaml",
            ], swiftSettings: settings),

        // Test support and tests.
        .executableTarget(
            name: "archive-generator", dependencies: ["ArchiveCore", "ArchiveTesting", "Source", "Pack", "Store", "Catalog", "Lag"], path: "Sources/ArchiveGenerator",
            swiftSettings: settings),
        .executableTarget(
            name: "store-bench", dependencies: ["ArchiveCore", "DurableIO", "Runtime", "Store"], path: "Sources/StoreBench", swiftSettings: settings),
        module("ArchiveTesting", ["ArchiveCore", "Source", "Store", "DurableIO", "Runtime", "Digests"]),
        tests("ArchiveCoreTests", ["ArchiveCore"]),
        tests("RuntimeTests", ["Runtime", "DurableIO"]),
        tests("StoreTests", ["Store", "DurableIO", "Runtime", "CCurl"]),
        tests("CopyTests", ["Sidecar", "Restore", "Planner", "Catalog", "Pack", "Store", "Source", "SourcePostgres", "SourceGitaly", "DurableIO", "Runtime"]),
        tests("PackTests", ["Pack", "Catalog", "Planner", "Store", "Runtime"], fixtures: true),
        tests("RestoreTests", ["Restore", "Planner", "Catalog", "Pack", "Store", "SourceGitaly", "DurableIO"]),
        tests("ConsistencyTests", ["Restore", "Planner", "Catalog", "Pack", "Store", "Source"]),
        tests("RestoreLogTests", ["Restore", "Planner", "Catalog", "Pack", "Store", "Source", "SourceGitaly", "SourcePostgres"]),
        tests("SourceGitalyTests", ["SourceGitaly", "Source"], fixtures: true),
        tests("SourcePostgresTests", ["SourcePostgres", "Source", "Runtime", "Catalog", "Pack", "Store"]),
        tests(
            "CrossCheckTests", ["CrossCheck", "Source", "SourcePostgres", "SourceGitaly", "Restore", "Catalog", "Pack", "Store", "DurableIO", "Runtime"]),
        tests("LagTests", ["Lag", "Catalog", "Sidecar", "Source", "Pack", "Store", "Runtime"]),
        tests(
            "KeepingTests",
            ["Sidecar", "Planner", "Catalog", "Restore", "Retention", "Source", "Pack", "Store", "SourceGitaly", "SourcePostgres", "DurableIO", "Runtime"]),
        tests("NotifyTests", ["Notify", "StatusServer", "Sidecar", "Lag", "Store", "Runtime", "DurableIO"]),
        tests("CommandTests", ["tidemark", "DurableIO", "Runtime", "Source"]),
        tests("GeneratorTests", ["archive-generator", "Restore", "Planner", "Catalog", "Store", "SourceGitaly", "SourcePostgres"]),
    ]
)
