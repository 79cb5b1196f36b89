// Package control is the conversation between the daemon and its command line:
// a Unix socket, one request a connection.
//
// The client writes one JSON object and a newline. The daemon answers with
// objects a line each: {"item": …} any number of times, then {"done": true} or
// {"error": "…"}. An answer that ends without either was cut off.
//
// The socket is its owner's alone (mode 0600), or a group's too (0660), whose members
// may then do all that the owner may, but take the daemon's place. Requests are bounded in size and time, and clients
// in number; of too many that have not asked yet, the oldest is let go. The group's
// clients are counted apart from the owner's: nobody who may write to the socket can
// hold the daemon up, and no member of the group its owner.
package control
