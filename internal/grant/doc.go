// Package grant holds what the kernel may let pass without asking: the SYNs of clients
// that are far below every limit of their rule, and the SYN+ACKs that answer these. The
// engine writes the grants, and a program in the kernel (internal/bpf) reads them, in
// memory that both see.
//
// A grant is for one client and one server's port, and for a number of SYNs; each uses
// up one. It admits nobody: the ACK that completes a handshake comes to the engine as
// ever, which has been told by then of all that has passed. So a grant that is a moment
// too old costs a refusal that comes with the ACK instead of with the SYN, and no more.
//
// There is room for a fixed number of grants, and a new one takes the place of another
// whose hash is the same: that one's SYNs visit the engine again.
package grant
