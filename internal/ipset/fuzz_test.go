package ipset

import "testing"

// What the program prints of an element is read, or is none.
func FuzzParseCounter(f *testing.F) {
	f.Add("add NFQFW-abusers-4 192.0.2.0/24 timeout 0 packets 5 bytes 300")
	f.Add("add NFQFW-abusers-6 2001:db8::1 packets 18446744073709551615 bytes")
	f.Add("create NFQFW-abusers-4 hash:net family inet hashsize 1024")
	f.Add("add x fe80::1%eth0 bytes -1")
	f.Fuzz(func(t *testing.T, line string) {
		p, c, ok := parseCounter(line)
		if ok && !p.IsValid() || !ok && c != (Counter{}) {
			t.Errorf("%v %v %v", p, c, ok)
		}
		if ok {
			Of(nil, p)
		}
	})
}
