package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Rules of a soak: a port for short connections and one for long ones, under each way to
// keep state.
var soakPolicies = []string{"keep", "synproxy", "adaptive"}

const (
	soakShortPort, soakLongPort = 80, 90
	soakLeastConns              = 3
	soakMostConns               = 6
)

// soakTimeouts are short, so that nothing is left soon after all is over.
const soakTimeouts = `
[limits]
states = 20000
[syncookies]
start = "1%"
end = "0.5%"
[timeouts]
"tcp.first" = "3s"
"tcp.opening" = "3s"
"tcp.closing" = "5s"
"tcp.finwait" = "3s"
"tcp.closed" = "1s"
[table.abusers]
ttl = "2s"
[[rule]]
name = "abusers"
action = "block"
from = ["<abusers>"]
quick = true
`

// soakConfig is a configuration as an operator could have changed it: other limits,
// another rule beside those of the servers, and other ways to keep state for some.
func soakConfig(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("[daemon]\nwhen_down = \"closed\"\n" + soakTimeouts)
	for i, policy := range soakPolicies {
		if r.IntN(4) == 0 {
			policy = soakPolicies[r.IntN(len(soakPolicies))]
		}
		// Honest clients have one connection at a time each, and a few in any second.
		fmt.Fprintf(&b, "[[rule]]\nname = \"short-%d\"\non = [\"eth0\"]\nport = [%d]\nstate = %q\nmax_src_conn = %d\nmax_src_conn_rate = \"1000/10s\"\n",
			i, soakShortPort+i, policy, 10+r.IntN(10))
		fmt.Fprintf(&b, "[[rule]]\nname = \"long-%d\"\non = [\"eth0\"]\nport = [%d]\nstate = %q\nmax_src_conn = %d\noverload = \"abusers\"\nflush = \"rule\"\n",
			i, soakLongPort+i, policy, soakLeastConns+r.IntN(soakMostConns-soakLeastConns+1))
	}
	if r.IntN(2) == 0 {
		fmt.Fprintf(&b, "[[rule]]\nname = \"more\"\non = [\"eth0\"]\nport = [%d]\nstate = \"keep\"\n", 9000+r.IntN(100))
	}
	return b.String()
}
