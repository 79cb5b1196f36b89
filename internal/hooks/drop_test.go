package hooks

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nfqfw/internal/ipset"
	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/rules"
)

func block(from rules.Addresses) rules.Rule {
	return rules.Rule{Action: rules.Block, Refuse: rules.RefuseDrop, From: from}
}

// With returns a rule that is changed.
func with(r rules.Rule, change func(*rules.Rule)) rules.Rule {
	change(&r)
	return r
}

func TestTables(t *testing.T) {
	abusers := block(inTables("abusers"))
	quick := with(abusers, func(r *rules.Rule) { r.Quick = true })
	on := func(name string) func(*rules.Rule) { return func(r *rules.Rule) { r.On = []string{name} } }
	for _, tt := range []struct {
		policy string
		list   []rules.Rule
		want   string
	}{
		{"no rule", nil, ""},
		{"a block rule by itself", []rules.Rule{abusers}, "abusers"},
		{"tables it takes out are asked too", []rules.Rule{block(inTables("abusers", "!friends", "others"))}, "abusers friends others"},
		{"a table that only takes out", []rules.Rule{block(inTables("!friends"))}, ""},
		{"a pass rule", []rules.Rule{{From: inTables("friends")}}, ""},
		{"who is told", []rules.Rule{with(abusers, func(r *rules.Rule) { r.Refuse = rules.RefuseReset })}, ""},
		{"who is counted only", []rules.Rule{with(abusers, func(r *rules.Rule) { r.CountOnly = true })}, ""},
		{"prefixes beside the table", []rules.Rule{with(abusers, func(r *rules.Rule) { r.From.Prefixes = in("10.0.0.0/8").Prefixes })}, ""},
		{"servers in a table", []rules.Rule{with(abusers, func(r *rules.Rule) { r.To = inTables("servers") })}, ""},
		{"servers but some", []rules.Rule{with(abusers, func(r *rules.Rule) { r.To = in("192.0.2.0/24", "!192.0.2.1/32") })}, ""},
		{"a later rule could pass", []rules.Rule{abusers, {Ports: ports(80)}}, ""},
		{"not if this one is quick", []rules.Rule{quick, {Ports: ports(80)}}, "abusers"},
		{"an earlier rule does not, unless it is quick", []rules.Rule{{Ports: ports(80)}, abusers}, "abusers"},
		{"an earlier quick one", []rules.Rule{{Ports: ports(80), Quick: true}, abusers}, ""},
		{"even if this one is quick", []rules.Rule{{Ports: ports(80), Quick: true}, quick}, ""},
		{"a later rule drops too", []rules.Rule{abusers, block(rules.Addresses{})}, "abusers"},
		{"a later rule tells", []rules.Rule{abusers, {Action: rules.Block}}, ""},
		{"on another interface", []rules.Rule{with(abusers, on("eth0")), with(rules.Rule{}, on("eth1"))}, "abusers"},
		{"on all interfaces but one", []rules.Rule{with(abusers, func(r *rules.Rule) { r.NotOn = []string{"eth0"} })}, "abusers"},
		{"on all but two, which one match cannot say", []rules.Rule{with(abusers, func(r *rules.Rule) { r.NotOn = []string{"eth0", "eth1"} })}, ""},
		{"on the same", []rules.Rule{with(abusers, on("eth0")), with(rules.Rule{}, on("eth0"))}, ""},
		{"of other ports", []rules.Rule{with(abusers, func(r *rules.Rule) { r.Ports = ports(22, 25) }), {Ports: ports(80)}}, "abusers"},
		{"of other servers", []rules.Rule{with(abusers, func(r *rules.Rule) { r.To = in("192.0.2.0/25") }), {To: in("192.0.2.128/25", "!10.0.0.1/32")}}, "abusers"},
		{"of servers in a table", []rules.Rule{with(abusers, func(r *rules.Rule) { r.To = in("192.0.2.0/25") }), {To: inTables("servers")}}, ""},
		{"of all servers but some", []rules.Rule{with(abusers, func(r *rules.Rule) { r.To = in("192.0.2.0/25") }), {To: in("!192.0.2.0/24")}}, ""},
		{"for others only", []rules.Rule{abusers, {From: inTables("!abusers")}}, "abusers"},
		{"for the others of another table", []rules.Rule{block(inTables("abusers", "others")), {From: inTables("!abusers")}}, ""},
	} {
		if got := strings.Join(Tables(tt.list), " "); got != tt.want {
			t.Errorf("%s: tables %q, want %q", tt.policy, got, tt.want)
		}
	}
}

// holder is a table that does not change.
type holder map[netip.Addr]bool

// Contains is the table's.
func (h holder) Contains(a netip.Addr) bool { return h[a] }

