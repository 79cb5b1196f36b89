package syncookie

import (
	"nfqfw/internal/packet"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// SYNACK answers a SYN with a cookie. Told are the options that its client is told.
func SYNACK(jar *cookie.Jar, syn *packet.Packet, told packet.Options) packet.Segment {
	isn := jar.Bake(syn.Tuple, syn.Seq, Options(&syn.Options, &told))
	told.TSVal = synproxy.Stamp(isn, syn.Options)
	return synproxy.SYNACK(syn.Tuple, isn, syn.Seq, told)
}

// Options are those a cookie has to bring back: the client's, as far as it was told that
// they are taken up.
func Options(client, told *packet.Options) packet.Options {
	return packet.Options{
		MSS: client.MSS, WScale: client.WScale, HasWScale: told.HasWScale, SACKPermitted: told.SACKPermitted,
	}
}
