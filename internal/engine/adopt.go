package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
)

// Adoption is a connection that began before there was this engine, as the kernel knows
// it.
type Adoption struct {
	Tuple    packet.Tuple // from the client
	InName   string       // the interface by which the client is reached, taken for the one it came in by,
	InDev    uint32       // and its index
	ReplyDev uint32       // that by which the server is; 0: this machine is the server
	Src, Dst conntrack.PeerState
	Doubtful bool // the server may have let go
	// Opening says that its client was not admitted, and its server has not accepted it:
	// it is admitted, or not, when the client acknowledges what the server says next.
	Opening bool

	Proxied              bool // the SYN proxy made it
	SeqDiff              seqnum.Size
	ServerISN            seqnum.Value
	TSDiff               uint32
	SrcWScale, DstWScale uint8
	HasWScale            bool
	SACKPermitted        bool

	Age  time.Duration // since it began
	Idle time.Duration // since its last packet
}

// Adopt takes over a connection that a rule matches, and says whether it did. If it is
// established it counts at once, whatever the limits: it stays. One that has a state
// already keeps it.
func (e *Engine) Adopt(now time.Duration, a *Adoption) bool {
	s := e.rules.Load()
	r := s.match.MatchEnforced(a.InName, a.Tuple)
	if r == nil || r.Action == rules.Block {
		return false
	}
	x := s.byNumber[r.Number-1]
	if a.Opening {
		return e.insertOpening(now, x, a)
	}
	src, err := e.holdSource(now, x, a.Tuple.Src)
	if err != nil {
		return false
	}
	adopted := e.insertAdopted(now, x, src, a)
	if !adopted {
		e.table.Drop(src, now)
	}
	return adopted
}

// CatchUp moves a connection on as far as the kernel has seen it close, when the packets
// that closed it were not seen. What the kernel tells is from a time not before since, when
// a state that is younger did not exist.
func (e *Engine) CatchUp(now, since time.Duration, a *Adoption) {
	sh := e.table.Lock(a.Tuple)
	defer sh.Unlock()
	s, _ := sh.Find(a.Tuple)
	if s == nil || s.Created > since || !s.Offloaded || s.Leaving() {
		return
	}
	src, dst := max(s.Src.State, a.Src), max(s.Dst.State, a.Dst)
	if src == s.Src.State && dst == s.Dst.State {
		return
	}
	s.Src.State, s.Dst.State = src, dst
	e.ruleOf(s).release(s)
	s.Refresh(now - a.Idle)
}

// holdSource holds the source of a connection that is there, whatever the limits.
func (e *Engine) holdSource(now time.Duration, x *entry, client packet.Addr) (*conntrack.Source, error) {
	if !x.limits.Any() {
		return nil, nil
	}
	return e.sources.Acquire(x.sourceKey(client), e.nodesOf(x), &x.limits, now, true)
}

func (e *Engine) insertAdopted(now time.Duration, x *entry, src *conntrack.Source, a *Adoption) bool {
	sh := e.table.Lock(a.Tuple)
	defer sh.Unlock()
	if s, _ := sh.Find(a.Tuple); s != nil {
		return false
	}
	adopted := a.state(now, x.id)
	s, err := sh.Insert(&adopted)
	if err != nil {
		return false
	}
	x.seat(s, src, true)
	if a.Age < max(x.limits.Rate.Window, x.limits.Track) {
		s.Admit(&x.limits, now, true) // later than it was: a rate is held the longer
	} else {
		s.Resume(true, true)
	}
	x.release(s)
	e.tellKernel(s)
	if a.Doubtful {
		s.Handshake.Asking, s.Handshake.Due = true, now
		s.Handshake.Probe = e.probeNumber(s, seqnum.Value(now))
		sh.Wait(s)
	}
	return true
}

// insertOpening adopts a kept handshake. Its server answers again, and so tells what the
// client has to acknowledge.
func (e *Engine) insertOpening(now time.Duration, x *entry, a *Adoption) bool {
	sh := e.table.Lock(a.Tuple)
	defer sh.Unlock()
	if s, _ := sh.Find(a.Tuple); s != nil {
		return false
	}
	adopted := a.state(now, x.id)
	s, err := sh.Insert(&adopted)
	if err != nil {
		return false
	}
	x.seat(s, nil, false)
	e.press(s, now)
	return true
}

// seat counts a state that is there already, whatever the limits. It is bound to its
// source, if one is held for it.
func (x *entry) seat(s *conntrack.State, src *conntrack.Source, admitted bool) {
	x.states.Add(1)
	if src != nil {
		s.Bind(src)
	}
	if admitted {
		x.enter(x.Max, true)
	}
}

// state is the state of an adopted connection. Of its numbers the kernel tells none
// but what it adds to them.
func (a *Adoption) state(now time.Duration, rule uint32) conntrack.State {
	s := conntrack.State{
		Tuple: a.Tuple, Rule: rule, InDev: a.InDev, ReplyDev: a.ReplyDev, Answered: true, Created: now - a.Age,
		Src:     conntrack.Peer{State: a.Src, WScale: a.SrcWScale, HasWScale: a.HasWScale},
		Dst:     conntrack.Peer{State: a.Dst, WScale: a.DstWScale, HasWScale: a.HasWScale},
		SeqDiff: a.SeqDiff, TSDiff: a.TSDiff, Offloaded: !a.Opening, Made: a.Proxied, Proxied: a.Proxied, Adopted: true,
	}
	s.Handshake.SACK, s.Handshake.Stamps = a.SACKPermitted, a.TSDiff != 0
	if a.Proxied {
		s.Dst.SeqLo = a.ServerISN + 1
		s.Handshake.ISN = a.ServerISN.Add(a.SeqDiff)
	}
	if a.Opening { // whatever the kernel makes of it
		s.Src.State, s.Dst.State = conntrack.SynSent, conntrack.Closed
	}
	s.Refresh(now - a.Idle)
	return s
}
