// Package table holds the tables of the running firewall: named sets of addresses
// that rules refer to, and that change while they do.
//
// A table has the meaning of pf's: of the entries that hold an address the longest
// decides, and a negated one takes it out. An entry comes from the configuration,
// from a command, or from a rule's overload; the latter two may have a time to live,
// which ends exactly when it is over, whenever Sweep comes along to tidy up.
//
// Look-ups take no lock and allocate nothing: a table's trie is never changed but
// replaced. Whoever changes a table holds the lock of the Set. The entries of all
// tables together are bounded, so that no flood of overloads takes the memory.
//
// Time is a duration since a start that the caller chooses, the same for all calls.
package table
