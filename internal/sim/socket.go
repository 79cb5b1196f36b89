package sim

import (
	"fmt"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

type tcpState uint8

const (
	synSent tcpState = iota
	synReceived
	established
	timeWait
	gone // closed on both sides, reset or given up
)

var stateNames = []string{"SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "TIME_WAIT", "no state"}

// outcome is what a host can say of a connection that is over.
type outcome uint8

const (
	pending outcome = iota
	finished
	wasReset
	gaveUp
)

var outcomeNames = []string{"pending", "finished", "reset", "given up"}

const (
	rto        = 200 * time.Millisecond
	synRTO     = time.Second
	keepalive  = 5 * time.Second
	maxRetries = 12
	synRetries = 4
	lifeOfTW   = 10 * time.Second // TIME_WAIT, shortened as all here is
)

// socket is one end of a connection: stop and wait, one segment in flight.
type socket struct {
	world    *world
	host     *host
	tuple    packet.Tuple // what it sends
	state    tcpState
	outcome  outcome
	iss, irs seqnum.Value // its initial number and the peer's
	sndUna   seqnum.Value
	rcvNxt   seqnum.Value
	window   uint32 // the peer's, unscaled: only whether it is zero counts

	own    packet.Options // what it offers; of a server, what it answers
	peer   packet.Options // what the peer offered or answered
	stamps bool           // both sides send timestamps
	recent uint32         // the peer's last timestamp (RFC 7323: TS.Recent)

	wantSend int // octets of its own left to send
	wantRecv int // octets to receive before it closes; 0: none
	received int
	closing  bool // wants to send FIN when all is sent
	holds    bool // does not close yet
	lingers  bool // closes only after the peer has
	aborted  bool // it has closed with a RST
	killed   bool // an operator has, or an overload
	finSent  bool
	finAcked bool
	peerFIN  bool

	eager  bool // sends its data with the last ACK of the handshake, into a zero window too
	fast   bool // sends its data with the first SYN
	probes bool // a zero window with an octet of data, and not as Linux does

	retries  int
	timer    time.Duration // when it runs out; never: it does not
	alarmed  time.Duration // when the clock's next alarm for it is; never: none is planned
	flying   bool          // what is due was sent, and is not acknowledged
	probing  bool
	mute     time.Duration // until when challenges are not answered
	began    time.Duration
	accepted time.Duration // when its server had the whole handshake; a client's only
	usable   time.Duration // when it could send
	admitted *admission    // of a server's, once it is established; nil: no rule was there
}

func (w *world) newSocket(h *host, t packet.Tuple, state tcpState) *socket {
	s := w.slab.take()
	*s = socket{
		world: w, host: h, tuple: t, state: state, iss: seqnum.Value(w.rand.Uint32()), timer: never, alarmed: never,
		began: w.clock.now,
	}
	s.sndUna = s.iss
	return s
}

// agree takes over what the peer's SYN or SYN+ACK offers.
func (s *socket) agree(p *packet.Packet) {
	s.irs, s.rcvNxt, s.peer, s.window = p.Seq, p.Seq+1, p.Options, uint32(p.Window)
	if s.state == synReceived { // it answers what was offered
		s.own.HasWScale = s.own.HasWScale && s.peer.HasWScale
		s.own.SACKPermitted = s.own.SACKPermitted && s.peer.SACKPermitted
		s.own.HasTimestamp = s.own.HasTimestamp && s.peer.HasTimestamp
	}
	s.stamps = s.own.HasTimestamp && s.peer.HasTimestamp
	s.recent = p.Options.TSVal
}

// stamp is its clock of timestamps, in milliseconds.
func (s *socket) stamp() uint32 {
	return s.host.stamp + uint32(s.iss) + uint32(s.world.clock.now/time.Millisecond)
}

func (s *socket) send(seq seqnum.Value, flags packet.Flags, payload int) {
	p := packet.Packet{Tuple: s.tuple, Seq: seq, Ack: s.rcvNxt, Flags: flags, PayloadLen: uint32(payload)}
	p.Window = 64240
	if !flags.Has(packet.ACK) {
		p.Ack = 0
	}
	if flags.Has(packet.SYN) {
		p.Options = s.own
	} else {
		p.Options.HasTimestamp = s.stamps
		if s.own.HasWScale && s.peer.HasWScale {
			p.Window >>= s.own.WScale
		}
	}
	if p.Options.HasTimestamp {
		p.Options.TSVal, p.Options.TSEcr = s.stamp(), s.recent
	}
	s.host.out.send(&p)
}

func (s *socket) sendACK() { s.send(s.nextSeq(), packet.ACK, 0) }

// challenge acknowledges what has come so far, in answer to what is not as expected
// (RFC 5961). So that two sides cannot do this to each other for ever, Linux does it
// twice a second only, but for segments that take a number (tcp_oow_rate_limited).
func (s *socket) challenge(p *packet.Packet) {
	if p.Flags.Has(packet.SYN) || p.Seq == p.End() {
		if s.world.clock.now < s.mute {
			return
		}
		s.mute = s.world.clock.now + time.Second/2
	}
	s.sendACK()
}

// refuse answers what is no part of this connection as a closed port does.
func (s *socket) refuse(p *packet.Packet) {
	s.host.out.send(&packet.Packet{Tuple: s.tuple, Seq: p.Ack, Flags: packet.RST})
}

// arm restarts the timer. An alarm that is planned earlier looks again.
func (s *socket) arm(d time.Duration) {
	s.timer = s.world.clock.now + d
	if s.timer < s.alarmed {
		s.alarmed = s.timer
		s.world.clock.plan(d).socket = s
	}
}

func (s *socket) disarm() { s.timer = never }

// alarm is called by the clock.
func (s *socket) alarm() {
	now := s.world.clock.now
	if now < s.alarmed {
		return // another comes
	}
	s.alarmed = never
	switch {
	case s.timer == never:
	case now < s.timer:
		s.arm(s.timer - now)
	default:
		s.timer = never
		s.timeout()
	}
}

func (s *socket) timeout() {
	s.retries++
	switch {
	case s.state == timeWait:
		s.state = gone
	case s.retries > maxRetries, s.state < established && s.retries > synRetries:
		s.end(gaveUp)
	default:
		s.transmit()
	}
}

func (s *socket) backoff(base time.Duration) time.Duration { return base << min(s.retries, 5) }

// transmit sends what is due: the SYN, one segment, a probe or the FIN.
func (s *socket) transmit() {
	switch {
	case s.state == synSent:
		s.sendSYN()
		s.arm(s.backoff(synRTO))
	case s.state == synReceived:
		s.send(s.iss, packet.SYN|packet.ACK, 0)
		s.arm(s.backoff(synRTO))
	case s.wantSend > 0 && s.window == 0 && s.probes:
		s.send(s.sndUna, packet.ACK, 1)
		s.arm(s.backoff(rto))
	case s.wantSend > 0 && s.window == 0:
		s.send(s.sndUna-1, packet.ACK, 0)
		s.arm(s.backoff(rto))
	case s.wantSend > 0:
		s.flying = true
		s.send(s.sndUna, packet.ACK|packet.PSH, s.wantSend)
		s.arm(s.backoff(rto))
	case s.closing && !s.finAcked:
		s.finSent, s.flying = true, true
		s.send(s.sndUna, packet.ACK|packet.FIN, 0)
		s.arm(s.backoff(rto))
	default:
		s.send(s.nextSeq()-1, packet.ACK, 0) // keepalive
		s.arm(keepalive)
	}
}

// sendSYN sends a SYN, the first one with data if it is fast (RFC 7413).
func (s *socket) sendSYN() {
	if s.fast && s.retries == 0 {
		s.own.FastOpen = true
		s.send(s.iss, packet.SYN, s.wantSend)
		s.own.FastOpen = false
		return
	}
	s.send(s.iss, packet.SYN, 0)
}

func (s *socket) end(o outcome) {
	s.state, s.outcome = gone, o
	s.disarm()
	if !s.host.listens {
		s.world.again(s)
	}
}

// finish is the end of a connection that both sides have closed.
func (s *socket) finish() {
	o := finished
	if s.received < s.wantRecv || s.wantSend > 0 {
		o = wasReset // cut off, and told so
	}
	s.end(o)
	if s.host.listens && s.closedFirst() {
		s.state = timeWait
		s.arm(lifeOfTW)
	}
}

func (s *socket) closedFirst() bool { return !s.lingers }

// abort is a close with a RST.
func (s *socket) abort() {
	if s.state == established {
		s.send(s.nextSeq(), packet.RST|packet.ACK, 0)
		s.aborted = true
		s.end(finished)
		return
	}
	s.close()
}

// close is the application's.
func (s *socket) close() {
	s.holds = false
	s.closing = s.closing || s.host.listens
	s.next()
}

// nextSeq is SND.NXT.
func (s *socket) nextSeq() seqnum.Value {
	if s.finSent && !s.finAcked || s.state == synReceived {
		return s.sndUna + 1
	}
	return s.sndUna
}

// yields says whether the socket is none to a packet: it is over, or in TIME_WAIT
// and the packet a newer SYN (RFC 6191).
func (s *socket) yields(p *packet.Packet) bool {
	newer := p.IsSYN() && s.rcvNxt.LessThan(p.Seq)
	return s.state == gone || s.state == timeWait && newer
}

// receive handles a segment.
func (s *socket) receive(p *packet.Packet) {
	switch {
	case s.state == synSent:
		s.receiveSYNACK(p)
	case s.outdated(p):
		s.challenge(p)
	case p.Flags.Has(packet.RST):
		s.receiveRST(p)
	case p.Flags.Has(packet.SYN):
		s.receiveSYN(p)
	case !p.Flags.Has(packet.ACK):
	case s.state == timeWait:
		if p.Seq != s.rcvNxt || p.Seq != p.End() {
			s.challenge(p)
		}
	case s.outside(p):
		s.challenge(p)
	case s.state == synReceived && p.Ack != s.iss+1:
		s.refuse(p)
	default:
		s.receiveACK(p)
	}
}

// receiveSYN is for one inside a connection. One inside the window ends a handshake
// (tcp_check_req); all else is challenged (RFC 5961).
func (s *socket) receiveSYN(p *packet.Packet) {
	switch {
	case s.state != synReceived:
		s.challenge(p)
	case p.Seq+1 == s.rcvNxt:
		s.transmit()
	case s.outside(p):
		s.challenge(p)
	default:
		s.host.out.send(&packet.Packet{Tuple: s.tuple, Ack: p.End(), Flags: packet.RST | packet.ACK})
		s.end(wasReset)
	}
}

// outdated says whether the timestamps show that a segment is an old one (RFC 7323
// section 5), or, in a handshake, none that this one can have: Linux 6.18 looks
// whether a client echoes what it was sent.
func (s *socket) outdated(p *packet.Packet) bool {
	o := &p.Options
	if !s.stamps || !o.HasTimestamp || p.Flags.Has(packet.RST) {
		return false
	}
	if s.state == synReceived && p.Flags.Has(packet.ACK) && !s.sent(o.TSEcr) {
		return true
	}
	return int32(o.TSVal-s.recent) < 0
}

// outside says whether a segment is not in the window: all of it was received, or it
// is past what may be sent. In a handshake Linux takes a keepalive for old as well
// (tcp_in_window, as against tcp_sequence).
func (s *socket) outside(p *packet.Packet) bool {
	old := p.End().LessThan(s.rcvNxt) || s.state == synReceived && p.End() == s.rcvNxt && p.Seq != s.rcvNxt
	return old || s.rcvNxt.Add(65535).LessThan(p.Seq)
}

// sent says whether it has sent a timestamp since its connection began.
func (s *socket) sent(stamp uint32) bool {
	age := s.stamp() - stamp
	return age <= uint32(s.world.clock.now/time.Millisecond-s.began/time.Millisecond)
}

func (s *socket) receiveRST(p *packet.Packet) {
	switch {
	case p.Seq == s.rcvNxt:
		if s.state == timeWait {
			s.state = gone
			s.disarm()
			return
		}
		s.end(wasReset)
	case p.Seq-s.rcvNxt < 65535:
		s.challenge(p)
	}
}

// receiveSYNACK is for a client in SYN_SENT.
func (s *socket) receiveSYNACK(p *packet.Packet) {
	o := &p.Options
	switch {
	case !p.Flags.Has(packet.ACK):
		return // both open at once: no client of ours does
	case p.Flags.Has(packet.RST):
		if p.Ack == s.iss+1 {
			s.end(wasReset)
		}
		return
	case p.Ack != s.iss+1, s.own.HasTimestamp && o.HasTimestamp && !s.sent(o.TSEcr):
		s.refuse(p)
		return
	case !p.Flags.Has(packet.SYN):
		return
	}
	s.state, s.retries = established, 0
	s.agree(p)
	s.sndUna = p.Ack
	s.disarm()
	s.noteUsable()
	if s.eager && s.wantSend > 0 {
		s.flying = true
		s.send(s.sndUna, packet.ACK|packet.PSH, s.wantSend)
		s.arm(rto)
		return
	}
	s.sendACK()
	s.next()
}

// noteUsable notes when the connection can first be used.
func (s *socket) noteUsable() {
	if s.window > 0 && s.usable == 0 {
		s.usable = s.world.clock.now
	}
}

// receiveACK takes acknowledgment, payload and FIN.
func (s *socket) receiveACK(p *packet.Packet) {
	if s.state == synReceived {
		s.state, s.retries = established, 0
		s.sndUna = s.iss + 1
		s.disarm()
		s.world.accepted(s)
	}
	if !p.Seq.LessThan(s.rcvNxt) {
		s.window = uint32(p.Window)
		s.noteUsable()
	}
	if s.stamps && p.Options.HasTimestamp && !s.rcvNxt.LessThan(p.Seq) {
		s.recent = p.Options.TSVal
	}
	if s.wantSend == 0 && (!s.closing || s.finAcked) {
		s.retries = 0 // an answer to a keepalive
	}
	s.acknowledge(p.Ack)
	if p.Seq == s.rcvNxt {
		s.rcvNxt = s.rcvNxt.Add(seqnum.Size(p.PayloadLen))
		s.received += int(p.PayloadLen)
		if p.Flags.Has(packet.FIN) {
			s.rcvNxt++
			s.peerFIN = true
		}
	}
	if p.PayloadLen > 0 || p.Flags.Has(packet.FIN) {
		s.challenge(p)
	}
	s.next()
}

func (s *socket) acknowledge(ack seqnum.Value) {
	done := int(s.sndUna.Size(ack))
	switch {
	case done == 0:
	case s.wantSend > 0 && done <= s.wantSend:
		s.wantSend -= done
	case s.wantSend == 0 && s.finSent && !s.finAcked && done == 1:
		s.finAcked = true
	default:
		return
	}
	if done > 0 {
		s.sndUna, s.retries, s.flying = ack, 0, false
		s.disarm()
	}
}

// next does what the application does after news: send, close, or be done.
func (s *socket) next() {
	if s.state != established {
		return
	}
	served := s.received >= s.wantRecv && !s.lingers
	if !s.holds && (served || s.peerFIN) {
		s.closing = true
	}
	if s.finAcked && s.peerFIN {
		s.finish()
		return
	}
	if s.wantSend > 0 && s.window == 0 {
		if !s.probing {
			s.arm(s.backoff(rto))
		}
		s.probing = true
		return
	}
	s.probing = false
	if s.wantSend > 0 || s.closing && !s.finAcked {
		if !s.flying {
			s.transmit()
		}
		return
	}
	s.arm(keepalive)
}

// slab gives sockets out, and takes all of them back at once.
type slab struct {
	sockets []*socket
	used    int
}

func (l *slab) take() *socket {
	if l.used == len(l.sockets) {
		l.sockets = append(l.sockets, new(socket))
	}
	l.used++
	return l.sockets[l.used-1]
}

func (s *socket) String() string {
	return fmt.Sprintf("%s in %s, %d to send, %d of %d received, FIN %v %v %v", outcomeNames[s.outcome],
		stateNames[s.state], s.wantSend, s.received, s.wantRecv, s.finSent, s.finAcked, s.peerFIN)
}
