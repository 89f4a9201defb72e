import ArchiveCore
import CGit2
import Glibc

/// What a function of libgit2 answered instead of doing what it was asked.
struct GitFailure: Error, CustomStringConvertible {
    var function: String
    var code: Int32
    var message: String
    var description: String { "\(function): \(message)" }

    /// - Throws: when `code` is negative. Call at once: it reads libgit2's last error of this thread.
    static func check(_ code: Int32, _ function: String) throws(GitFailure) {
        guard code < 0 else { return }
        let message = git_error_last().flatMap { $0.pointee.message }.map { String(cString: $0) } ?? "error \(code)"
        throw GitFailure(function: function, code: code, message: message)
    }
}

/// The state of an object in a repository.
enum ObjectState: Sendable, Hashable {
    case present, missing
    /// It is listed, but cannot be read.
    case damaged(String)
}

/// The state of a reference with respect to an object.
enum ReferenceState: Sendable, Hashable {
    /// The reference is the object, or leads to it.
    case holds
    case missing
    case other
    case unknown(String)
}

/// libgit2, prepared once for the whole process: repositories of any owner, no configuration from outside of them.
private let library: Int32 = {
    let code = git_libgit2_init()
    guard code >= 0 else { return code }
    for level in [GIT_CONFIG_LEVEL_SYSTEM, GIT_CONFIG_LEVEL_GLOBAL, GIT_CONFIG_LEVEL_XDG, GIT_CONFIG_LEVEL_PROGRAMDATA] {
        let code = tidemark_git_ignore_configuration(level)
        if code < 0 { return code }
    }
    return tidemark_git_trust_owners()
}()

/// The objects of one repository of SHA-1 ids, with its alternates. One owner, used by one thread at a time.
final class ObjectDatabase {
    private let handle: OpaquePointer

    /// Calls `git_odb_open`. Whether alternates are there was looked at before.
    init(objects directory: String) throws(GitFailure) {
        try GitFailure.check(library, "git_libgit2_init")
        var opened: OpaquePointer?
        try GitFailure.check(git_odb_open(&opened, directory), "git_odb_open")
        guard let opened else { throw GitFailure(function: "git_odb_open", code: -1, message: "it returned nothing") }
        handle = opened
    }

    deinit { git_odb_free(handle) }

    /// - Parameter id: 40 hexadecimal digits.
    func state(of id: String) -> ObjectState {
        var oid = git_oid()
        guard git_oid_fromstr(&oid, id) == 0 else { return .missing }
        // Nothing is added meanwhile: a miss must not list every pack anew.
        guard git_odb_exists_ext(handle, &oid, GIT_ODB_LOOKUP_NO_REFRESH.rawValue) == 1 else { return .missing }
        var size = 0
        var type = GIT_OBJECT_INVALID
        do { try GitFailure.check(git_odb_read_header(&size, &type, handle, &oid), "git_odb_read_header") } catch {
            return .damaged(error.message)
        }
        return .present
    }
}

/// The references of one repository with loose and packed references. One owner, used by one thread at a time.
final class ReferenceDatabase {
    private let handle: OpaquePointer

    /// Calls `git_repository_open_ext`.
    init(repository directory: String) throws(GitFailure) {
        try GitFailure.check(library, "git_libgit2_init")
        var opened: OpaquePointer?
        let flags = GIT_REPOSITORY_OPEN_NO_SEARCH.rawValue | GIT_REPOSITORY_OPEN_BARE.rawValue | GIT_REPOSITORY_OPEN_NO_DOTGIT.rawValue
        try GitFailure.check(git_repository_open_ext(&opened, directory, flags, nil), "git_repository_open_ext")
        guard let opened else { throw GitFailure(function: "git_repository_open_ext", code: -1, message: "it returned nothing") }
        handle = opened
    }

    deinit { git_repository_free(handle) }

    /// Whether `reference` is `id`, or a commit from which `id` can be reached.
    func state(of reference: String, id: String) -> ReferenceState {
        var wanted = git_oid()
        guard git_oid_fromstr(&wanted, id) == 0 else { return .other }
        var tip = git_oid()
        let code = git_reference_name_to_id(&tip, handle, reference)
        if code == GIT_ENOTFOUND.rawValue || code == GIT_EINVALIDSPEC.rawValue { return .missing }
        do {
            try GitFailure.check(code, "git_reference_name_to_id")
            if git_oid_equal(&tip, &wanted) == 1 { return .holds }
            var object: OpaquePointer?
            try GitFailure.check(git_object_lookup(&object, handle, &tip, GIT_OBJECT_ANY), "git_object_lookup")
            defer { git_object_free(object) }
            var commit: OpaquePointer?
            guard git_object_peel(&commit, object, GIT_OBJECT_COMMIT) == 0, let commit, let id = git_object_id(commit) else { return .other }
            defer { git_object_free(commit) }
            tip = id.pointee
            if git_oid_equal(&tip, &wanted) == 1 { return .holds }
            let below = git_graph_descendant_of(handle, &tip, &wanted)
            if below == GIT_ENOTFOUND.rawValue { return .other }
            try GitFailure.check(below, "git_graph_descendant_of")
            return below == 1 ? .holds : .other
        } catch { return .unknown("\(error)") }
    }
}
