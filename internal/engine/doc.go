// Package engine decides about packets. It composes the state table
// (conntrack), the SYN proxy (synproxy) and the ruleset (rules), and is pure:
// time comes in as a parameter, randomness as keys, and what is to be done goes
// out as a Decision that the caller carries out.
//
// The way of a packet, each step in the file of its name:
//
//	ruleset.go  the rules as they are now, what is counted of each, and how a reload swaps them
//	engine.go   Handle: find the state, look at the rule, ask again when told to
//	open.go     no state: pass, refuse, or begin one
//	hold.go     a server that nothing is known of is asked before its client is answered
//	proxy.go    the SYN proxy's handshake with the client
//	server.go   its handshake with the server, and how the two become one
//	track.go    a connection that has a state: peers, counts, closing
//	passed.go   packets that have passed without a verdict, and are taken note of
//	reset.go    a client's RST: the server is asked whether it obeyed
//	guess.go    a FIN or a server's RST that a blind attacker may have guessed
//	grant.go    what the kernel may admit by itself: connections of clients far below every limit
//	grants.go   what is granted, and how it is taken back
//	answers.go  what the kernel may answer by itself: SYNs that the engine would answer with cookies
//	stamp.go    clients that have heard their server's own timestamps
//	adopt.go    connections that began before the engine was there
//	handover.go all that another engine has to know to go on in the place of this one
//	kill.go     connections that end now: both sides are asked for their numbers, and reset
//	pressure.go how many are half-open: when to proxy, and when to bake cookies
//	admit.go    the one way to the server: a slot of the source, or a refusal
//	device.go   interfaces that are made anew
//	tick.go     what happens without a packet: SYNs sent again, states expired
//
// Invariants: no connection is ESTABLISHED at its server without having been
// admitted; a source never has more slots than its rule's limit; a state that
// is removed gives back its slot and its source, and the kernel's entry if it
// was the SYN proxy's.
//
// A client is told nothing of its server that is not known to be so.
//
// Order of locks: a table shard, then the servers', or a source's own. The locks of
// the set of sources are waited for with no other held, and no other is taken under them
// but a source's own. Who holds a shard may try for another, or for the sources, and does
// not wait for it. That of the grants is taken under a shard's, and under it a source's own,
// while the sources are tried for. That of the answers is tried for under a shard's, and the
// servers' is taken under it.
package engine
