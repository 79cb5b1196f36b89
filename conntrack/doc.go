// Package conntrack is the state table: pf's TCP state machine with a state for
// each of the two peers, its timeouts, and the count of connections a source
// holds at the server.
//
// It makes no decision about packets and sends nothing; internal/engine does.
// Time is a parameter everywhere: the time since an epoch the caller chose, on
// a clock that never goes back.
//
// Invariants: a state is found until the moment its timeout ends and never
// after; a source's count never exceeds the limit it was reserved under; a slot
// is given back exactly once.
package conntrack
