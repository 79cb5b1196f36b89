package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/syncookie"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// open decides about a packet that has no state. Only a SYN that a rule
// matches begins one, or an ACK that proves a cookie.
//
// The server's side is not judged here: what a client can gain by it takes a
// packet of the client's to gain, and that one is.
func (v *visit) open() {
	if v.rule == nil && v.trial == nil {
		v.rule, v.trial = v.rules.Load().find(v.p)
	}
	v.noteTrial()
	switch {
	case v.rule == nil:
		v.openUnmatched()
	case v.p.IsSYN():
		v.openSYN()
	case v.p.Conn == packet.ConnEstablished && v.d.Offload.Op != packet.OffloadDelete:
		v.d.pass(packet.MarkSeen) // older than the rules, and the kernel knows it
	case v.p.Flags.Has(packet.RST):
		v.d.pass(packet.MarkSeen) // it can only end what the server still holds
	case v.p.IsSYNACK() && v.p.Kernel == packet.KernelNotAsked && v.d.Offload.Op == packet.OffloadNone:
		// To a client that no rule is about, as this machine itself, a server's answer
		// looks like what comes in for a rule without ports. The kernel knows the SYN.
		v.d.Offload = queryEntry(v.p.Tuple)
	case v.p.IsSYNACK() && v.p.Kernel.Present():
		v.d.pass(packet.MarkSeen)
	case v.openCookie():
	default:
		v.d.drop(packet.ReasonStateMismatch)
		v.tell()
	}
}

// noteTrial tells of a block rule that only counts, and would have refused the SYN.
func (v *visit) noteTrial() {
	if v.trial != nil && v.p.IsSYN() {
		v.note(v.trial, Refusal{Reason: packet.ReasonBlock})
	}
}

// openUnmatched lets pass what no rule is about. It may be a client's answer to a
// cookie of a rule that has vanished since.
func (v *visit) openUnmatched() {
	begins := v.p.Conn != packet.ConnEstablished && !v.p.Flags.Has(packet.RST)
	if !begins || !v.openCookie() {
		v.d.pass(packet.MarkSeen)
	}
}

func (v *visit) openSYN() {
	over, exceeds := v.excess()
	switch {
	case v.orphan:
		v.d.drop(packet.ReasonStateMismatch) // it comes again, and finds no entry
	case v.rule.Action == rules.Block:
		v.refuse(Refusal{Reason: packet.ReasonBlock})
	case exceeds:
		v.refuse(over)
	case v.proxies(v.rule) && !v.draining.Load(), v.p.OpensFast():
		// A kept one would reach the application before the handshake is done.
		// Proxied, it is an ordinary SYN: the client sends its data again.
		v.openProxy()
	default:
		var s conntrack.State
		s.Begin(v.p, v.now)
		if v.insert(&s) {
			v.d.pass(packet.MarkOpening)
		}
	}
}

// openProxy answers the SYN in the server's name. Of a server that nothing is
// known of, the client's SYN asks first.
func (v *visit) openProxy() {
	v.d.drop(packet.ReasonSynproxy)
	v.noGrant()
	if v.kept { // it would take the new connection's packets for its own
		v.d.Offload = deleteEntry(v.p.Tuple)
	}
	server, known := v.servers.Options(v.p.Tuple, v.now)
	remembers := v.remembers(v.rule)
	if !known && v.servers.Refuses(v.p.Tuple, v.now) {
		v.d.emit(synproxy.Refusal(v.p))
		return
	}
	if asks := !known && v.servers.Ask(v.p.Tuple, v.now); asks || !known && remembers {
		v.hold(asks)
		return
	}
	told := v.told(&v.p.Tuple, &v.p.Options, &server, known)
	synack := syncookie.SYNACK(v.jar, v.p, told)
	if remembers {
		var s conntrack.State
		beginProxy(&s, v.p, v.now)
		v.answer(&s, synack.Seq, &told, v.now)
		if !v.insert(&s) {
			return
		}
		v.shard.Wait(v.state)
	} else {
		v.cookiesSent(v.rule, 1, v.now)
		if known {
			v.letAnswer(&server)
		}
	}
	v.d.emit(synack)
}

