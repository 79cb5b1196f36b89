package hooks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// damages are what others do to the hooks, as lines for iptables-restore --noflush.
var damages = map[string]string{
	"a flushed built-in chain":     "*mangle\n-F PREROUTING\nCOMMIT\n",
	"a flushed chain of ours":      "*mangle\n-F NFQFW-QUEUE\nCOMMIT\n",
	"a rule taken out":             "*raw\n-D NFQFW-NOTRACK 1\nCOMMIT\n",
	"a rule put before another":    "*mangle\n-I NFQFW-QUEUE 1 -j RETURN\nCOMMIT\n",
	"a jump of two taken out":      "*raw\n-D OUTPUT 1\nCOMMIT\n",
	"all rules of a table flushed": "*raw\n-F\nCOMMIT\n",
	"a table flushed":              "*mangle\n-F\n-X\nCOMMIT\n",
}

// harmless is what others may do.
const harmless = `*mangle
:OTHERS - [0:0]
-I PREROUTING 1 -p udp -j OTHERS
-I PREROUTING 3 -p icmp -j OTHERS
-A OTHERS -j RETURN
COMMIT
*raw
-I OUTPUT 1 -p tcp --dport 22 -j ACCEPT
COMMIT
`

func TestIntact(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		installOthers(t)
		h := newHooks(golden["web"])
		must(t, h.Install(t.Context()))
		expectIntact(t, h, "installed", true)
		for what, text := range damages {
			for _, f := range Families {
				must(t, restore(t.Context(), f, text))
				expectIntact(t, h, fmt.Sprintf("%s, %v", what, f), false)
				must(t, h.Install(t.Context()))
				expectIntact(t, h, "put back after "+what, true)
			}
		}
		for _, f := range Families {
			must(t, restore(t.Context(), f, harmless))
		}
		expectIntact(t, h, "others have rules before ours", true)
	})
}

func expectIntact(t *testing.T, h *Hooks, what string, want bool) {
	t.Helper()
	got, err := h.Intact(t.Context())
	if err != nil || got != want {
		t.Errorf("%s: intact is %v, %v, want %v", what, got, err, want)
	}
}

// Hooks of which somebody takes some out before they were looked at are not taken for
// whole, and neither are those of another process.
func TestDamagedBeforeSeen(t *testing.T) {
	newNamespace(t)
	h, heir := newHooks(golden["web"]), newHooks(golden["web"])
	must(t, h.Install(t.Context()))
	heir.Inherit(h.Timestamps())
	expectIntact(t, heir, "inherited", true)
	must(t, h.Install(t.Context()))
	must(t, restore(t.Context(), IPv6, damages["a table flushed"]))
	expectIntact(t, h, "flushed before it was seen", false)
	expectIntact(t, heir, "flushed, of another process", false)
}

// A change by iptables is counted if nftables is its back end, and only then; looking
// is no change.
func TestGeneration(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		g, err := OpenGeneration()
		must(t, err)
		defer g.Close()
		expectChanged := func(what string, want bool) {
			t.Helper()
			if got, err := g.Changed(); err != nil || got != want {
				t.Errorf("%s: changed is %v, %v, want %v", what, got, err, want)
			}
		}
		h := newHooks(golden["web"])
		must(t, h.Install(t.Context()))
		counted := Counted(t.Context())
		if want := backEnd(t) == "nf_tables"; counted != want {
			t.Errorf("counted is %v", counted)
		}
		expectChanged("install", counted)
		expectIntact(t, h, "installed", true)
		expectChanged("nothing", false)
		must(t, restore(t.Context(), IPv6, damages["a rule taken out"]))
		expectChanged("a rule taken out", counted)
	})
}

// backEnd is that of the tool, by the program behind its name.
func backEnd(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(IPv4.command("save"))
	must(t, err)
	program, err := filepath.EvalSymlinks(path)
	must(t, err)
	if _, err := os.Stat(program); err != nil || strings.Contains(program, "legacy") {
		return "legacy"
	}
	return "nf_tables"
}
