/// Bech32 (BIP 173) without its limit on length, as age uses it for keys.
enum Bech32 {
    private static let alphabet = Array("qpzry9x8gf2tvdw0s3jn54khce6mua7l".utf8)

    private static func checksum(_ values: some Sequence<UInt8>) -> UInt32 {
        let generators: [UInt32] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3]
        var check: UInt32 = 1
        for value in values {
            let top = check >> 25
            check = (check & 0x1ff_ffff) << 5 ^ UInt32(value)
            for (i, generator) in generators.enumerated() where top >> UInt32(i) & 1 == 1 { check ^= generator }
        }
        return check
    }

    private static func expanded(_ prefix: [UInt8]) -> [UInt8] { prefix.map { $0 >> 5 } + [0] + prefix.map { $0 & 31 } }

    /// - Parameter prefix: in lower case.
    static func encode(_ data: [UInt8], prefix: String) -> String {
        var values = regrouped(data, from: 8, to: 5, padding: true) ?? []
        let sum = checksum(expanded(Array(prefix.utf8)) + values + [UInt8](repeating: 0, count: 6)) ^ 1
        values += (0..<6).map { UInt8(sum >> UInt32(5 * (5 - $0)) & 31) }
        return "\(prefix)1" + String(decoding: values.map { alphabet[Int($0)] }, as: UTF8.self)
    }

    /// - Returns: the prefix as it was written and the data; `nil` for mixed case, a wrong checksum and everything else that is no Bech32.
    static func decode(_ text: String) -> (prefix: String, data: [UInt8])? {
        let bytes = Array(text.utf8)
        guard bytes.count <= 1024, bytes.allSatisfy({ (33...126).contains($0) }) else { return nil }
        let hasUpper = bytes.contains { (0x41...0x5a).contains($0) }
        let hasLower = bytes.contains { (0x61...0x7a).contains($0) }
        guard !(hasUpper && hasLower) else { return nil }
        let lower = bytes.map { (0x41...0x5a).contains($0) ? $0 | 0x20 : $0 }
        guard let separator = lower.lastIndex(of: UInt8(ascii: "1")), separator > 0, lower.count - separator > 6 else { return nil }
        var values: [UInt8] = []
        for byte in lower[(separator + 1)...] {
            guard let value = alphabet.firstIndex(of: byte) else { return nil }
            values.append(UInt8(value))
        }
        guard checksum(expanded(Array(lower[..<separator])) + values) == 1, let data = regrouped(values.dropLast(6), from: 5, to: 8, padding: false)
        else { return nil }
        return (String(decoding: bytes[..<separator], as: UTF8.self), data)
    }

    /// Bits in groups of another width; `nil` when bits are left over that are not zero, or a whole group of them.
    private static func regrouped(_ values: some Sequence<UInt8>, from: Int, to: Int, padding: Bool) -> [UInt8]? {
        var result: [UInt8] = []
        var bits: UInt32 = 0
        var count = 0
        for value in values {
            bits = (bits << UInt32(from) | UInt32(value)) & 0xfff
            count += from
            while count >= to {
                count -= to
                result.append(UInt8(truncatingIfNeeded: bits >> UInt32(count) & (1 << UInt32(to) - 1)))
            }
        }
        let rest = bits & (1 << UInt32(count) - 1)
        if padding {
            if count > 0 { result.append(UInt8(rest << UInt32(to - count))) }
        } else if count >= from || rest != 0 {
            return nil
        }
        return result
    }
}
