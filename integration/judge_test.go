package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/seedtest"
)

const (
	judgedActions = 250
	judgedLimit   = 8
)

// Whatever clients and server do, the sockets agree with the states: a state's
// server peer is ESTABLISHED, and counts, exactly while the server's socket is
// ESTAB or CLOSE-WAIT.
func TestSocketsJudge(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, judgedLimit, AcceptOptions{})
		s := &script{guarded: g, rand: seedtest.Rand(t), from: g.source(0)}
		watch := g.sample(s.from)
		for len(s.log) < judgedActions && !t.Failed() {
			s.open()
			for range s.rand.IntN(5) {
				s.act()
			}
			s.judge()
		}
		watch.expect(g, judgedLimit)
		if t.Failed() {
			t.Logf("the script, last action last:\n%s", strings.Join(s.log, "\n"))
		}
	})
}

// A script is a random sequence of actions at the ends of some connections.
type script struct {
	*guarded
	rand  *rand.Rand
	from  netip.Addr
	pairs []pair
	log   []string
}

// open tries to open a connection; it succeeds exactly if the limit allows.
func (s *script) open() {
	room, since := len(s.held(s.from)) < judgedLimit, s.srv.Count()
	c, err := s.lab.Client.Dial(s.ctx, netip.AddrPortFrom(s.from, 0), s.srv.Addr())
	s.note("open", err)
	switch {
	case err == nil && room:
		var server *net.TCPConn
		if Poll(s.ctx, func() bool { server = s.srv.acceptedFrom(addrPortOf(c.LocalAddr()), since); return server != nil }) != nil {
			s.t.Fatalf("connected, and never accepted")
		}
		s.pairs = append(s.pairs, pair{c, server})
	case err == nil:
		_ = c.Close()
		s.t.Errorf("over the limit, and connected")
	case !errors.Is(err, unix.ECONNREFUSED):
		s.t.Errorf("open: %v, want a refusal", err)
	case room:
		s.t.Errorf("refused, with %d of %d held", len(s.held(s.from)), judgedLimit)
	}
}

// act does something to a connection, and forgets it when it is sure to go.
func (s *script) act() {
	if len(s.pairs) == 0 {
		return
	}
	i := s.rand.IntN(len(s.pairs))
	p := s.pairs[i]
	end, other, name := p.client, p.server, "client"
	if s.rand.IntN(2) == 0 {
		end, other, name = other, end, "server"
	}
	name = fmt.Sprintf("%s of %v", name, p.client.LocalAddr())
	switch s.rand.IntN(9) {
	case 0:
		s.note(name+" closes", end.Close())
	case 1:
		_ = end.SetLinger(0)
		s.note(name+" aborts", end.Close())
	case 2, 3:
		s.note(name+" half-closes", end.CloseWrite())
	case 4, 5:
		_ = end.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := end.Read(make([]byte, 1<<16))
		s.note(fmt.Sprintf("%s reads %d", name, n), err)
	default:
		n := 1 + s.rand.IntN(5000)
		_ = end.SetWriteDeadline(time.Now().Add(time.Millisecond))
		_, err := end.Write(make([]byte, n))
		s.note(fmt.Sprintf("%s sends %d", name, n), err)
	}
}

// note remembers an action. That it fails is part of the game.
func (s *script) note(what string, err error) {
	if err != nil {
		what += ": " + err.Error()
	}
	s.log = append(s.log, what)
}

// judge waits until the daemon's states and the server's sockets agree, and
// stay so.
func (s *script) judge() {
	s.t.Helper()
	var before, established, counting, held []uint16
	err := Poll(s.ctx, func() bool {
		before = held
		established, counting, held = nil, nil, nil
		for _, st := range s.statesOf(s.from) {
			if st.Dest.State == "ESTABLISHED" {
				established = append(established, st.Source.Port)
			}
			if st.Counts {
				counting = append(counting, st.Source.Port)
			}
		}
		for _, k := range s.held(s.from) {
			held = append(held, k.Remote.Port())
		}
		slices.Sort(established)
		slices.Sort(counting)
		return slices.Equal(held, before) && slices.Equal(established, held) && slices.Equal(counting, held)
	})
	if err != nil {
		s.t.Errorf("after %q: the server holds %v, ESTABLISHED are %v, counting %v",
			s.log[len(s.log)-1], held, established, counting)
	}
}
