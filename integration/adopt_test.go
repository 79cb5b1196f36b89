package integration

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"nfqfw/internal/control"
)

// A daemon that starts knows the connections that are there, whatever became of the
// one before: their states, rule, age and traffic, and who has closed meanwhile. They
// count at once.
func TestRestartKnowsConnections(t *testing.T) {
	for _, policy := range policies {
		for end, stop := range map[string]func(*Firewall) error{"SIGTERM": (*Firewall).Stop, "SIGKILL": (*Firewall).Kill} {
			t.Run(policy+"/"+end, func(t *testing.T) {
				for i, g := range guardAll(t, webConfig(policy, 6), AcceptOptions{}) {
					g.restart(g.source(i), stop)
				}
			})
		}
	}
}

func (g *guarded) restart(source netip.Addr, stop func(*Firewall) error) {
	g.t.Helper()
	name := fmt.Sprintf("%s/%v: ", g.at.name, g.family)
	var p [6]pair
	for i := range p {
		p[i] = g.open(source)
		g.carry(p[i], 1000)
		defer p[i].client.Close()
		defer p[i].server.Close()
	}
	began := time.Now()
	again := g.nextFIN(p[0])
	_ = p[0].client.CloseWrite()
	g.drained(p[0].server)
	g.sendAgain(again)
	_ = p[1].server.CloseWrite()
	g.drained(p[1].client)
	const before = "1 ESTABLISHED:FIN_WAIT_2, 1 FIN_WAIT_2:ESTABLISHED, 4 ESTABLISHED:ESTABLISHED"
	g.waitSummary(source, before)
	was := g.statesOf(source)
	if err := stop(g.fw); err != nil {
		g.t.Fatal(name, err)
	}
	_ = p[2].client.CloseWrite()
	g.drained(p[2].server)
	_ = p[3].server.CloseWrite()
	g.drained(p[3].client)
	_ = p[3].client.CloseWrite()
	g.drained(p[3].server)
	time.Sleep(time.Second) // ages are in seconds
	if err := g.fw.Start(g.ctx); err != nil {
		g.t.Fatal(name, err)
	}
	g.waitSummary(source, "1 FIN_WAIT_2:ESTABLISHED, 1 FIN_WAIT_2:FIN_WAIT_2, 2 ESTABLISHED:ESTABLISHED, 2 ESTABLISHED:FIN_WAIT_2")
	g.sameStates(name, was, g.statesOf(source), time.Since(began))
	if n := g.counted(source); n != 4 {
		g.t.Errorf("%s%d count, want 4", name, n)
	}
	for range 2 {
		defer g.open(source).client.Close()
	}
	if c, err := g.lab.Client.Dial(g.ctx, netip.AddrPortFrom(source, 0), g.srv.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		g.t.Errorf("%sone more than the limit: %v, %v", name, c, err)
	}
	g.carry(p[4], 100_000)
	for _, c := range p {
		c.client.Close()
		c.server.Close()
	}
	if Poll(g.ctx, func() bool { return g.counted(source) == 2 }) != nil {
		g.t.Errorf("%s%s after all but two have closed", name, summary(g.statesOf(source)))
	}
	g.killed(g.source(20+int(source.AsSlice()[3])), name+"a restart", func(pair) {
		if err := stop(g.fw); err != nil {
			g.t.Fatal(name, err)
		}
		if err := g.fw.Start(g.ctx); err != nil {
			g.t.Fatal(name, err)
		}
	})
}

// nextFIN is the FIN with which a client would close now.
func (g *guarded) nextFIN(p pair) rawPacket {
	g.t.Helper()
	seq, ack, err := numbers(p.client)
	if err != nil {
		g.t.Fatal(err)
	}
	return rawPacket{src: addrPortOf(p.client.LocalAddr()), dst: addrPortOf(p.client.RemoteAddr()), seq: seq, ack: ack, flags: flagFIN | flagACK}
}

// sendAgain sends what a client has sent already, as TCP does when an answer takes long:
// the kernel takes a second FIN for the other side's (nf_conntrack_proto_tcp.c), and then
// for all that is to come.
func (g *guarded) sendAgain(p rawPacket) {
	g.t.Helper()
	if err := openWire(g.t, g.lab, g.family).send(p.octets()); err != nil {
		g.t.Fatal(err)
	}
	time.Sleep(pause)
}

// sameStates holds that what is listed after a restart is what was before.
func (g *guarded) sameStates(name string, was, is []control.State, age time.Duration) {
	g.t.Helper()
	before := make(map[uint16]control.State)
	for _, s := range was {
		before[s.Source.Port] = s
	}
	for _, s := range is {
		old := before[s.Source.Port]
		if s.Rule != old.Rule || s.Interface != old.Interface || s.Proxied != old.Proxied || s.Dest.SeqDiff != old.Dest.SeqDiff {
			g.t.Errorf("%s%+v, was %+v", name, s, old)
		}
		if s.Age < age.Seconds()-0.5 || math.Abs(s.Age-age.Seconds()) > 3 {
			g.t.Errorf("%sage %v of a connection that began %v ago", name, s.Age, age)
		}
		if s.Original == nil || s.Reply == nil || s.Original.Bytes < 1000 || s.Reply.Bytes < 1000 {
			g.t.Errorf("%straffic is not known: %+v, %+v", name, s.Original, s.Reply)
		}
	}
}
