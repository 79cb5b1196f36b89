package nfnetlink

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever the octets, reading gets on, stays within them, and comes to an end.
func FuzzNext(f *testing.F) {
	f.Add([]byte("\x14\x00\x00\x00\x03\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x08\x00\x01\x40"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for m, rest, ok := Next(b); ok; m, rest, ok = Next(rest) {
			if len(rest)+len(m.Body)+unix.NLMSG_HDRLEN > len(b) {
				t.Fatalf("%d octets of %d", len(rest)+len(m.Body), len(b))
			}
			b = rest
			for attrs := m.Body; ; {
				_, value, next, ok := NextAttr(attrs)
				if !ok {
					break
				}
				if len(next)+len(value)+unix.SizeofNlAttr > len(attrs) {
					t.Fatalf("%d octets of %d", len(next)+len(value), len(attrs))
				}
				attrs = next
			}
			_ = Errno(m.Body)
		}
	})
}

func TestErrno(t *testing.T) {
	for body, want := range map[string]error{"": nil, "\xff\xff\xff": nil, "\x00\x00\x00\x00": nil, "\xff\xff\xff\xff": unix.EPERM} {
		if got := Errno([]byte(body)); !errors.Is(got, want) {
			t.Errorf("%x: %v, want %v", body, got, want)
		}
	}
}
