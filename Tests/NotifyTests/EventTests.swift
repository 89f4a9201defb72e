import ArchiveCore
import Foundation
import Sidecar
import Testing

@Suite("An event of an agent")
struct EventTests {
    @Test("names its kind in JSON as the documentation does")
    func names() throws {
        let event = AgentEvent(.rpoMissed, at: Moment(rawValue: 0), source: "main", "Too late.")
        let text = String(decoding: try JSONEncoder().encode(event), as: UTF8.self)
        #expect(text.contains(#""kind":"rpo-missed""#))
        #expect(try JSONDecoder().decode(AgentEvent.self, from: Data(text.utf8)) == event)
    }
}