// told are the options a client's SYN is answered with.
func (e *Engine) told(t *packet.Tuple, client, server *packet.Options, known bool) (told packet.Options) {
	told = synproxy.ToldOptions(t, client, server, known)
	told.HasTimestamp = told.HasTimestamp && e.stamps.Load()
	told.TSEcr = client.TSVal
	return told
}

// answer notes in a state in PROXY:SRC how its client is answered.
func (e *Engine) answer(s *conntrack.State, isn seqnum.Value, told *packet.Options, now time.Duration) {
	h := &s.Handshake
	h.Tell(told)
	h.ISN, h.Held = isn, false
	h.Tries, h.Due = 1, now+synackRetries[0]
	if s.Known { // it waited for this
		e.tellKernel(s)
	}
}

// openCookie takes up a connection whose client repeated a cookie of ours, as
// if its SYN had been remembered, and says whether it did.
func (v *visit) openCookie() bool {
	p := v.p
	closes := p.Flags.Has(packet.FIN) && p.PayloadLen == 0
	x := v.cookieRule()
	if x == nil || p.Flags&(packet.ACK|packet.SYN) != packet.ACK || closes {
		return false
	}
	client, options, ok := syncookie.Proof(v.jar, p)
	if !ok || !stamped(&options, p) {
		v.counters.CookiesInvalid.Add(1)
		return false
	}
	v.cookieBack(x)
	server, known := v.servers.Options(p.Tuple, v.now)
	told := v.told(&p.Tuple, &options, &server, known)
	if options.HasWScale && !told.HasWScale || options.HasTimestamp && !told.HasTimestamp {
		return false // the client was told of a server that has changed since
	}
	var s conntrack.State
	beginProxy(&s, p, v.now)
	s.Handshake.SetOptions(&options, &told)
	s.Handshake.ISN, s.Handshake.Client = p.Ack-1, client
	s.Src.SeqLo = client + 1
	if told.HasWScale {
		s.Src.MaxWin <<= options.WScale // as the SYN had it, which is not scaled
	}
	v.rule = x
	if v.insert(&s) {
		v.shakeHands()
	}
	return true
}

// cookieLife is how long a cookie is good at most.
const cookieLife = 30 * time.Second

// cookieRule is the rule whose cookie an ACK could repeat, or nil: the one that
// matches, or that did before the last reload.
func (v *visit) cookieRule() *entry {
	set := v.rules.Load()
	switch {
	case v.rule != nil && v.rule.Action == rules.Block:
		return nil
	case v.rule != nil && set.cookiesLive(v.rule):
		return v.rule
	case set.before == nil || v.now >= set.since+cookieLife:
		return nil
	}
	x := set.before.enforced(v.p)
	if x == nil || !set.before.cookiesLive(x) {
		return nil
	}
	return set.byID[x.id-1]
}

// cookiesLive says whether a cookie of a rule can be out.
func (s *ruleset) cookiesLive(x *entry) bool {
	return x.State != rules.Keep && (s.cookies == synproxy.CookiesAlways || x.pressure.cookiesLive())
}

// stamped adds to a cookie's options what the timestamp brings back that came with it,
// if any, and says whether that is the cookie's. It is not in what a client sends whose
// connection was made and is not known any more: its options would be made of a clock.
func stamped(o *packet.Options, p *packet.Packet) bool {
	if !p.Options.HasTimestamp {
		return true
	}
	shift, ok := synproxy.Shift(p.Ack-1, p.Options.TSEcr)
	if !ok || o.HasWScale && cookie.RoundScale(shift) != o.WScale {
		return false
	}
	o.HasTimestamp, o.TSVal = true, p.Options.TSVal
	o.WScale = shift // of no use without scaling, but part of what we have told
	return true
}

// beginProxy makes a zero state one in PROXY:SRC.
func beginProxy(s *conntrack.State, p *packet.Packet, now time.Duration) {
	s.Begin(p, now)
	s.Src.State = conntrack.ProxySrc
	s.Src.SeqLo = p.Seq + 1
	s.Proxied = true
}
