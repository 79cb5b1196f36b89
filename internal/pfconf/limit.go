package pfconf

// What a file may expand to. Macros and lists multiply: a few lines could ask for more
// than there is memory.
const (
	maxMacroText = 1 << 20 // octets that the uses of macros put in, all together
	maxElements  = 100_000 // addresses, ports and so on in all rules, beyond those that stand there
	maxDepth     = 32      // lists inside lists
)

// maxSourceLines is how many lines of a statement are repeated above its translation.
const maxSourceLines = 8
