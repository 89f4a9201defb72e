import ArchiveCore
import Digests
import Foundation
import Synchronization

/// An archive in a bucket of S3. What is put is written once, and believed only when it has been seen there (`WriteOnce`).
public final class S3Store: ObjectStore {
    private let warn: @Sendable (String) -> Void
    let service: S3Service
    private let objects: S3Objects
    private let writer: WriteOnce<S3Objects>
    /// Whether the server deletes several objects in one request.
    let deletesMany = Mutex(true)

    /// Nothing is asked before it is used.
    public convenience init(_ location: S3Location, _ context: StoreContext) { self.init(location, context, pacing: .real) }

    init(_ location: S3Location, _ context: StoreContext, pacing: Pacing) {
        service = S3Service(location, context, pacing)
        objects = S3Objects(service)
        writer = WriteOnce(objects, believesAnswers: location.transport.believesAnswers, warn: context.warn)
        warn = context.warn
    }

    public var description: String { service.location.description }
    public var parallelism: Int { 8 }

    public func notice(_ message: String) { warn(message) }
    public func put(_ bytes: [UInt8], at key: ObjectKey) async throws { try await writer.put(bytes, at: key) }
    public func get(_ key: ObjectKey, range: Range<UInt64>?) async throws -> [UInt8] { try await objects.get(key, range: range) }

    public func remove(_ key: ObjectKey) async throws { try await objects.remove(key) }

    /// Whether the server refuses to write a name twice.
    func refusesSecondWrite() async throws -> Bool { try await writer.refusesSecondWrite() }

    func look(_ key: ObjectKey) async throws -> StoredState? { try await objects.look(at: key) }

    public func lockedUntil(_ key: ObjectKey) async throws -> Moment? { try await objects.lockedUntil(key) }
}

/// Single objects: what `WriteOnce` needs, and reading.
final class S3Objects: WriteOnceService {
    /// What the server turned out to support; found out at the probe.
    private struct Abilities {
        /// Compares SHA-256 with what arrives, and tells it back; `nil`: not known yet.
        var sha256: Bool?
        /// Whether an entity tag is the MD5 of the bytes, which it is not with KMS, and may not be elsewhere.
        var tagIsMD5 = false
        /// Headers that it called not implemented.
        var lacksCondition = false
        var lacksChecksum = false
    }
    private let abilities = Mutex(Abilities())
    let service: S3Service
    var location: S3Location { service.location }

    init(_ service: S3Service) { self.service = service }

    var description: String { location.description }

    func failure(_ action: S3Request.Action, _ response: HTTPResponse, _ key: ObjectKey? = nil) -> ArchiveError {
        S3Answer(response).error(action, location, key: key?.path, skew: service.skew)
    }

    // MARK: Writing

    /// Who put an object, kept with it: tells our own from another's where bytes differ. GCS and Azure refuse damaged bytes, and need none.
    private static let writerHeader = "x-amz-meta-tidemark-put"

    /// The checksum that goes with the next put.
    private var checksum: S3Location.Checksum {
        if let wanted = location.checksum { return wanted }
        return abilities.withLock { $0.lacksChecksum || $0.sha256 == false } ? .md5 : .sha256
    }

    func mark(_ bytes: [UInt8]) -> Fingerprint {
        // SHA-256 is part of every signature. MD5 is what tells bytes apart where the server gives nothing better back.
        let needsMD5 = checksum == .md5 || checksum == .none || abilities.withLock { $0.sha256 != true }
        var mark = Fingerprint(bytes, withMD5: needsMD5)
        mark.sha256 = SHA256.of(bytes)
        mark.writer = hex(UInt64.random(in: .min ... .max), 16)
        return mark
    }

