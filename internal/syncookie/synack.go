package syncookie

import (
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// SYNACK answers a SYN with a cookie. Told are the options that its client is told.
func SYNACK(jar *cookie.Jar, syn *packet.Packet, told packet.Options) packet.Segment {
	isn := jar.Bake(syn.Tuple, syn.Seq, Options(&syn.Options, &told))
	told.TSVal = synproxy.Stamp(isn, syn.Options)
	return synproxy.SYNACK(syn.Tuple, isn, syn.Seq, told)
}

// Proof opens the cookie that an ACK repeats, and tells its client's initial number. If the
// first ACK was lost, a client with data probes the zero window with the number before.
func Proof(jar *cookie.Jar, p *packet.Packet) (client seqnum.Value, o packet.Options, ok bool) {
	for _, client := range [2]seqnum.Value{p.Seq - 1, p.Seq} {
		if o, ok := jar.Open(p.Tuple, client, p.Ack-1); ok {
			return client, o, true
		}
	}
	return 0, packet.Options{}, false
}

// Options are those a cookie has to bring back: the client's, as far as it was told that
// they are taken up.
func Options(client, told *packet.Options) packet.Options {
	return packet.Options{
		MSS: client.MSS, WScale: client.WScale, HasWScale: told.HasWScale, SACKPermitted: told.SACKPermitted,
	}
}
