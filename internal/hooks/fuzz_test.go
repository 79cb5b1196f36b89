package hooks

import (
	"slices"
	"strings"
	"testing"
)

// Whatever is installed by others, what takes our hooks out names our chains alone.
func FuzzParseSaved(f *testing.F) {
	f.Add("*raw\n:PREROUTING ACCEPT [0:0]\n:NFQFW-SYN - [0:0]\n-A PREROUTING -j NFQFW-SYN\n-A NFQFW-SYN -j RETURN\nCOMMIT\n")
	f.Add("*mangle\n:NFQFW-TRANSLATE - [0:0]\n:NFQFW-CLOSING - [0:0]\n-A OUTPUT -m comment --comment \"-j NFQFW-X\" -g NFQFW-CLOSING\n")
	f.Add("*\n:NFQFW-\n-A \n-A x -j NFQFW-\n:NFQFW- - -")
	f.Fuzz(func(t *testing.T, out string) {
		present := parseSaved(out)
		for _, p := range present {
			ours := func(chain string) bool { return strings.HasPrefix(chain, prefix) && !strings.ContainsAny(chain, " \n") }
			if i := slices.IndexFunc(p.chains, func(c string) bool { return !ours(c) }); i >= 0 {
				t.Errorf("chain %q", p.chains[i])
			}
			for _, jump := range p.jumps {
				if strings.HasPrefix(jump, prefix) || strings.Contains(jump, "\n") {
					t.Errorf("jump %q", jump)
				}
			}
		}
		for _, text := range []string{removal(present), retirement(present)} {
			if n := strings.Count(text, "\nCOMMIT\n"); n != strings.Count("\n"+text, "\n*") {
				t.Errorf("tables that are not committed:\n%s", text)
			}
		}
	})
}
