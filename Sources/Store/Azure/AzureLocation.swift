import ArchiveCore

/// `azblob://container/folder?option=value&…`: an archive in Azure Blob Storage.
public struct AzureLocation: Sendable, Hashable, CustomStringConvertible {
    public var container: String
    /// Empty, or ends in `/`; every blob's name begins with it.
    public var prefix: String
    /// `nil`: `AZURE_STORAGE_ACCOUNT`, or the connection string's.
    public var account: String?
    /// `http(s)://host[:port][/path]` of the Blob service; `nil`: the connection string's, or `https://ACCOUNT.blob.core.windows.net`.
    public var endpoint: String?
    /// Of a managed identity that the user assigned.
    public var clientID: String?
    /// `Hot`, `Cool` or `Cold`; `nil`: the account's.
    public var accessTier: String?
    public var transport: TransportOptions

    init(_ url: StoreURL) throws(ArchiveError) {
        try url.checkOptions(["account", "endpoint", "client-id", "access-tier"] + TransportOptions.names)
        func isWord(_ text: String, _ sizes: ClosedRange<Int>, dash: Bool) -> Bool {
            sizes.contains(text.utf8.count) && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x7A).contains($0) || dash && $0 == UInt8(ascii: "-") }
        }
        guard isWord(url.name, 3...63, dash: true), !url.name.hasPrefix("-"), !url.name.hasSuffix("-"), !url.name.contains("--") else {
            throw ArchiveError(
                .usage, "'\(url.summary)' names no container of Azure Blob Storage.",
                remedy: "Write it as azblob://container/folder?account=NAME; a container's name has 3 to 63 of a-z, 0-9 and single '-'.")
        }
        container = url.name
        prefix = try url.keyPrefix()
        account = url.options["account"]
        guard account.map({ isWord($0, 3...24, dash: false) }) ?? true else {
            throw ArchiveError(.usage, "'\(url.summary)' names no account of Azure Storage.", remedy: "An account's name has 3 to 24 of a-z and 0-9.")
        }
        endpoint = url.options["endpoint"]
        if let endpoint, ServiceEndpoint(endpoint) == nil { throw Self.badEndpoint }
        clientID = url.options["client-id"]
        accessTier = url.options["access-tier"]
        guard accessTier.map({ ["Hot", "Cool", "Cold"].contains($0) }) ?? true else {
            throw ArchiveError(
                .usage, "'\(url.summary)' names no access tier of use.", remedy: "Use Hot, Cool or Cold; a blob in Archive cannot be read before hours have passed.")
        }
        transport = try TransportOptions(url)
    }

    static var badEndpoint: ArchiveError {
        ArchiveError(.usage, "The endpoint is no address of a service.", remedy: "Write it as https://host or http://host:port/account.")
    }

    public var description: String { "azblob://\(container)" + (prefix.isEmpty ? "" : "/" + prefix.dropLast()) }

    /// The store itself; nothing is asked before it is used.
    public func open(_ context: StoreContext) throws -> any ObjectStore { try AzureStore(self, context) }
}
