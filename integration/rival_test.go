package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// A rival is what can stand on the gateway before a server on port 80: the
// firewall under one of its policies, something of the kernel's, or nothing.
type rival struct {
	name   string
	policy string // of the firewall
	rules  string // for iptables-restore(8)
	strict bool   // conntrack takes up no connection in its middle
}

// synproxyRules are those of iptables-extensions(8) for SYNPROXY.
const synproxyRules = `*raw
-A PREROUTING -i eth0 -p tcp --dport 80 --syn -j CT --notrack
COMMIT
*filter
-A FORWARD -i eth0 -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY %s
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`

// conntrackRules is what any gateway with a stateful rule does.
const conntrackRules = `*filter
-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
COMMIT
`

var (
	direct         = rival{name: "direct"}
	plainConntrack = rival{name: "conntrack", rules: conntrackRules}
	rivals         = []rival{
		direct,
		plainConntrack,
		{name: "kernel SYNPROXY, MSS only", rules: fmt.Sprintf(synproxyRules, "--mss 1460"), strict: true},
		{name: "kernel SYNPROXY, all options", rules: fmt.Sprintf(synproxyRules, "--mss 1460 --sack-perm --wscale 7 --timestamp"), strict: true},
		{name: "nfqfw keep", policy: "keep"},
		{name: "nfqfw synproxy", policy: "synproxy"},
		{name: "nfqfw cookies", policy: "cookies"},
	}
)

// set puts the rival onto the gateway of a lab.
func (r *rival) set(t testing.TB, l *Lab) {
	t.Helper()
	if r.policy != "" {
		startFirewall(t, l, webConfig(r.policy, 1000))
	}
	if r.strict {
		if err := l.Gateway.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
			t.Fatal(err)
		}
	}
	if r.rules == "" {
		return
	}
	Require(t, IPTables)
	c := l.Gateway.Command(t.Context(), "iptables-restore")
	c.Stdin = strings.NewReader(r.rules)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", r.name, err, out)
	}
}

// A comparison is what was measured of each rival, in rounds.
type comparison struct {
	columns []string
	rows    map[string][][]float64 // by rival: a number for each column, for each round
}

func newComparison(columns ...string) *comparison {
	return &comparison{columns: columns, rows: make(map[string][][]float64)}
}

func (c *comparison) add(r rival, numbers ...float64) {
	c.rows[r.name] = append(c.rows[r.name], numbers)
}

// median is that of a rival's numbers in a column.
func (c *comparison) median(r rival, column int) float64 {
	list := c.sorted(r, column)
	if len(list) == 0 {
		return 0
	}
	return list[len(list)/2]
}

// best is the largest of them: what is measured while others work is less.
func (c *comparison) best(r rival, column int) float64 { return slices.Max(c.sorted(r, column)) }

// ratio is the median of the rounds' ratios in the first column. What else the
// machine does changes from round to round.
func (c *comparison) ratio(r, to rival) float64 {
	var list []float64
	for i, numbers := range c.rows[r.name] {
		list = append(list, numbers[0]/c.rows[to.name][i][0]) // of the same round
	}
	slices.Sort(list)
	return list[len(list)/2]
}

func (c *comparison) sorted(r rival, column int) (list []float64) {
	for _, numbers := range c.rows[r.name] {
		list = append(list, numbers[column])
	}
	slices.Sort(list)
	return list
}

// table prints the medians of each rival; of the first column also the best, and
// the median of the ratios to another rival's of the same round.
func (c *comparison) table(list []rival, to rival) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\tbest\tto %s\t\n", strings.Join(c.columns, "\t"), to.name)
	for _, r := range list {
		fmt.Fprintf(w, "%s\t", r.name)
		for i := range c.columns {
			fmt.Fprintf(w, "%.5g\t", c.median(r, i))
		}
		fmt.Fprintf(w, "%.5g\t%.2f\t\n", c.best(r, 0), c.ratio(r, to))
	}
	_ = w.Flush() // a strings.Builder takes all
	return "medians\n" + b.String()
}
