import ArchiveCore
import CYaml

/// A YAML document as a tree that knows where everything stands.
indirect enum YAMLNode: Sendable {
    case scalar(String, YAMLPlace)
    case sequence([YAMLNode], YAMLPlace)
    case mapping([(key: String, place: YAMLPlace, value: YAMLNode)], YAMLPlace)

    var place: YAMLPlace {
        switch self { case .scalar(_, let p), .sequence(_, let p), .mapping(_, let p): p }
    }
}

/// Line and column, from 1.
struct YAMLPlace: Sendable, Hashable {
    var line: Int
    var column: Int
}

struct YAMLError: Error {
    var place: YAMLPlace
    var message: String
}

/// Reads one document over libyaml's events. Anchors, aliases, tags and a second document are refused, so that a limit on size and
/// depth is all that hostile input needs.
struct YAMLParser: ~Copyable {
    static let maximumSize = 1 << 20
    static let maximumDepth = 16

    private let parser: UnsafeMutablePointer<yaml_parser_t>

    static func parse(_ bytes: [UInt8]) throws(YAMLError) -> YAMLNode? {
        guard bytes.count <= maximumSize else {
            throw YAMLError(place: YAMLPlace(line: 1, column: 1), message: "the file has \(bytes.count) bytes; at most \(maximumSize) are read")
        }
        // libyaml keeps a pointer to its input: it must stay where it is until the parser is gone.
        let input = UnsafeMutablePointer<UInt8>.allocate(capacity: max(1, bytes.count))
        defer { input.deallocate() }
        for (i, byte) in bytes.enumerated() { input[i] = byte }
        let parser = YAMLParser(input, bytes.count)
        return try parser.document()
    }

    private init(_ input: UnsafePointer<UInt8>, _ count: Int) {
        parser = .allocate(capacity: 1)
        precondition(yaml_parser_initialize(parser) == 1, "libyaml is out of memory")
        yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
        yaml_parser_set_input_string(parser, input, count)
    }

    deinit {
        yaml_parser_delete(parser)
        parser.deallocate()
    }

    private enum Event {
        case scalar(String)
        case sequence, mapping, end, documentEnd, streamEnd, documentStart, streamStart
    }

    private func next() throws(YAMLError) -> (Event, YAMLPlace) {
        var event = yaml_event_t()
        guard yaml_parser_parse(parser, &event) == 1 else {
            let mark = parser.pointee.problem_mark
            let problem = parser.pointee.problem.map { String(cString: $0) } ?? "it is not YAML"
            throw YAMLError(place: YAMLPlace(line: Int(mark.line) + 1, column: Int(mark.column) + 1), message: problem)
        }
        defer { yaml_event_delete(&event) }
        let place = YAMLPlace(line: Int(event.start_mark.line) + 1, column: Int(event.start_mark.column) + 1)
        func refuse(_ what: String) -> YAMLError { YAMLError(place: place, message: "\(what) are not supported here") }
        switch event.type {
        case YAML_STREAM_START_EVENT: return (.streamStart, place)
        case YAML_STREAM_END_EVENT: return (.streamEnd, place)
        case YAML_DOCUMENT_START_EVENT: return (.documentStart, place)
        case YAML_DOCUMENT_END_EVENT: return (.documentEnd, place)
        case YAML_ALIAS_EVENT: throw refuse("aliases")
        case YAML_SCALAR_EVENT:
            let scalar = event.data.scalar
            if scalar.anchor != nil { throw refuse("anchors") }
            if scalar.tag != nil { throw refuse("tags") }
            let text = String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
            guard !text.utf8.contains(0) else { throw YAMLError(place: place, message: "a value contains a NUL character") }
            return (.scalar(text), place)
        case YAML_SEQUENCE_START_EVENT:
            if event.data.sequence_start.anchor != nil { throw refuse("anchors") }
            if event.data.sequence_start.tag != nil { throw refuse("tags") }
            return (.sequence, place)
        case YAML_MAPPING_START_EVENT:
            if event.data.mapping_start.anchor != nil { throw refuse("anchors") }
            if event.data.mapping_start.tag != nil { throw refuse("tags") }
            return (.mapping, place)
        default: return (.end, place)
        }
    }

    private func document() throws(YAMLError) -> YAMLNode? {
        _ = try next()
        guard case (.documentStart, _) = try next() else { return nil }
        let (event, place) = try next()
        let root = try node(event, place, depth: 0)
        _ = try next()
        let (after, second) = try next()
        guard case .streamEnd = after else { throw YAMLError(place: second, message: "a second document begins here; one is read") }
        return root
    }

    private func node(_ event: Event, _ place: YAMLPlace, depth: Int) throws(YAMLError) -> YAMLNode {
        guard depth < Self.maximumDepth else {
            throw YAMLError(place: place, message: "this lies deeper than \(Self.maximumDepth) levels")
        }
        switch event {
        case .scalar(let text): return .scalar(text, place)
        case .sequence:
            var items: [YAMLNode] = []
            while true {
                let (event, at) = try next()
                if case .end = event { return .sequence(items, place) }
                items.append(try node(event, at, depth: depth + 1))
            }
        case .mapping:
            var pairs: [(key: String, place: YAMLPlace, value: YAMLNode)] = []
            var seen: [String: YAMLPlace] = [:]
            while true {
                let (event, at) = try next()
                if case .end = event { return .mapping(pairs, place) }
                guard case .scalar(let key) = event else { throw YAMLError(place: at, message: "a key must be a plain word") }
                if let first = seen[key] {
                    throw YAMLError(place: at, message: "'\(key)' was given on line \(first.line) already")
                }
                seen[key] = at
                let (value, valueAt) = try next()
                pairs.append((key, at, try node(value, valueAt, depth: depth + 1)))
            }
        default: throw YAMLError(place: place, message: "the document is empty")
        }
    }
}
