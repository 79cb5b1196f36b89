// Package synproxy is what the SYN proxy says: the segments of its two
// handshakes, and what it has learned of the servers behind it. Its initial
// sequence numbers are cookies, and those are made in synproxy/cookie.
//
// It holds no connection: internal/engine asks and remembers. The server sees
// the client's own sequence numbers; only the server's are shifted on their way
// to the client, by our cookie less the server's initial number.
package synproxy
