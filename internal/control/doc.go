// Package control is the conversation between the daemon and its command line:
// a Unix socket, one request a connection.
//
// The client writes one JSON object and a newline. The daemon answers with
// objects a line each: {"item": …} any number of times, then {"done": true} or
// {"error": "…"}. An answer that ends without either was cut off. The socket is
// its owner's alone (mode 0600); requests are bounded in size and time, so that
// nobody who may write to it can hold the daemon up.
package control
