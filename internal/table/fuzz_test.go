package table

import (
	"bytes"
	"testing"

	"nfqfw/rules"
)

// Whatever a file holds, each of its lines is an entry, an error, or neither, and in
// order.
func FuzzScanEntries(f *testing.F) {
	f.Add([]byte("192.0.2.1\n!192.0.2.0/24 # not\n\n2001:db8::/32\r\n"))
	f.Add([]byte("192.0.2.1/33\n::ffff:192.0.2.1/120\nfe80::1%eth0\n\xff\x00"))
	f.Add(bytes.Repeat([]byte("x"), maxLine+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		last, lines := 0, bytes.Count(b, []byte("\n"))+1
		err := scanEntries(bytes.NewReader(b), func(line int, p rules.Prefix, err error) error {
			if line <= last || line > lines || (err == nil) != p.IsValid() || err == nil && p.Prefix != p.Masked() {
				t.Errorf("line %d of %d after %d: %v, %v", line, lines, last, p, err)
			}
			last = line
			return nil
		})
		if err != nil && len(b) <= maxLine {
			t.Error(err)
		}
	})
}
