// Package syncookie holds what the kernel needs to answer SYNs with cookies by itself, as
// the engine would have answered them: for which servers' ports, with which options and by
// which key. The engine writes it, and a program in the kernel (internal/bpf) reads it, in
// memory that both see.
//
// The kernel answers strangers, of which the engine knows nothing, and who is below all
// limits of the rule; a tuple that has a state is the engine's affair, and so is a source
// that a rule or a table names. Nobody is admitted by an answer: the ACK that repeats the
// cookie comes to the engine, which decides as ever.
//
// ACKs that come to it without a cookie cost as much as those with one. While there are many,
// it has the kernel drop them (Demand): those for a service that is answered for, of a tuple
// without a state.
//
// A service is answered for until a time that the engine puts off again and again. When the
// engine stands still, so does the kernel soon.
package syncookie
