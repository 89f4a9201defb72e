import ArchiveCore

/// The requests that an archive is made of, for trying each.
protocol ExaminedService: Sendable {
    var description: String { get }
    func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8]
    func remove(_ key: ObjectKey) async throws
    /// Whether an object is listed; names below `probe/` included.
    func lists(_ key: ObjectKey) async throws -> Bool
    /// The time of day in an answer's `Date`, and here when it came.
    func clocks() async throws -> (service: Moment, here: Moment)?
}

extension ExaminedService {
    /// Tries to put, read, list and remove an object of its own; goes on where one fails.
    func examineRequests(put: (_ bytes: [UInt8], _ key: ObjectKey) async throws -> Void) async -> [StoreFinding] {
        let digits = String(UInt64.random(in: .min ... .max), radix: 16)
        let key = ObjectKey(known: "probe/check-\(digits)")
        let bytes = Array("tidemark check \(digits)".utf8)
        var findings: [StoreFinding] = []
        var works: [String] = []
        func attempt(_ what: String, _ level: StoreFinding.Level = .failure, _ body: () async throws -> String?) async -> Bool {
            do {
                if let complaint = try await body() {
                    findings.append(StoreFinding(level, complaint, remedy: "See what stands between here and the service."))
                    return false
                }
                works.append(what)
                return true
            } catch {
                findings.append(finding(level, error))
                return false
            }
        }
        let isThere = await attempt("put") {
            try await put(bytes, key)
            return nil
        }
        _ = await attempt("read") {
            do { return try await get(key, range: nil) == bytes ? nil : "what was put was read with other bytes" } catch let error as ArchiveError
                where error.code == .objectMissing && !isThere
            { return nil }
        }
        _ = await attempt("listed") { try await lists(key) || !isThere ? nil : "an object that was put is not listed" }
        _ = await attempt("removed", .warning) {
            try await remove(key)
            return nil
        }
        if !works.isEmpty { findings.insert(StoreFinding(.ok, "objects can be \(works.joined(separator: ", "))"), at: 0) }
        return findings
    }

    /// Compares the service's clock with ours: beyond 10 minutes, signatures and tokens are refused; `tidemark` itself needs no clock here.
    func examineClock() async -> [StoreFinding] {
        guard let clocks = try? await clocks() else { return [] }
        let skew = clocks.here - clocks.service
        let text = "this machine's clock is \(Int(abs(skew).rounded())) s \(skew < 0 ? "behind" : "ahead of") the service's"
        let remedy = "Have the clock set by NTP."
        switch abs(skew) {
        case ...60: return [StoreFinding(.ok, "this machine's clock and the service's differ by less than a minute")]
        case ...600: return [StoreFinding(.warning, text, remedy: remedy)]
        default: return [StoreFinding(.failure, text + "; signatures of such a time are refused", remedy: remedy)]
        }
    }
}

extension WriteOnce {
    /// Whether a second write of a name is refused.
    func examineConditions(of store: String) async -> [StoreFinding] {
        do {
            if try await refusesSecondWrite() { return [StoreFinding(.ok, "an object is written once: a second write under its name is refused")] }
            return [
                StoreFinding(
                    .warning, "\(store) writes a name twice even if it is asked not to; Tidemark looks before each put instead",
                    remedy: "Let only one agent write an archive's source, or use a service that honours conditional writes.")
            ]
        } catch { return [finding(.failure, error)] }
    }
}

func finding(_ level: StoreFinding.Level, _ error: any Error) -> StoreFinding {
    guard let error = error as? ArchiveError else { return StoreFinding(level, "\(error)") }
    return StoreFinding(level, error.message, remedy: error.remedy)
}
