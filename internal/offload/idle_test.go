package offload

import (
	"testing"
	"time"
)

// The kernel's own timeouts are read, so that the test has to hold for any.
func TestIdleIsALowerBound(t *testing.T) {
	full, err := timeoutOf("established")
	if err != nil {
		t.Skip(err)
	}
	short, err := timeoutOf("unacknowledged")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		left, want time.Duration
	}{
		{"just seen", full, 0},
		{"half a second ago, rounded down", full - time.Second, 0},
		{"a minute ago", full - 61*time.Second, time.Minute},
		{"data is not acknowledged", short - 11*time.Second, 10 * time.Second},
	} {
		if got, err := Idle(Entry{State: Established, Timeout: tt.left}); got != tt.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}
