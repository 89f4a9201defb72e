import ArchiveCore
import Runtime
import Synchronization

/// What the format of an archive says about places that hold the same one; the catalog knows it.
public struct PlaceRules: Sendable {
    /// The object that says which archive a place holds.
    public var identityKey: ObjectKey
    /// The archive's own name in such an object; `nil` when these bytes are none.
    public var archive: @Sendable ([UInt8]) -> String?
    /// Whether an object that a place does not have was replaced by another one that it has.
    public var isReplaced: @Sendable (ObjectKey, any ObjectStore) async throws -> Bool

    public init(
        identityKey: ObjectKey, archive: @escaping @Sendable ([UInt8]) -> String?,
        isReplaced: @escaping @Sendable (ObjectKey, any ObjectStore) async throws -> Bool
    ) {
        self.identityKey = identityKey
        self.archive = archive
        self.isReplaced = isReplaced
    }
}

/// Reads an archive from its primary and, object by object, from its copies where the primary does not have an object, cannot be read,
/// or has it damaged. What came from a copy is told to a report; nothing is put in order.
///
/// What there is, is what any of the places has: listings are put together. Only places count whose identity is the very same.
/// Writes go to the primary alone.
public final class FallbackStore: ObjectStore {
    private struct Place {
        let store: any ObjectStore
        var breaker = Breaker()
        /// Whether its identity was found to be the archive's.
        var isAdmitted = false
        /// It holds another archive: never asked again.
        var isForeign = false
        /// Why it did not serve when it was last asked.
        var failure: ArchiveError?
    }

    private let rules: PlaceRules
    private let report: FallbackReport
    private let clock: @Sendable () -> Double
    private let patience: Double
    /// The primary first.
    private let places: Mutex<[Place]>
    private let stores: [any ObjectStore]
    private let identity: [UInt8]?

    /// Looks which of the places hold the same archive as the primary or, where that cannot say, as the copies that can.
    ///
    /// - Parameters:
    ///   - patience: seconds after which a copy is no longer waited for while the primary has answered, or another copy in its place.
    ///   - clock: seconds that never go back.
    /// - Throws: `.twoHistories` when the primary cannot say which archive it is, and the copies are of different ones.
    public static func open(
        primary: any ObjectStore, copies: [any ObjectStore], rules: PlaceRules, report: FallbackReport, patience: Double = 10,
        clock: @escaping @Sendable () -> Double
    ) async throws -> FallbackStore {
        let stores = [primary] + copies
        let answers = await identities(of: stores, rules: rules, patience: patience)
        try Task.checkCancellation()
        let named = zip(stores, answers).compactMap { store, answer in (try? answer.get()).flatMap(rules.archive).map { (store: store.description, archive: $0) } }
        if (try? answers[0].get()).flatMap(rules.archive) == nil, Set(named.map(\.archive)).count > 1 {
            throw ArchiveError(
                .twoHistories,
                "\(primary.description) does not say which archive it is, and the other places hold different ones: "
                    + named.map { "\($0.store): archive \($0.archive)" }.joined(separator: "; ") + ".",
                remedy: "Name only the places of the archive that is meant, such as --archive \(named[0].store).")
        }
        var places: [Place] = []
        var identity: [UInt8]?
        for (store, answer) in zip(stores, answers) {
            var place = Place(store: store)
            switch answer {
            case .success(let bytes) where rules.archive(bytes) == nil:
                place.failure = ArchiveError(.archiveDamaged, "'\(rules.identityKey)' in \(store.description) is damaged.")
            case .success(let bytes) where bytes != identity ?? bytes:
                place.isForeign = true
                place.failure = ArchiveError(.archiveMissing, "\(store.description) holds another archive.")
                report.note("\(store.description) holds another archive and was not read")
            case .success(let bytes):
                identity = bytes
                place.isAdmitted = true
            case .failure(let error):
                place.failure = error.code == .objectMissing ? ArchiveError(.archiveMissing, "There is no archive at \(store.description).") : error
                place.breaker.fail(at: clock())
            }
            places.append(place)
        }
        return FallbackStore(places: places, identity: identity, rules: rules, report: report, patience: patience, clock: clock)
    }

    /// What each place says it is, all being asked at once. The primary is waited for as long as it takes it to answer or to fail.
    private static func identities(of stores: [any ObjectStore], rules: PlaceRules, patience: Double) async -> [Result<[UInt8], ArchiveError>] {
        // Not a task group, which would wait for a place that hangs.
        let (ends, end) = AsyncStream.makeStream(of: (Int, Result<[UInt8], ArchiveError>).self)
        var tasks = stores.enumerated().map { place, store in
            Task {
                do { end.yield((place, .success(try await store.get(rules.identityKey)))) } catch {
                    end.yield((place, .failure(error as? ArchiveError ?? ArchiveError(.storeUnavailable, "\(store.description) could not be asked.", cause: error))))
                }
            }
        }
        defer { for task in tasks { task.cancel() } }
        var answers: [Int: Result<[UInt8], ArchiveError>] = [:]
        for await (place, answer) in ends {
            answers[place] = answer
            guard answers.count < stores.count else { break }
            let isKnown = answers.values.contains { (try? $0.get()).flatMap(rules.archive) != nil }
            guard answers[0] != nil, isKnown, tasks.count == stores.count else { continue }
            tasks.append(
                Task {
                    do { try await Task.sleep(for: .seconds(patience)) } catch { return }
                    end.finish()
                })
        }
        return stores.indices.map { answers[$0] ?? .failure(late(stores[$0], patience)) }
    }

