// Package sim runs the engine against clients, servers, attackers and a network
// that loses, delays, reorders and duplicates, all from one seed and on a
// virtual clock.
//
// It holds the engine to what it promises whatever the network does: a server
// never holds more connections of a source than the limit, every honest client
// ends with data or with a reset, nothing outlives its connection, and counts
// equal a slow recount. A run that fails names its seed; the same seed gives
// the same run.
//
// The hosts are small models of Linux' TCP, and the gateway's kernel is one of
// conntrack and of the hooks: the real ones are judged in package integration.
package sim
