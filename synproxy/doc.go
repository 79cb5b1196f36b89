// Package synproxy is what the SYN proxy says: the cookie that is its initial
// sequence number, the segments of its two handshakes, and what it has learned
// of the servers behind it.
//
// It holds no connection: internal/engine asks and remembers. The server sees
// the client's own sequence numbers; only the server's are shifted on their way
// to the client, by our cookie less the server's initial number.
package synproxy