    private static func late(_ store: any ObjectStore, _ seconds: Double) -> ArchiveError {
        ArchiveError(.storeUnavailable, "\(store.description) did not answer within \(seconds) s.")
    }

    private init(
        places: [Place], identity: [UInt8]?, rules: PlaceRules, report: FallbackReport, patience: Double, clock: @escaping @Sendable () -> Double
    ) {
        stores = places.map(\.store)
        self.places = Mutex(places)
        self.identity = identity
        self.rules = rules
        self.report = report
        self.patience = patience
        self.clock = clock
    }

    public var description: String { stores[0].description }
    public var parallelism: Int { stores[0].parallelism }

    // MARK: Writing

    /// - Throws: also `.storeUnavailable` where the primary's place holds nothing any more: it is not made anew by writing to it.
    public func put(_ bytes: [UInt8], at key: ObjectKey) async throws {
        do { _ = try await stores[0].get(rules.identityKey, range: nil) } catch let error as ArchiveError where error.code == .objectMissing {
            throw ArchiveError(.storeUnavailable, "There is no archive at \(stores[0].description).", remedy: "See whether its file system is mounted.", cause: error)
        }
        try await stores[0].put(bytes, at: key)
    }
    public func remove(_ key: ObjectKey) async throws { try await stores[0].remove(key) }
    public func remove(_ keys: [ObjectKey]) async throws { try await stores[0].remove(keys) }
    public func lockedUntil(_ key: ObjectKey) async throws -> Moment? { try await stores[0].lockedUntil(key) }
    public func examine() async -> [StoreFinding] { await stores[0].examine() }

    // MARK: Reading

