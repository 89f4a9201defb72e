import ArchiveCore
import Foundation
import FoundationXML

/// An element of an XML document: the answers of S3 and Azure, read whole.
struct XMLElement: Sendable, Hashable {
    /// Without a prefix of a namespace.
    var name: String
    /// The characters right inside, of children none; as they are, with white space.
    var text = ""
    var children: [XMLElement] = []

    /// Bytes of a document, levels of elements, and elements altogether.
    static let maximumSize = 16 << 20
    static let maximumDepth = 32
    static let maximumCount = 200_000

    /// The first child of that name.
    func first(_ name: String) -> XMLElement? { children.first { $0.name == name } }
    /// All children of that name, in order.
    func all(_ name: String) -> [XMLElement] { children.filter { $0.name == name } }
    /// The text of the first child of that name.
    subscript(_ name: String) -> String? { first(name)?.text }

    /// Reads a document in UTF-8. One with a document type is refused: only that can declare entities, and no service sends it.
    ///
    /// - Returns: the root.
    /// - Throws: `.storeUnavailable` for anything malformed, cut off, too large or too deep.
    static func parse(_ bytes: [UInt8]) throws(ArchiveError) -> XMLElement {
        func fail(_ why: String) -> ArchiveError {
            ArchiveError(
                .storeUnavailable, "A store's answer was no usable XML: \(why).",
                remedy: "See whether the URL names the store, and no proxy in front of it.")
        }
        guard bytes.count <= maximumSize else { throw fail("it has \(bytes.count) bytes, more than \(maximumSize)") }
        guard let text = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else { throw fail("it is not in UTF-8") }
        // libxml2 would follow a declared encoding, in which the mark of a document type might look different.
        if let declaration = text.firstRange(of: "<?xml").flatMap({ start in
            text[start.upperBound...].firstRange(of: "?>").map { text[start.upperBound..<$0.lowerBound] }
        }),
            let encoding = declaration.firstRange(of: "encoding").map({ declaration[$0.upperBound...] })
        {
            let name = encoding.filter { !" \t\r\n=\"'".contains($0) }.lowercased()
            guard name.hasPrefix("utf-8") || name.hasPrefix("utf8") || name.hasPrefix("us-ascii") else { throw fail("its encoding is not UTF-8") }
        }
        guard !text.contains("<!DOCTYPE"), !text.contains("<!ENTITY") else { throw fail("it declares a document type") }
        let builder = TreeBuilder()
        let parser = XMLParser(data: Data(bytes))
        parser.delegate = builder
        parser.shouldResolveExternalEntities = false
        let done = parser.parse()
        if let refusal = builder.refusal { throw fail(refusal) }
        guard done, parser.parserError == nil, let root = builder.root else { throw fail("it is malformed or cut off in line \(parser.lineNumber)") }
        return root
    }
}

/// Collects what the parser meets. Used by one thread, for one document.
private final class TreeBuilder: NSObject, XMLParserDelegate {
    private var open: [XMLElement] = []
    private var count = 0
    private(set) var root: XMLElement?
    private(set) var refusal: String?

    func parser(
        _ parser: XMLParser, didStartElement elementName: String, namespaceURI: String?, qualifiedName: String?, attributes: [String: String]
    ) {
        count += 1
        if open.count >= XMLElement.maximumDepth { refusal = "its elements are nested more than \(XMLElement.maximumDepth) deep" }
        if count > XMLElement.maximumCount { refusal = "it has more than \(XMLElement.maximumCount) elements" }
        guard refusal == nil else { return parser.abortParsing() }
        open.append(XMLElement(name: elementName.split(separator: ":").last.map(String.init) ?? elementName))
    }

    func parser(_ parser: XMLParser, foundCharacters string: String) {
        guard !open.isEmpty else { return }
        open[open.count - 1].text += string
    }

    func parser(_ parser: XMLParser, foundCDATA block: Data) {
        guard !open.isEmpty else { return }
        open[open.count - 1].text += String(decoding: block, as: UTF8.self)
    }

    func parser(_ parser: XMLParser, didEndElement elementName: String, namespaceURI: String?, qualifiedName: String?) {
        guard let element = open.popLast() else { return }
        if open.isEmpty { root = element } else { open[open.count - 1].children.append(element) }
    }
}
