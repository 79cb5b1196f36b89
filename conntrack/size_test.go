package conntrack

import (
	"testing"
	"unsafe"
)

// The table is to hold a million states in memory a gateway has to spare.
func TestStateSize(t *testing.T) {
	if n := unsafe.Sizeof(State{}); n > 200 {
		t.Errorf("a state takes %d octets, more than 200", n)
	} else {
		t.Logf("a state takes %d octets", n)
	}
}