    public func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await read(key, range: range) { $0 } }

    public func read<T: Sendable>(_ key: ObjectKey, range: Range<UInt64>?, proving proof: @Sendable ([UInt8]) async throws -> T) async throws -> T {
        var failures: [(place: Int, error: ArchiveError)] = []
        for place in stores.indices {
            guard try await admit(place) else { continue }
            let bytes: [UInt8]
            do { bytes = try await stores[place].get(key, range: range) } catch let error as ArchiveError {
                if error.code.isRetryable { fail(place, error) }
                failures.append((place, error))
                continue
            }
            do {
                let result = try await proof(bytes)
                if place > 0 { try await tell(key, from: place, failures) }
                return result
            } catch let error as ArchiveError where error.code == .objectDamaged || error.code == .archiveDamaged || error.code == .keyWrong {
                // An encrypted object whose beginning is damaged looks like one for somebody else.
                failures.append((place, error))
            }
        }
        throw failure(failures)
    }

    /// What is read from a copy is told, unless the primary has replaced it by something else since.
    private func tell(_ key: ObjectKey, from place: Int, _ failures: [(place: Int, error: ArchiveError)]) async throws {
        let reason = failures.first { $0.place == 0 }?.error ?? lastFailure(0)
        if reason?.code == .objectMissing {
            // Where the primary cannot say it any more, it is told.
            do { if try await rules.isReplaced(key, stores[0]) { return } } catch let error as ArchiveError { fail(0, error) }
        }
        report.tell(key, from: stores[place].description, because: reason.map(Self.short) ?? "the primary was not asked")
    }

    private static func short(_ error: ArchiveError) -> String {
        error.code == .objectMissing ? "it is missing there" : String(error.message.hasSuffix(".") ? error.message.dropLast() : error.message[...])
    }

    /// The primary's error, with what the copies said. Where the primary does not have it and a copy has it damaged, that it is damaged.
    private func failure(_ failures: [(place: Int, error: ArchiveError)]) -> ArchiveError {
        var said: [(place: Int, error: ArchiveError)] = failures
        for place in stores.indices where !said.contains(where: { $0.place == place }) { if let error = lastFailure(place) { said.append((place, error)) } }
        said.sort { $0.place < $1.place }
        guard var first = said.first else { return ArchiveError(.storeUnavailable, "\(description) could not be read.") }
        if first.error.code == .objectMissing, let other = said.first(where: { $0.error.code == .objectDamaged || $0.error.code == .archiveDamaged }) {
            first = other
        }
        let others = said.filter { $0.place != first.place }
        guard !others.isEmpty, !said.allSatisfy({ $0.error.code == .keyWrong }) else { return first.error }
        let tried = others.map { "\(stores[$0.place].description): \(Self.short($0.error))" }.joined(separator: "; ")
        return ArchiveError(
            first.error.code, "\(first.error.message) \(first.place == 0 ? "The copies were" : "The other places were") tried too: \(tried).",
            remedy: first.error.remedy, cause: first.error.cause)
    }

    // MARK: Listing

    public func list(prefix: String, after key: String?, limit: Int) async throws -> [ObjectInfo] {
        merge(try await everywhere { try await $0.list(prefix: prefix, after: key, limit: limit) }, limit, \.key.path)
    }

    public func keys(prefix: String, after key: String?, limit: Int) async throws -> [ObjectKey] {
        merge(try await everywhere { try await $0.keys(prefix: prefix, after: key, limit: limit) }, limit, \.path)
    }

    public func folders(below prefix: String) async throws -> [String] {
        merge(try await everywhere { try await $0.folders(below: prefix) }, .max, \.self)
    }

    /// Pages of different places put together: in byte order, each name once, the first place's element for it.
    private func merge<T>(_ pages: [[T]], _ limit: Int, _ name: (T) -> String) -> [T] {
        var result = pages[0]
        for page in pages.dropFirst() {
            let known = Set(result.map(name))
            let more = page.filter { !known.contains(name($0)) }
            guard !more.isEmpty else { continue }
            result += more
            result.sort { name($0).utf8.lexicographicallyPrecedes(name($1).utf8) }
        }
        return result.count > limit ? Array(result[..<limit]) : result
    }

    /// The answers of all places that can be asked, the primary's first; at least one.
    private func everywhere<T: Sendable>(_ ask: @escaping @Sendable (any ObjectStore) async throws -> T) async throws -> [T] {
        var asked: [Int] = []
        for place in stores.indices where try await admit(place) { asked.append(place) }
        let answers = try await withThrowingTaskGroup(of: (Int, Result<T, ArchiveError>).self) { group in
            for place in asked {
                let store = stores[place]
                // A copy that hangs must not hold up what the primary can answer.
                let limit = place > 0 && asked.first == 0 ? patience : nil
                group.addTask { (place, try await Self.answer(of: store, within: limit, ask)) }
            }
            var answers: [Int: Result<T, ArchiveError>] = [:]
            while let (place, answer) = try await group.next() { answers[place] = answer }
            return answers
        }
        var found: [T] = []
        var failures: [(place: Int, error: ArchiveError)] = []
        for (place, answer) in answers.sorted(by: { $0.key < $1.key }) {
            switch answer {
            case .success(let page):
                if found.isEmpty, place > 0 { report.tellListing(from: stores[place].description, because: lastFailure(0).map(Self.short) ?? "it was not asked") }
                found.append(page)
            case .failure(let error):
                fail(place, error)
                failures.append((place, error))
            }
        }
        guard !found.isEmpty else { throw failure(failures) }
        return found
    }

    private static func answer<T: Sendable>(
        of store: any ObjectStore, within seconds: Double?, _ ask: @escaping @Sendable (any ObjectStore) async throws -> T
    ) async throws -> Result<T, ArchiveError> {
        do {
            guard let seconds else { return .success(try await ask(store)) }
            return try await within(seconds) { try await ask(store) }.map { .success($0) } ?? .failure(late(store, seconds))
        } catch let error as ArchiveError { return .failure(error) }
    }

    // MARK: Places

    /// Whether a place is to be asked: it holds the archive, and did not fail a moment ago.
    private func admit(_ place: Int) async throws -> Bool {
        let time = clock()
        let (isOpen, isAdmitted, isForeign) = places.withLock { ($0[place].breaker.isOpen(at: time), $0[place].isAdmitted, $0[place].isForeign) }
        // Without any place that holds an archive, the primary says why.
        guard let identity else { return place == 0 }
        guard !isOpen, !isForeign else { return false }
        guard !isAdmitted else { return true }
        do {
            let found: [UInt8]
            // As long as the primary serves, a copy must not hold it up.
            if place > 0, places.withLock({ $0[0].isAdmitted }) {
                guard let answer = try await within(patience, { [store = stores[place], rules] in try await store.get(rules.identityKey) }) else {
                    throw Self.late(stores[place], patience)
                }
                found = answer
            } else {
                found = try await stores[place].get(rules.identityKey)
            }
            guard found == identity else {
                fail(place, ArchiveError(.archiveMissing, "'\(rules.identityKey)' in \(stores[place].description) is damaged, or another archive's."))
                return false
            }
            places.withLock {
                $0[place].isAdmitted = true
                $0[place].breaker.succeed()
                $0[place].failure = nil
            }
            return true
        } catch let error as ArchiveError {
            fail(place, error.code == .objectMissing ? ArchiveError(.archiveMissing, "There is no archive at \(stores[place].description).") : error)
            return false
        }
    }

    private func fail(_ place: Int, _ error: ArchiveError) {
        let time = clock()
        places.withLock {
            $0[place].breaker.fail(at: time)
            $0[place].failure = error
            // Whatever comes back there has to show again that it is the archive.
            $0[place].isAdmitted = false
        }
    }

    private func lastFailure(_ place: Int) -> ArchiveError? { places.withLock { $0[place].failure } }
}
