// Package grant holds what the kernel may let pass without asking: SYNs of clients that are
// far below every limit of their rule, the SYN+ACKs that answer these, and the ACKs that
// complete handshakes. The engine writes the grants, and programs in the kernel
// (internal/bpf) read them, in memory that both see.
//
// A grant is for one client and one server's port. SYNs are a number that is used up, and
// admit nobody. Admissions are places that the engine has reserved for the client in all
// its limits, and that nobody else can have meanwhile: each ACK takes one, exactly once, or
// comes to the engine as ever. What the engine takes back the kernel has not given away.
//
// There is room for a fixed number of grants, and a new one takes the place of another
// whose hash is the same: that one's packets visit the engine again.
package grant