// Whatever the kernel drops by the hooks, Match would have had blocked in silence; and
// it drops all that a rule by itself does.
func TestKernelDropsWhatMatchBlocks(t *testing.T) {
	r := seedtest.Rand(t)
	dropped, total := 0, 0
	for range 3000 {
		list := randomRules(r)
		known := map[string]holder{"a": randomTable(r), "b": randomTable(r)}
		set := rules.New(list, func(name string) rules.Table { return known[name] })
		lines := []string{}
		for line := range strings.Lines(Rules(Config{Rules: list}, IPv4)) {
			if strings.HasSuffix(line, "-j DROP\n") && strings.Contains(line, "SYN") {
				lines = append(lines, line)
			}
		}
		for range 10 {
			device := []string{"eth0", "eth1"}[r.IntN(2)]
			c := packet.TupleFrom(netip.AddrPortFrom(randomAddr(r), 50000), netip.AddrPortFrom(randomAddr(r), uint16(r.IntN(4))))
			drops := slices.ContainsFunc(lines, func(line string) bool { return lineDrops(t, line, device, c, known) })
			rule := set.Match(device, c)
			blocks := rule != nil && rule.Action == rules.Block && rule.Refuse == rules.RefuseDrop && !rule.CountOnly
			if drops && !blocks {
				t.Fatalf("%v in by %s is dropped, but not by %+v, of\n%+v\n%s", c, device, rule, list, strings.Join(lines, ""))
			}
			if len(Tables(list)) > 0 && len(list) == 1 && drops != blocks {
				t.Fatalf("%v in by %s: dropped %v, blocked %v, of\n%+v", c, device, drops, blocks, list)
			}
			total++
			if drops {
				dropped++
			}
		}
	}
	if seedtest.Fixed() && dropped < total/50 {
		t.Errorf("%d of %d were dropped: the world is too large", dropped, total)
	}
}

// lineDrops reads a rule of iptables as the kernel would.
func lineDrops(t *testing.T, line, device string, c packet.Tuple, known map[string]holder) bool {
	words := strings.Fields(line)
	not := false
	for i := 0; i+1 < len(words); i++ {
		of := words[i+1]
		holds := true
		switch words[i] {
		case "!":
			not = true
		case "-i":
			holds = (of == device) != not
			not = false
		case "-d":
			holds = netip.MustParsePrefix(of).Contains(c.Dst.Netip())
		case "--dport", "--dports":
			holds = slices.ContainsFunc(strings.Split(of, ","), func(p string) bool { return inPorts(t, p, c.DstPort) })
		case "--match-set":
			in := false
			for name, table := range known {
				in = in || ipset.Name(name, false) == of && table[c.Src.Netip()]
			}
			holds = in != not
			not = false
		}
		if !holds {
			return false
		}
	}
	return true
}

func inPorts(t *testing.T, text string, port uint16) bool {
	first, last, isRange := strings.Cut(text, ":")
	if !isRange {
		last = first
	}
	a, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := strconv.Atoi(last)
	if err != nil {
		t.Fatal(err)
	}
	return a <= int(port) && int(port) <= b
}

func randomAddr(r *rand.Rand) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(4))}) }

func randomTable(r *rand.Rand) holder {
	h := make(holder)
	for range r.IntN(4) {
		h[randomAddr(r)] = true
	}
	return h
}

func randomRules(r *rand.Rand) []rules.Rule {
	list := make([]rules.Rule, 1+r.IntN(4))
	for i := range list {
		list[i] = rules.Rule{
			Name: fmt.Sprint("r", i+1), Quick: r.IntN(3) == 0, Action: rules.Action(min(r.IntN(3), 1)),
			Refuse: rules.Refuse(min(r.IntN(5), 1)), CountOnly: r.IntN(8) == 0, From: randomFrom(r),
		}
		switch device := []string{"eth0", "eth1"}[r.IntN(2)]; r.IntN(6) {
		case 0, 1:
			list[i].On = []string{device}
		case 2:
			list[i].NotOn = []string{device}
		case 3:
			list[i].NotOn = []string{"lo", device}
		}
		if r.IntN(2) == 0 {
			first := uint16(r.IntN(4))
			list[i].Ports = []rules.PortRange{{First: first, Last: first + uint16(r.IntN(2))}}
		}
		if r.IntN(2) == 0 {
			p := netip.PrefixFrom(randomAddr(r), 31+r.IntN(2)).Masked()
			list[i].To.Prefixes = rules.Prefixes{{Prefix: p, Negated: r.IntN(6) == 0}}
		}
	}
	return list
}

func randomFrom(r *rand.Rand) rules.Addresses {
	words := [][]string{{"a"}, {"b"}, {"a", "b"}, {"a", "!b"}, {"!a"}, nil}[r.IntN(6)]
	from := inTables(words...)
	if r.IntN(5) == 0 {
		from.Prefixes = rules.Prefixes{{Prefix: netip.PrefixFrom(randomAddr(r), 32), Negated: r.IntN(2) == 0}}
	}
	return from
}

// The program that makes sets is needed for a rule that the kernel carries out, and
// for no other.
func TestCheckNeedsIPSet(t *testing.T) {
	dir := t.TempDir()
	for _, f := range Families {
		for _, verb := range []string{"save", "restore"} {
			must(t, os.WriteFile(filepath.Join(dir, f.command(verb)), []byte("#!/bin/sh\n"), 0o700))
		}
	}
	t.Setenv("PATH", dir)
	told := with(block(inTables("abusers")), func(r *rules.Rule) { r.Refuse = rules.RefuseReset })
	if err := newHooks(Config{Rules: []rules.Rule{told}}).Check(); err != nil {
		t.Error(err)
	}
	err := newHooks(Config{Rules: []rules.Rule{block(inTables("abusers"))}}).Check()
	if err == nil || !strings.Contains(err.Error(), "install the ipset package") {
		t.Error(err)
	}
}
