import ArchiveCore

/// A time that is written as RFC 3339 for other programs, as everywhere in what commands print.
@propertyWrapper
public struct TextTime: Sendable, Hashable, Codable {
    public var wrappedValue: Moment

    public init(wrappedValue: Moment) { self.wrappedValue = wrappedValue }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let time = Moment(text) else { throw DecodingError.dataCorruptedError(in: container, debugDescription: "'\(text)' is no time with its zone") }
        wrappedValue = time
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode("\(wrappedValue)")
    }
}

/// The same of a time that may not be known: it is left out then.
@propertyWrapper
public struct OptionalTextTime: Sendable, Hashable, Codable {
    public var wrappedValue: Moment?

    public init(wrappedValue: Moment?) { self.wrappedValue = wrappedValue }

    public init(from decoder: any Decoder) throws { wrappedValue = try TextTime(from: decoder).wrappedValue }

    public func encode(to encoder: any Encoder) throws { try wrappedValue.map { TextTime(wrappedValue: $0) }.encode(to: encoder) }
}

extension KeyedEncodingContainer {
    mutating func encode(_ value: OptionalTextTime, forKey key: Key) throws { try encodeIfPresent(value.wrappedValue.map { TextTime(wrappedValue: $0) }, forKey: key) }
}

extension KeyedDecodingContainer {
    func decode(_: OptionalTextTime.Type, forKey key: Key) throws -> OptionalTextTime {
        OptionalTextTime(wrappedValue: try decodeIfPresent(TextTime.self, forKey: key)?.wrappedValue)
    }
}
