// Package sim runs the engine against clients, servers, attackers and a network
// that loses, delays, reorders and duplicates, all from one seed and on a
// virtual clock.
//
// A run is a short story of a few connections, a big one now and then, and a
// campaign is many of them. What a story may be made of stands in story.go: the
// rules of the server's ports (rule.go), the modes of cookies and their marks,
// limits, options, the network, what kind of server it is, the attacks, and an
// operator who reloads and kills (operator.go). Most are foul; in a fair one nothing
// goes wrong, and in an unlucky one a single packet of a handshake is lost.
//
// Whatever happens, it holds the engine to this (admission.go, operator.go,
// invariant.go):
//
//   - a connection comes to the server only where it has been let through, and then
//     what the server holds, the states in the table and the connections in any window
//     of a rate are within each limit of its rule as it was at that moment;
//   - a rule that only counts refuses nobody;
//   - both ends of a killed connection know of it within a second, in bad weather
//     within ten; nothing comes through of a source that was flushed;
//   - every honest client ends with data or with a reset that it hears; in fair
//     and unlucky stories with data, over a connection that was made within 4 s,
//     and 5 s after the last is over none counts;
//   - client and server read each other's windows and timestamps right;
//   - nothing outlives its connection: no state, source, entry of the kernel's,
//     rule that vanished, or pressure;
//   - counts equal a slow recount, after each reload and each kill too.
//
// A run that fails names its seed; the same seed gives the same run, and shows
// all that the gateway sees and does. The clock jumps over what is idle, ticks
// of the engine included, so that a story takes a fraction of a millisecond.
//
// The hosts are small models of Linux' TCP (stop and wait), and the gateway's
// kernel is one of conntrack and of the hooks (entry.go, gateway.go): the real
// ones are judged in package integration.
package sim
