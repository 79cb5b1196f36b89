// Package ipset keeps copies of tables in the kernel, where a rule of iptables can
// drop by them: for each table that is followed a set for IPv4 and one for IPv6.
//
// A set follows its table. Whoever changes the table only leaves a note of the prefix;
// one goroutine, Run, looks what the table has there by then and tells the kernel, many
// notes at a time. So packets never wait for the kernel, and notes need no order. When
// there are too many notes, or the kernel refused some, the set is written anew and
// takes the place of the old one at once.
//
// An entry's time to live is the kernel's too, in whole seconds and never less than in
// the table, so that it runs out even if nobody is there any more.
//
// The package runs ipset(8), by which the kernel's sets have names that iptables takes.
// Its sets begin with NFQFW-; it touches no others.
package ipset
