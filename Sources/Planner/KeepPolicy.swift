/// What retention leaves in the archive, of one source.
public struct KeepPolicy: Sendable, Hashable {
    /// Seconds back from now that stay restorable.
    public var window: Double
    /// Usable bases that stay whatever their age; at least 1.
    public var bases: Int

    public init(window: Double, bases: Int) {
        self.window = window
        self.bases = bases
    }
}
