package ipset

import (
	"slices"
	"testing"
	"time"

	"nfqfw/internal/netnstest"
)

// What others take out of the sets is put back; what they put in stays.
func TestPutBack(t *testing.T) {
	k := newKernel(t, "192.0.2.0/24", "!192.0.2.1", "2001:db8::/32")
	k.must(k.add("198.51.100.7", time.Hour))
	k.flush()
	whole := k.elements()
	expect := func(what string, want ...string) {
		t.Helper()
		got, err := k.Repair(t.Context())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: repaired %q, %v, want %q", what, got, err, want)
		}
	}
	expect("nothing")
	for _, damage := range []string{"ipset flush", "ipset destroy", "ipset del NFQFW-t-4 192.0.2.0/24", "ipset flush NFQFW-t-6", "ipset destroy NFQFW-t-4"} {
		netnstest.Run(t, damage)
		expect(damage, "t")
		k.has(whole...)
		expect("after " + damage)
	}
	netnstest.Run(t, "ipset add NFQFW-t-4 203.0.113.1")
	expect("an entry more")

	k.must(k.add("198.51.100.8", 0))
	netnstest.Run(t, "ipset del NFQFW-t-4 203.0.113.1")
	expect("an entry that the kernel is yet to be told of")
	k.flush()
	expect("and was told of")
}

// A table that nobody follows has no sets to repair, and the program is not asked.
func TestRepairNothing(t *testing.T) {
	k := newKernel(t)
	k.must(k.Retain(t.Context(), nil))
	if got, err := k.Repair(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("repaired %q, %v", got, err)
	}
	k.sets()
}
