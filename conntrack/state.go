package conntrack

import (
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// Dir is the direction of a packet in its connection.
type Dir uint8

// The directions.
const (
	Original Dir = iota // that of the first SYN: from client (Src) to server (Dst)
	Reply
)

// State is one connection: an entry of the table. The first line of memory has what a
// look-up and a sweep ask for: whose it is, and whether its time is over.
type State struct {
	Tuple     packet.Tuple // original direction
	Rule      uint32       // number of the rule that made it
	ID        uint64
	Refreshed time.Duration // the last packet that fitted
	Timeout   Timeout
	Offloaded bool // the kernel has an entry for it that carries the payload
	Made      bool // and it was told to make it: it did not see the handshake,
	Anew      bool // nor that a side has closed
	Proxied   bool // the SYN proxy made it
	Adopted   bool // it began before there was this table: its numbers are not known until they are seen
	Killed    bool // by an operator or a flush: it is not listed, and both sides are being told
	Pressing  bool // it is one of the half-open states that the table's owner counts

	Src, Dst Peer
	Created  time.Duration
	InDev    uint32      // interface index the first packet came in by
	ReplyDev uint32      // that which the server's answer came in by; 0: this machine is the server
	SeqDiff  seqnum.Size // what is added to the server's numbers on their way to the client
	TSDiff   uint32      // and to the server's timestamps
	source   *Source

	Handshake Handshake
	place     uint32 // in its shard
	Answered  bool   // ReplyDev means something
	slot      bool   // of the source
	admitted  bool
	Doubted   bool    // its client may have heard the server's own timestamps, not translated ones
	Known     bool    // the table's owner has told the kernel that its tuple has a state,
	Occupies  bool    // and that it is one of those of its source that limits are about
	_         [6]byte // the next one begins with a line
}

// Handshake is what has to be remembered of the handshakes, most of it by the
// SYN proxy only.
type Handshake struct {
	ISN     seqnum.Value  // ours, towards the client
	Client  seqnum.Value  // the client's, which the server gets to see as well
	Due     time.Duration // when what was not answered is sent again, or given up
	MSS     uint16        // the client's; 0: none
	ToldMSS uint16        // what the client was told
	WScale  uint8         // the client's window shift
	Scales  bool          // the client's SYN offers window scaling
	Told    bool          // the client scales, and was told that the server does,
	ToldBy  uint8         // by this shift
	SACK    bool          // both sides permit SACK, as far as is known
	Stamps  bool          // both sides send timestamps; while Held, the client would
	TSVal   uint32        // the client's last timestamp
	Held    bool          // the client has no answer yet: its server is being asked what it can do
	Tries   uint8         // what was not answered was sent so often
	Again   uint8         // SYNs sent to the server because its answer could not be used
	Window  uint16        // the client's last window, scaled as it will be
	Asking  bool          // the server may still hold what the client has reset: ask it at Due,
	Probe   seqnum.Value  // by a segment that acknowledges this, as does its RST if it does not; 0: never asked
	Ending  bool          // the connection's time is over and both sides are being reset
}

// Begin makes a zero state that of a connection whose first packet is the SYN p.
func (s *State) Begin(p *packet.Packet, now time.Duration) {
	s.Tuple, s.InDev = p.Tuple, p.InDev
	s.Created, s.Refreshed, s.Timeout = now, now, TCPFirst
	s.Handshake.Client = p.Seq
	s.Handshake.setClient(&p.Options)
	s.Src.State = SynSent
	s.Src.see(p)
}

// Peers are the sender of a packet of direction d, and the other side.
func (s *State) peers(d Dir) (from, to *Peer) {
	if d == Original {
		return &s.Src, &s.Dst
	}
	return &s.Dst, &s.Src
}

// ShakingHands says whether the SYN proxy is at work for this connection.
func (s *State) ShakingHands() bool { return s.Src.State.proxied() }

// Leaving says whether the connection was killed, or its time is over, and its sides
// are being told.
func (s *State) Leaving() bool { return s.Killed || s.Handshake.Ending }

// Opening says whether a side has not reached ESTABLISHED yet.
func (s *State) Opening() bool {
	return s.ShakingHands() || min(s.Src.State, s.Dst.State) < Established
}

// HalfOpen says whether the client has not proved yet that it is where it says
// it is: what a flood of SYNs from made-up addresses leaves behind. Unlike in pf,
// PROXY:SRC is half-open.
func (s *State) HalfOpen() bool {
	if s.ShakingHands() {
		return s.Src.State == ProxySrc
	}
	return s.Dst.State < Established
}

// Closed says whether nothing more can come of the connection: both FINs are
// acknowledged, or it was reset. A new SYN may take its place.
func (s *State) Closed() bool { return !s.ShakingHands() && min(s.Src.State, s.Dst.State) >= FinWait2 }

// AwaitsACK says whether a FIN is not acknowledged yet.
func (s *State) AwaitsACK() bool { return s.Src.State == Closing || s.Dst.State == Closing }

// Answer remembers where the server is, by its answer.
func (s *State) Answer(p *packet.Packet) { s.ReplyDev, s.Answered = p.InDev, true }

// Forged says whether a packet in the server's name comes from where its client
// is, or in by any interface if the server is this machine: a client could end
// its connection for us alone, and hold more than it may.
func (s *State) Forged(d Dir, p *packet.Packet) bool {
	elsewhere := d == Reply && s.Answered && p.InDev != s.ReplyDev
	return elsewhere && (s.ReplyDev == 0 || p.InDev == s.InDev)
}

// ack is the number a packet acknowledges, in the numbers of the side that is
// acknowledged.
func (s *State) ack(d Dir, p *packet.Packet) seqnum.Value {
	if d == Original {
		return p.Ack.Sub(s.SeqDiff)
	}
	return p.Ack
}

// Establishes says whether a packet completes the server's side of the
// handshake: it acknowledges exactly the server's SYN. Who would pass it has to
// reserve a slot first.
func (s *State) Establishes(d Dir, p *packet.Packet) bool {
	return d == Original && s.Dst.State == SynSent && !s.ShakingHands() &&
		p.Flags&(packet.ACK|packet.RST) == packet.ACK && p.Ack == s.Dst.SeqLo
}

// Meets says whether a packet is the server's answer in a handshake that was under way
// before there was this table. Nothing of the client has been seen, and what it sends is
// not answered before.
func (s *State) Meets(d Dir, p *packet.Packet) bool {
	return s.Adopted && d == Reply && p.IsSYNACK() && s.Opening() && !s.Src.Seen
}

// Meet takes the client's number and options over from its server's answer.
func (s *State) Meet(p *packet.Packet) {
	s.Src.SeqLo, s.Src.Seen = p.Ack, true
	h := &s.Handshake
	h.Client = p.Ack - 1
	h.Scales, h.Stamps, h.SACK = p.Options.HasWScale, p.Options.HasTimestamp, p.Options.SACKPermitted
}

// Fits says whether a packet belongs to the connection at this point.
//
// While a side is below ESTABLISHED every packet visits user space, and numbers
// are checked as in pf, only that an ACK has to acknowledge exactly the SYN
// that is outstanding. Later the payload passes in the kernel, whose window
// check decides: what it found invalid does not fit.
func (s *State) Fits(d Dir, p *packet.Packet) bool {
	if p.Conn == packet.ConnInvalid {
		return false
	}
	if !s.Opening() {
		return true
	}
	if s.unanswered(d, p) || p.Flags.Has(packet.SYN) && p.OpensFast() {
		return false
	}
	from, to := s.peers(d)
	if p.Flags.Has(packet.ACK) && s.AcksOlder(d, p) {
		return false
	}
	if p.Flags.Has(packet.RST) {
		return s.fitsRST(d, p)
	}
	return !from.Seen || from.inWindow(p, to)
}

// unanswered says whether the client goes on before its server has answered, as
// far as was seen. What it sends could complete a handshake nobody watches.
func (s *State) unanswered(d Dir, p *packet.Packet) bool {
	return d == Original && s.Dst.State == Closed && !p.IsSYN() && !p.Flags.Has(packet.RST)
}

// AcksOlder says whether the other side's SYN is outstanding and a packet
// acknowledges something else; a SYN+ACK has to acknowledge the SYN whatever was
// said before.
func (s *State) AcksOlder(d Dir, p *packet.Packet) bool {
	_, to := s.peers(d)
	answers := d == Reply && p.IsSYNACK()
	return to.State == SynSent && p.Ack != to.SeqLo || answers && p.Ack != s.Handshake.Client+1
}

// fitsRST is pf's rule for the server's RST: next to the expected number, or in
// answer to the SYN if it never said anything else. The client's has to be exact.
func (s *State) fitsRST(d Dir, p *packet.Packet) bool {
	from, to := s.peers(d)
	switch {
	case d == Original:
		return p.Seq == from.SeqLo // the server would not obey another
	case !from.Seen:
		return p.Flags.Has(packet.ACK) && p.Ack == to.SeqLo
	}
	return p.Seq-from.SeqLo+1 <= 2
}

// inWindow is pf's test that a segment is not past what the other side allows,
// nor older than one window. A FIN may be one past the window.
func (r *Peer) inWindow(p *packet.Packet, other *Peer) bool {
	window := seqnum.Size(max(other.MaxWin, 1) << other.shift())
	end := p.End()
	if p.Flags.Has(packet.FIN) {
		end--
	}
	past := r.SeqLo.Add(window)
	return !past.LessThan(end) && !p.Seq.LessThan(r.SeqLo.Sub(window+1))
}

func (r *Peer) shift() uint8 {
	if r.HasWScale {
		return r.WScale
	}
	return 0
}

// Track moves the connection on by a packet that fits, at time now.
func (s *State) Track(d Dir, p *packet.Packet, now time.Duration) {
	if d == Reply && s.Opening() {
		s.Answer(p)
	}
	from, to := s.peers(d)
	ack := s.ack(d, p)
	ackSYN := to.Seen && ack == to.SeqLo
	ackFIN := to.Seen && !ack.LessThan(to.SeqLo)
	from.State, to.State = next(from.State, to.State, p.Flags, ackSYN, ackFIN)
	if p.IsSYNACK() {
		s.Handshake.SACK = s.Handshake.SACK && p.Options.SACKPermitted
	}
	if !p.Flags.Has(packet.RST) {
		from.see(p)
		if p.Flags.Has(packet.ACK) {
			to.SeqHi = ack.Add(seqnum.Size(uint32(max(p.Window, 1)) << from.scaleOf(p)))
		}
	}
	s.Refresh(now)
}

// Refresh starts the lifetime of the state anew.
func (s *State) Refresh(now time.Duration) {
	s.Refreshed = now
	s.Timeout = timeoutClass(s.Src.State, s.Dst.State)
}

// see takes over the numbers of a packet of this peer's. Between handshake and
// FIN the packet's own number is the newest there is, whatever came before:
// gigabytes may have passed unseen. Behind a FIN there is nothing.
func (r *Peer) see(p *packet.Packet) {
	finished := r.Seen && r.State >= Closing && !p.Flags.Has(packet.FIN)
	if !finished {
		r.SeqLo = p.End()
	}
	r.Seen = true
	r.MaxWin = max(r.MaxWin, uint32(p.Window))
	if p.Flags.Has(packet.SYN) {
		r.WScale, r.HasWScale = p.Options.WScale, p.Options.HasWScale
	}
}

// scaleOf is the shift for the window in a packet of this peer's: a SYN's is
// never scaled (RFC 7323 section 2.2).
func (r *Peer) scaleOf(p *packet.Packet) uint8 {
	if p.Flags.Has(packet.SYN) {
		return 0
	}
	return r.shift()
}

// setClient takes over what the client offers in its SYN.
func (h *Handshake) setClient(o *packet.Options) {
	h.MSS, h.WScale, h.Scales = o.MSS, o.WScale, o.HasWScale
	h.SACK, h.Stamps, h.TSVal = o.SACKPermitted, o.HasTimestamp, o.TSVal
}

// Tell takes over what the client is told.
func (h *Handshake) Tell(told *packet.Options) {
	h.Told, h.ToldBy, h.SACK, h.ToldMSS = told.HasWScale, told.WScale, told.SACKPermitted, told.MSS
	h.Stamps = told.HasTimestamp
}

// SetOptions takes over what the client offered, and what it was told.
func (h *Handshake) SetOptions(client, told *packet.Options) {
	h.setClient(client)
	h.Tell(told)
}

// Offered are the options of the client's SYN; of SACK and timestamps what became
// of them, once the client was told.
func (h *Handshake) Offered() packet.Options {
	return packet.Options{
		MSS: h.MSS, WScale: h.WScale, HasWScale: h.Scales, SACKPermitted: h.SACK, HasTimestamp: h.Stamps, TSVal: h.TSVal,
	}
}

// ToldOptions are the options the client was told, to tell them again.
func (h *Handshake) ToldOptions() packet.Options {
	return packet.Options{
		MSS: h.ToldMSS, WScale: h.ToldBy, HasWScale: h.Told, SACKPermitted: h.SACK, HasTimestamp: h.Stamps, TSEcr: h.TSVal,
	}
}
