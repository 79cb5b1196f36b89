package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// The kernel lets some packets pass that it does not obey itself, and neither does who
// gets them: a segment older than the window, and a RST in the window whose number is
// not exact. Nobody need know the numbers of a connection to send one. So where such a
// packet would close a connection the kernel is asked what it made of it.

// exactWindow is how far from the last number that is known of a side its FIN may be
// and not be doubted, in octets: as unlikely to be guessed as a number in the window.
const exactWindow seqnum.Size = 1 << 16

// closes says whether a packet would close a connection that the kernel carries, and
// its number is not known to be right. A client's RST is another matter: see askServer.
func (v *visit) closes() bool {
	s, p := v.state, v.p
	if !s.Offloaded || p.Conn != packet.ConnEstablished {
		return false
	}
	from, _ := v.sides()
	if p.Flags.Has(packet.RST) {
		known := from.Seen && p.Seq == from.SeqLo
		return v.dir == conntrack.Reply && from.State == conntrack.Established && s.Handshake.Probe == 0 && !known
	}
	known := from.Seen && from.SeqLo.Size(p.Seq) < exactWindow
	return p.Flags.Has(packet.FIN) && from.State == conntrack.Established && !known
}

// sides are the sender of the packet, and the other side.
func (v *visit) sides() (from, to *conntrack.Peer) {
	if v.dir == conntrack.Original {
		return &v.state.Src, &v.state.Dst
	}
	return &v.state.Dst, &v.state.Src
}

// kernelObeys says whether the kernel's entry has moved on by the packet. One that is
// gone tells nothing.
func (v *visit) kernelObeys() bool {
	_, to := v.sides()
	switch k := v.p.Kernel; {
	case k == packet.KernelAbsent:
		return true
	case v.p.Flags.Has(packet.RST):
		return k == packet.KernelReset
	case to.State >= conntrack.Closing && !v.state.Anew:
		return k >= packet.KernelClosed
	default:
		return k >= packet.KernelClosing
	}
}

// guessed lets a packet pass that nobody obeys, or, if it is a RST, perhaps: data of
// the server's may be on the way before it. Then the server is asked.
func (v *visit) guessed() {
	if !v.p.Flags.Has(packet.RST) {
		v.d.pass(v.mark())
		return
	}
	v.question(v.shard, v.state, v.state.Src.SeqLo, v.now)
	v.doubtServer()
}