    func create(_ bytes: [UInt8], _ mark: Fingerprint, at key: ObjectKey) async throws -> Creation {
        let isProbe = key == WriteOnce<S3Objects>.probe
        let isTrial = key.path.hasPrefix(S3Store.probeFolder + "/")
        for _ in 0..<3 {
            let response = try await service.send(
                S3Request(
                    action: .put, method: .put, key: location.prefix + key.path, headers: headers(mark, isTrial: isTrial), body: bytes,
                    payload: mark.sha256))
            let answer = S3Answer(response)
            switch response.status {
            case 200...299:
                if isProbe { try await learn() }
                return .created(state(response, size: mark.size))
            case 412:
                if isProbe { try await learn() }
                return .exists
            case 400, 501:
                guard dropHeader(answer) else { throw failure(.put, response, key) }
            default: throw failure(.put, response, key)
            }
        }
        throw ArchiveError(
            .storeRefused, "\(location) called one header after another not implemented.",
            remedy: "Write checksum=none, and see what the server supports.")
    }

    /// - Parameter isTrial: whether the object is to be removed again, or written over: it is not locked.
    private func headers(_ mark: Fingerprint, isTrial: Bool) -> [(name: String, value: String)] {
        var headers: [(name: String, value: String)] = [("Content-Type", "application/octet-stream")]
        if !abilities.withLock({ $0.lacksCondition }) { headers.append(("If-None-Match", "*")) }
        switch checksum {
        case .sha256:
            headers += [("x-amz-sdk-checksum-algorithm", "SHA256"), ("x-amz-checksum-sha256", base64(mark.sha256 ?? []))]
        case .crc32c:
            let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: mark.crc32c >> $0) }
            headers += [("x-amz-sdk-checksum-algorithm", "CRC32C"), ("x-amz-checksum-crc32c", base64(bytes))]
        case .md5, .none: break
        }
        if checksum != .none, !mark.md5.isEmpty { headers.append(("Content-MD5", base64(mark.md5))) }
        if let writer = mark.writer { headers.append((Self.writerHeader, writer)) }
        if let storageClass = location.storageClass { headers.append(("x-amz-storage-class", storageClass)) }
        if let encryption = location.encryption { headers.append(("x-amz-server-side-encryption", encryption)) }
        if let key = location.encryptionKey { headers.append(("x-amz-server-side-encryption-aws-kms-key-id", key)) }
        if !isTrial, let lock = location.lock, let days = location.retainDays {
            let until = service.now().adding(seconds: Double(days) * 86_400).description.prefix(19) + "Z"
            headers += [("x-amz-object-lock-mode", lock.rawValue.uppercased()), ("x-amz-object-lock-retain-until-date", String(until))]
        }
        return headers
    }

    /// - Returns: whether there is one header less to send.
    private func dropHeader(_ answer: S3Answer) -> Bool {
        let named = answer.header?.lowercased()
        guard answer.status == 501 || answer.code == "NotImplemented" || answer.code == "InvalidRequest" || answer.code == "InvalidArgument" else {
            return false
        }
        return abilities.withLock { abilities in
            let isAuto = location.checksum == nil && !abilities.lacksChecksum && abilities.sha256 != true
            if isAuto, named == nil || named?.hasPrefix("x-amz-") == true {
                abilities.lacksChecksum = true
                abilities.sha256 = false
                return true
            }
            if !abilities.lacksCondition, named == "if-none-match" || named == nil && answer.status == 501 {
                abilities.lacksCondition = true
                return true
            }
            return false
        }
    }

    /// Looks at the probe, whose bytes are known, to see which checksums the server tells, and whether they are what they seem.
    private func learn() async throws {
        guard abilities.withLock({ $0.sha256 == nil || !$0.tagIsMD5 }) else { return }
        let response = try await head(WriteOnce<S3Objects>.probe)
        guard response.status == 200 else { return }
        let bodies: [[UInt8]] = [[UInt8(ascii: "a")], [UInt8(ascii: "b")]]
        let tag = tagBytes(response)
        let told = response["x-amz-checksum-sha256"]
        var isTrue = bodies.contains { told == base64(SHA256.of($0)) }
        if isTrue { isTrue = try await refusesWrongChecksum() }
        let trusted = isTrue
        abilities.withLock { abilities in
            if abilities.sha256 != false { abilities.sha256 = trusted }
            abilities.tagIsMD5 = bodies.contains { tag == MD5.of($0) }
        }
    }

    /// A server that only repeats the checksum that it was sent says nothing of the bytes that it has.
    private func refusesWrongChecksum() async throws -> Bool {
        let key = location.prefix + S3Store.probeFolder + "/checksum"
        let response = try await service.send(
            S3Request(
                action: .put, method: .put, key: key,
                headers: [("x-amz-sdk-checksum-algorithm", "SHA256"), ("x-amz-checksum-sha256", base64(SHA256.of([UInt8(ascii: "b")])))],
                body: [UInt8(ascii: "a")], mayBeRefused: true))
        return response.status == 400
    }

    func look(at key: ObjectKey) async throws -> StoredState? {
        let response = try await head(key)
        switch response.status {
        case 200:
            guard let size = response["content-length"].flatMap(UInt64.init) else {
                throw ArchiveError(
                    .storeUnavailable, "\(location) told no size of '\(key)'.", remedy: "See what stands between here and the service.")
            }
            return state(response, size: size)
        case 404: return nil
        default: throw failure(.head, response, key)
        }
    }

    /// From the headers of HEAD, which a server shows to those who may read retentions: `x-amz-object-lock-retain-until-date` and
    /// `x-amz-object-lock-legal-hold` (docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html).
    func lockedUntil(_ key: ObjectKey) async throws -> Moment? {
        let response = try await head(key)
        switch response.status {
        case 200:
            if response["x-amz-object-lock-legal-hold"]?.uppercased() == "ON" { return Moment(rawValue: .max) }
            guard let text = response["x-amz-object-lock-retain-until-date"] else { return nil }
            // One that cannot be read may be any.
            return Moment(text) ?? Moment(rawValue: .max)
        case 404: return nil
        default: throw failure(.head, response, key)
        }
    }

    private func head(_ key: ObjectKey) async throws -> HTTPResponse {
        try await service.send(
            S3Request(action: .head, method: .head, key: location.prefix + key.path, headers: [("x-amz-checksum-mode", "ENABLED")]))
    }

    private func state(_ response: HTTPResponse, size: UInt64) -> StoredState {
        let isMD5 = abilities.withLock { $0.tagIsMD5 } && response["x-amz-server-side-encryption"]?.hasPrefix("aws:kms") != true
        let crc = response["x-amz-checksum-crc32c"].flatMap { unbase64($0, count: 4) }?.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        let sha = abilities.withLock { $0.sha256 } == true ? response["x-amz-checksum-sha256"].flatMap { unbase64($0, count: 32) } : nil
        return StoredState(
            size: size, md5: isMD5 ? tagBytes(response) : nil, crc32c: crc, sha256: sha, version: response["etag"],
            writer: response[Self.writerHeader])
    }

    private func tagBytes(_ response: HTTPResponse) -> [UInt8]? {
        guard let tag = response["etag"]?.filter({ $0 != "\"" }), tag.utf8.count == 32 else { return nil }
        let digits = tag.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 32 else { return nil }
        return stride(from: 0, to: 32, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    // MARK: Removing

    func remove(_ key: ObjectKey) async throws {
        let response = try await service.send(S3Request(action: .delete, method: .delete, key: location.prefix + key.path))
        // 404 may also say that there is no bucket.
        guard (200...299).contains(response.status) || response.status == 404 && S3Answer(response).code != "NoSuchBucket" else {
            throw failure(.delete, response, key)
        }
    }

    func remove(_ key: ObjectKey, version: String) async throws {
        // Deletion under a condition is younger than what most servers speak; the name is taken, so that nobody else writes to it meanwhile.
        guard try await look(at: key)?.version == version else { return }
        try await remove(key)
    }
}

func base64(_ bytes: [UInt8]) -> String { Data(bytes).base64EncodedString() }

/// - Returns: `nil` for anything but the code of `count` bytes.
func unbase64(_ text: String, count: Int) -> [UInt8]? { Data(base64Encoded: text).flatMap { $0.count == count ? Array($0) : nil } }
