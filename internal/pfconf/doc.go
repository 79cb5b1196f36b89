// Package pfconf translates a ruleset in pf's grammar (pf.conf(5)) into nfqfw's own
// configuration, and says of each thing that has no equivalent there that it has none.
//
// It is pure: Import takes the bytes of a file and gives text. It opens no file, also
// not those that the ruleset names, looks up no host and no interface.
//
// The order of the source is kept, and pf's meaning: the last rule that matches wins,
// quick ends the search, a pass rule keeps state, block follows block-policy. A list is
// one rule where that means the same as the several that pf makes of it, and several
// where it does not: pf counts for each apart, and a negated element in a list takes
// nothing out of it.
//
// Not translated, with a note each: what goes out, protocols other than TCP,
// translation, queueing, anchors and included files. A rule that depends on something
// nfqfw cannot look at, as a user or a tag, is left out: without its condition it would
// match more than it did.
//
// A syntax error is an error, as in pf, and all of a file are reported: `line 12: port:
// 70000 is not a port (0-65535)`. So is a file that expands beyond the bounds in
// limit.go, which no ruleset written by hand comes near.
package pfconf
