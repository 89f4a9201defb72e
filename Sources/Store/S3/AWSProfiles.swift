import ArchiveCore
import DurableIO

/// AWS's shared files, `~/.aws/credentials` and `~/.aws/config`, as one: the first wins where both say something.
/// The format: "Configuration and credential file settings" in the AWS CLI's user guide.
struct AWSProfiles: Sendable, Hashable {
    var profiles: [String: [String: String]] = [:]
    /// The files that were looked at.
    var places: String

    /// Blocks. Files that are not there are empty.
    ///
    /// - Throws: `.inputOutput` for a file that cannot be read.
    static func read(_ environment: (String) -> String?) throws(ArchiveError) -> AWSProfiles {
        func path(_ variable: String, _ name: String) -> String? {
            if let path = environment(variable), !path.isEmpty { return path }
            return environment("HOME").flatMap { $0.isEmpty ? nil : "\($0)/.aws/\(name)" }
        }
        let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials")
        let config = path("AWS_CONFIG_FILE", "config")
        var result = AWSProfiles(places: [credentials, config].compactMap(\.self).joined(separator: " and "))
        if result.places.isEmpty { result.places = "~/.aws, as HOME is not set" }
        for (path, isConfig) in [(config, true), (credentials, false)] {
            guard let path, Files.exists(path) else { continue }
            result.add(String(decoding: try Files.read(path, limit: 1 << 20), as: UTF8.self), isConfig: isConfig)
        }
        return result
    }

    /// Adds what a file says. In the configuration file, all sections but `default` are called `profile NAME`.
    mutating func add(_ text: String, isConfig: Bool) {
        var section: String?
        for line in text.split(whereSeparator: \.isNewline) {
            // What is indented belongs to a setting above, such as `s3 =`.
            guard let first = line.first, first != " ", first != "\t", first != "#", first != ";" else { continue }
            if first == "[" {
                guard let end = line.firstIndex(of: "]") else {
                    section = nil
                    continue
                }
                let words = line[line.index(after: line.startIndex)..<end].split { $0 == " " || $0 == "\t" }.map(String.init)
                if isConfig, words.count == 2, words[0] == "profile" {
                    section = words[1]
                } else {
                    section = words.count == 1 && (!isConfig || words[0] == "default") ? words[0] : nil
                }
                if let section { profiles[section] = profiles[section] ?? [:] }
                continue
            }
            guard let section, let equals = line.firstIndex(of: "=") else { continue }
            func trimmed(_ text: Substring) -> String {
                var text = text
                while let c = text.first, c.isWhitespace { text.removeFirst() }
                while let c = text.last, c.isWhitespace { text.removeLast() }
                return String(text)
            }
            let value = trimmed(line[line.index(after: equals)...])
            if !value.isEmpty { profiles[section]?[trimmed(line[..<equals]).lowercased()] = value }
        }
    }
}
