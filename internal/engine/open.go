package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// open decides about a packet that has no state. Only a SYN that a rule
// matches begins one, or an ACK that proves a cookie.
//
// The server's side is not judged here: what a client can gain by it takes a
// packet of the client's to gain, and that one is.
func (v *visit) open() {
	if v.rule == nil {
		v.rule = v.ruleset.Match(v.p.InName, v.p.Tuple)
	}
	switch {
	case v.rule == nil:
		v.d.pass(packet.MarkSeen)
	case v.p.IsSYN():
		v.openSYN()
	case v.p.Conn == packet.ConnEstablished:
		v.d.pass(packet.MarkSeen) // older than the rules, and the kernel knows it
	case v.p.Flags.Has(packet.RST):
		v.d.pass(packet.MarkSeen) // it can only end what the server still holds
	case v.cookies && v.rule.State == rules.Synproxy && v.openCookie():
	default:
		v.refuse(packet.ReasonStateMismatch)
	}
}

func (v *visit) openSYN() {
	switch {
	case v.rule.Action == rules.Block:
		v.refuse(packet.ReasonBlock)
	case v.full():
		v.refuse(packet.ReasonMaxSrcConn)
	case v.rule.State == rules.Synproxy && !v.draining.Load(), v.p.OpensFast():
		// A kept one would reach the application before the handshake is done.
		// Proxied, it is an ordinary SYN: the client sends its data again.
		v.openProxy()
	default:
		if v.insert(conntrack.New(v.p, v.now)) {
			v.d.pass(packet.MarkOpening)
		}
	}
}

// openProxy answers the SYN in the server's name.
func (v *visit) openProxy() {
	server, known := v.servers.Options(v.p.Tuple, v.now)
	told := synproxy.ToldOptions(v.p.Tuple, v.p.Options, server, known)
	isn := v.jar.Bake(v.p.Tuple, v.p.Seq, cookieOptions(v.p.Options, told))
	v.d.drop(packet.ReasonSynproxy)
	if v.cookies && v.rule.State == rules.Synproxy {
		v.d.emit(synproxy.SYNACK(v.p.Tuple, isn, v.p.Seq, told))
		return
	}
	s := proxyState(v.p, v.now)
	s.Handshake.SetOptions(v.p.Options, told)
	s.Handshake.ISN, s.Handshake.Client = isn, v.p.Seq
	s.Src.SeqLo = v.p.Seq + 1
	if v.insert(s) {
		v.d.emit(synproxy.SYNACK(v.p.Tuple, isn, v.p.Seq, told))
	}
}

// openCookie takes up a connection whose client repeated a cookie of ours, as
// if its SYN had been remembered, and says whether it did.
func (v *visit) openCookie() bool {
	p := v.p
	if p.Flags&(packet.ACK|packet.SYN|packet.FIN) != packet.ACK {
		return false
	}
	client, isn := p.Seq-1, p.Ack-1
	options, ok := v.jar.Open(p.Tuple, client, isn)
	if !ok {
		// If the ACK was lost, a client with data probes the zero window with
		// the number before.
		client = p.Seq
		options, ok = v.jar.Open(p.Tuple, client, isn)
	}
	if !ok {
		return false
	}
	server, known := v.servers.Options(p.Tuple, v.now)
	s := proxyState(p, v.now)
	s.Handshake.SetOptions(options, synproxy.ToldOptions(p.Tuple, options, server, known))
	s.Handshake.ISN, s.Handshake.Client = isn, client
	s.Src.SeqLo = client + 1
	if v.insert(s) {
		v.shakeHands()
	}
	return true
}

// proxyState is a state in PROXY:SRC.
func proxyState(p *packet.Packet, now time.Duration) conntrack.State {
	s := conntrack.New(p, now)
	s.Src.State = conntrack.ProxySrc
	s.Proxied = true
	return s
}

// cookieOptions are those a cookie has to bring back: the client's, as far as
// it was told that they are taken up.
func cookieOptions(client, told packet.Options) packet.Options {
	return packet.Options{
		MSS: client.MSS, WScale: client.WScale, HasWScale: told.HasWScale, SACKPermitted: told.SACKPermitted,
	}
}
