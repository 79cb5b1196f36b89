package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	floodStates  = 200 // limits.states
	floodPackets = 3000
	floodSession = 10 // sources with sessions
	floodLimit   = 5  // sessions of each
)

// floodConfig has a small table, and no cookies: a flood has to be held off by what goes
// when the table is full.
const floodConfig = `
[limits]
states = 200
src_nodes = 100
[syncookies]
mode = "never"
[[rule]]
port = [81]
action = "block"
refuse = "reset"
[[rule]]
port = [80]
state = %q
max_src_conn = %d
`

// flooding is a kind of packet that somebody sends without end.
type flooding struct {
	name string
	of   func(g *guarded, i int) rawPacket
}

func (g *guarded) floodFrom(src netip.Addr, i int, port uint16, flags byte) rawPacket {
	return rawPacket{src: netip.AddrPortFrom(src, uint16(1024+i)), dst: g.addr(port), seq: uint32(i), ack: uint32(i) * 54321, flags: flags}
}

var floodings = []flooding{
	{"SYNs from nowhere", func(g *guarded, i int) rawPacket { return g.floodFrom(AbsentAddr(g.family, i), i, 80, flagSYN) }},
	{"ACKs from nowhere", func(g *guarded, i int) rawPacket { return g.floodFrom(AbsentAddr(g.family, i), i, 80, flagACK) }},
	{"SYNs in an honest client's name", func(g *guarded, i int) rawPacket { return g.floodFrom(g.source(floodSession), i, 80, flagSYN) }},
	{"SYNs of one at its limit", func(g *guarded, i int) rawPacket { return g.floodFrom(g.source(0), i, 80, flagSYN) }},
	{"SYNs that are blocked", func(g *guarded, i int) rawPacket { return g.floodFrom(AbsentAddr(g.family, i), i, 81, flagSYN) }},
	{"FINs and RSTs from nowhere", func(g *guarded, i int) rawPacket {
		return g.floodFrom(AbsentAddr(g.family, i), i, 80, []byte{flagFIN | flagACK, flagRST}[i%2])
	}},
}

// No flood grows the table or the log, ends a session or takes an honest client's place:
// what makes room is half-open.
func TestFloodsAreBounded(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		for i, at := range places {
			t.Run(policy+"/"+at.name, func(t *testing.T) {
				g := guardWith(t, fmt.Sprintf(floodConfig, policy, floodLimit), at, Families[i], AcceptOptions{Echo: true})
				var sessions []pair
				for j := range floodSession {
					sessions = append(sessions, g.gets(j, floodLimit)...)
				}
				for j, k := range floodings {
					g.suffer(k)
					g.allEcho(sessions)
					for _, c := range g.gets(floodSession+1+j, floodLimit) {
						abort(c.client)
					}
				}
				g.gets(floodSession, floodLimit) // the one in whose name SYNs came
				if i := g.info(); i.Evicted == 0 {
					t.Error("the table was never full")
				}
			})
		}
	}
}

// suffer sends one flood, and holds that it leaves the log and the table short.
func (g *guarded) suffer(k flooding) {
	g.t.Helper()
	wire := openWire(g.t, g.lab, g.family)
	before, began := g.logLines(), time.Now()
	for i := range floodPackets {
		if err := wire.send(k.of(g, i).octets()); err != nil {
			g.t.Fatal(err)
		}
	}
	time.Sleep(pause)
	g.must("judge", g.lab.Gateway.WaitJudged(g.ctx)) // or who comes next is one of too many
	i := g.info()
	if i.States.Current > floodStates {
		g.t.Errorf("%s: %d states of %d", k.name, i.States.Current, floodStates)
	}
	const firstLines, linesPerSecond = 20, 8
	took := time.Since(began)
	lines := g.logLines() - before
	g.t.Logf("%s: %d packets in %v, %d lines in the log, %d states, %d evicted", k.name, floodPackets, took.Round(time.Millisecond), lines, i.States.Current, i.Evicted)
	if most := firstLines + int(took.Seconds()*linesPerSecond); lines > most {
		g.t.Errorf("%s: %d lines in the log, want %d at most", k.name, lines, most)
	}
}

func (g *guarded) logLines() int { return strings.Count(g.fw.Log(), "\n") }
