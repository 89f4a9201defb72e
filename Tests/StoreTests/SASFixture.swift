/// Made once by azure-storage-blob 12.31.1, with the public key of the emulators.
enum SASFixture {
    static let readCreateList = "se=2125-01-01T00%3A00%3A00Z&sp=rcl&sv=2026-10-06&sr=c&sig=UU7WZrYDaYhpmHLnf0OPfNmHRf75ZYmDLkfCIcnqOfs%3D"
}
