import ArchiveCore
import Catalog
import Runtime
import Store

/// How far one copy of the archive is, by its own watermarks.
struct CopyStatus: Encodable {
    struct Log: Encodable {
        var source, incarnation: String
        /// Up to when the copy has everything; missing: nothing yet.
        var watermark: String?
        var primaryWatermark: String?
        /// Seconds by which that lies behind the primary's; missing where either has none.
        var behindSeconds: Double?
    }
    var archive: String
    var logs: [Log] = []
    /// Why nothing is known of it.
    var problem: String?

    /// Seconds within which a copy has to say what it is.
    private static let patience = 10.0

    private static func opened(_ store: any ObjectStore) async throws -> Catalog {
        guard let copy = try await within(patience, { try await Catalog.open(store) }) else {
            throw ArchiveError(
                .storeUnavailable, "\(store.description) did not answer within \(Int(patience)) s.",
                remedy: "See whether it can be reached; the agent catches up by itself when it can.")
        }
        return copy
    }

    /// Asks a copy for what the primary has.
    static func of(_ store: any ObjectStore, beside primary: Catalog) async -> (status: CopyStatus, error: ArchiveError?) {
        var status = CopyStatus(archive: store.description)
        do {
            let copy = try await opened(store)
            guard copy.identity == primary.identity else {
                throw ArchiveError(
                    .twoHistories, "\(store.description) holds another archive, \(copy.identity.id), not \(primary.identity.id).",
                    remedy: "Name the right place under 'copies'.")
            }
            for source in try await primary.sources() {
                for incarnation in try await primary.incarnations(of: source) {
                    let (ours, theirs) = (try await primary.watermark(of: incarnation), try await copy.watermark(of: incarnation))
                    var behind: Double?
                    if let ours, let theirs { behind = max(0, ours - theirs) }
                    status.logs.append(.init(source: source, incarnation: incarnation.id, watermark: theirs.map { "\($0)" }, primaryWatermark: ours.map { "\($0)" }, behindSeconds: behind))
                }
            }
            return (status, nil)
        } catch let error as ArchiveError {
            status.problem = error.message
            return (status, error)
        } catch {
            status.problem = "\(error)"
            return (status, ArchiveError(.inputOutput, "\(store.description) could not be examined.", cause: error))
        }
    }

    /// What `tidemark check` says of it.
    static func findings(of store: any ObjectStore, beside primary: Catalog) async -> [StoreFinding] {
        let (status, error) = await of(store, beside: primary)
        if let error {
            guard error.code == .archiveMissing else { return [StoreFinding(.failure, error.message, remedy: error.remedy)] }
            do {
                guard let first = try await store.list(prefix: "", after: nil, limit: 1).first else {
                    return [StoreFinding(.warning, "\(store.description) is empty", remedy: "tidemark agent makes it a copy; see that its file system is mounted.")]
                }
                return [
                    StoreFinding(.failure, "\(store.description) is no archive and not empty: it holds '\(first.key)'", remedy: "Name an empty place for the copy.")
                ]
            } catch { return [finding(error)] }
        }
        do {
            guard try await !primary.store.isSamePlace(as: store) else {
                let error = ArchiveError.noCopy(store.description, .same, primary.store.description, isPrimary: true)
                return [StoreFinding(.failure, error.message, remedy: error.remedy)]
            }
        } catch { return [finding(error)] }
        var findings = [StoreFinding(.ok, "\(store.description) is a copy of the archive")] + (await store.examine())
        for log in status.logs {
            let what = "'\(log.source)', history \(log.incarnation)"
            if let behind = log.behindSeconds {
                findings.append(
                    behind > 60
                        ? StoreFinding(.warning, "\(what): \(Output.oneDecimal(behind)) s behind the primary", remedy: "See the agent's log for what keeps it back.")
                        : StoreFinding(.ok, "\(what): \(Output.oneDecimal(behind)) s behind the primary"))
            } else if log.watermark == nil, log.primaryWatermark != nil {
                findings.append(StoreFinding(.warning, "\(what): nothing of it is complete here yet", remedy: "tidemark agent copies it; see its log for what keeps it back."))
            }
        }
        return findings
    }

    /// What `tidemark check` says of a copy when nothing is known of its primary: what it holds by itself.
    static func findings(alone store: any ObjectStore) async -> [StoreFinding] {
        do {
            let copy = try await opened(store)
            var findings = [StoreFinding(.ok, "\(store.description) holds the archive \(copy.identity.id)")] + (await store.examine())
            for source in try await copy.sources() {
                for incarnation in try await copy.incarnations(of: source) {
                    let what = "'\(source)', history \(incarnation.id)"
                    if let watermark = try await copy.watermark(of: incarnation) { findings.append(StoreFinding(.ok, "\(what): complete up to \(watermark)")) } else {
                        findings.append(StoreFinding(.warning, "\(what): nothing of it is complete here"))
                    }
                }
            }
            return findings
        } catch { return [finding(error)] }
    }

    private static func finding(_ error: any Error) -> StoreFinding {
        guard let error = error as? ArchiveError else { return StoreFinding(.failure, "\(error)") }
        return StoreFinding(.failure, error.message, remedy: error.remedy)
    }
}
