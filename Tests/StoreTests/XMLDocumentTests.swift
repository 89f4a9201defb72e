import ArchiveCore
import Testing
@testable import Store

@Suite("XML of a store's answer")
struct XMLDocumentTests {
    @Test("becomes a tree of elements")
    func tree() throws {
        let root = try Store.XMLElement.parse(Array("""
            <?xml version="1.0" encoding="UTF-8"?>
            <s3:List xmlns:s3="http://s3.amazonaws.com/doc/2006-03-01/" a="b"><!-- no --><Name>a&amp;b &#228;</Name><K><Key>x</Key></K><K><Key/></K><C><![CDATA[<1>]]></C></s3:List>
            """.utf8))
        #expect(root.name == "List")
        #expect(root["Name"] == "a&b ä")
        #expect(root.all("K").map { $0["Key"] } == ["x", ""])
        #expect(root["C"] == "<1>")
        #expect(root.first("K")?.children.count == 1)
        #expect(root["Nothing"] == nil)
    }

    @Test("that is malformed, cut off, hostile or in another encoding is refused", arguments: [
        "", " ", "garbage", "{\"a\":1}", "<a>", "<a><b></a>", "<a/><b/>", "<a>&nbsp;</a>", "<a>\u{0}</a>", "<a/>garbage",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
        "<?xml version=\"1.0\"?><!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
        "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">]><l>&c;</l>",
        "<?xml version=\"1.0\" encoding=\"UTF-7\"?>+ADw-a/+AD4-", "<?xml version='1.0' encoding='ISO-8859-1'?><a/>",
        String(repeating: "<a>", count: 40) + String(repeating: "</a>", count: 40),
        "<html><head><title>502</title><body>",
    ])
    func refused(_ text: String) {
        let error = #expect(throws: ArchiveError.self) { try Store.XMLElement.parse(Array(text.utf8)) }
        #expect(error?.code == .storeUnavailable)
    }

    @Test("cut off at any byte is refused")
    func truncated() throws {
        let whole = Array("<a><b>text &amp; more</b><c/></a>".utf8)
        for length in 0..<whole.count { #expect(throws: ArchiveError.self) { try Store.XMLElement.parse(Array(whole[..<length])) } }
        #expect(throws: ArchiveError.self) { try Store.XMLElement.parse([0xFF, 0xFE] + whole) }
        let many = Array(("<a>" + String(repeating: "<b/>", count: XMLElement.maximumCount) + "</a>").utf8)
        #expect(throws: ArchiveError.self) { try Store.XMLElement.parse(many) }
        #expect(throws: ArchiveError.self) { try Store.XMLElement.parse(Array(repeating: 0x20, count: XMLElement.maximumSize + 1)) }
    }
}
