package sim

import (
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

type tcpState uint8

const (
	synSent tcpState = iota
	synReceived
	established
	gone // closed on both sides, reset or given up
)

// outcome is what a host can say of a connection that is over.
type outcome uint8

const (
	pending outcome = iota
	finished
	wasReset
	gaveUp
)

const (
	rto        = 200 * time.Millisecond
	synRTO     = time.Second
	keepalive  = 5 * time.Second
	maxRetries = 12
	synRetries = 5
	lifeOfTW   = 2 * time.Second // TIME_WAIT, shortened as all here is
)

// socket is one end of a connection: stop and wait, one segment in flight.
type socket struct {
	world    *world
	out      *link
	tuple    packet.Tuple // what it sends
	state    tcpState
	outcome  outcome
	iss      seqnum.Value
	sndUna   seqnum.Value
	rcvNxt   seqnum.Value
	window   uint32         // the peer's
	answer   packet.Options // a server's, to what the SYN offered
	wantSend int            // octets of its own left to send
	wantRecv int            // octets to receive before it closes; 0: none
	received int
	closing  bool // wants to send FIN when all is sent
	holds    bool // never closes by itself
	finSent  bool
	finAcked bool
	peerFIN  bool
	retries  int
	timer    int // the serial of the timer that counts
	probing  bool
}

func (s *socket) send(seq seqnum.Value, flags packet.Flags, payload int, o packet.Options) {
	window := uint16(64240)
	p := packet.Packet{
		Tuple: s.tuple, Seq: seq, Ack: s.rcvNxt, Flags: flags, Window: window, PayloadLen: uint32(payload), Options: o,
		InName: "eth0", InDev: 1,
	}
	if !flags.Has(packet.ACK) {
		p.Ack = 0
	}
	s.out.send(p)
}

func (s *socket) sendACK() { s.send(s.sndUna, packet.ACK, 0, packet.Options{}) }

// arm restarts the retransmission timer.
func (s *socket) arm(d time.Duration) {
	s.timer++
	mine := s.timer
	s.world.clock.after(d, func() {
		if s.timer == mine && s.state != gone {
			s.timeout()
		}
	})
}

func (s *socket) timeout() {
	s.retries++
	if s.retries > maxRetries || s.state == synSent && s.retries > synRetries {
		s.end(gaveUp)
		return
	}
	s.transmit()
}

func (s *socket) backoff(base time.Duration) time.Duration { return base << min(s.retries, 5) }

// transmit sends what is due: the SYN, one segment, a probe or the FIN.
func (s *socket) transmit() {
	switch {
	case s.state == synSent:
		s.send(s.iss, packet.SYN, 0, synOptions)
		s.arm(s.backoff(synRTO))
	case s.state == synReceived:
		s.send(s.iss, packet.SYN|packet.ACK, 0, s.answer)
		s.arm(s.backoff(synRTO))
	case s.wantSend > 0 && s.window == 0:
		s.send(s.sndUna-1, packet.ACK, 0, packet.Options{})
		s.arm(s.backoff(rto))
	case s.wantSend > 0:
		s.send(s.sndUna, packet.ACK|packet.PSH, s.wantSend, packet.Options{})
		s.arm(s.backoff(rto))
	case s.closing && !s.finAcked:
		s.finSent = true
		s.send(s.sndUna, packet.ACK|packet.FIN, 0, packet.Options{})
		s.arm(s.backoff(rto))
	default:
		s.send(s.sndUna-1, packet.ACK, 0, packet.Options{}) // keepalive
		s.arm(keepalive)
	}
}

func (s *socket) end(o outcome) {
	s.state, s.outcome = gone, o
	s.timer++
}

// abort is a close with a RST.
func (s *socket) abort() {
	if s.state == established {
		s.send(s.nextSeq(), packet.RST|packet.ACK, 0, packet.Options{})
		s.end(finished)
	}
}

// nextSeq is SND.NXT.
func (s *socket) nextSeq() seqnum.Value {
	if s.finSent && !s.finAcked {
		return s.sndUna + 1
	}
	return s.sndUna
}

// receive handles a segment in ESTABLISHED, or what completes a handshake.
func (s *socket) receive(p *packet.Packet) {
	switch {
	case p.Flags.Has(packet.RST):
		s.receiveRST(p)
	case s.state == synSent:
		s.receiveSYNACK(p)
	case p.Flags.Has(packet.SYN):
		if s.state == synReceived && p.Seq+1 == s.rcvNxt {
			s.transmit()
			return
		}
		s.sendACK() // the challenge of RFC 5961
	case !p.Flags.Has(packet.ACK):
	case s.state == synReceived && p.Seq-s.rcvNxt > 65535:
		s.send(s.iss+1, packet.ACK, 0, packet.Options{}) // out of the window: Linux looks at that first
	case s.state == synReceived && p.Ack != s.iss+1:
		s.out.send(packet.Packet{Tuple: s.tuple, Seq: p.Ack, Flags: packet.RST, InName: "eth1"})
	default:
		s.receiveACK(p)
	}
}

func (s *socket) receiveRST(p *packet.Packet) {
	switch {
	case s.state == synSent:
		if p.Flags.Has(packet.ACK) && p.Ack == s.iss+1 {
			s.end(wasReset)
		}
	case p.Seq == s.rcvNxt:
		s.end(wasReset)
	case p.Seq-s.rcvNxt < 65535:
		s.sendACK()
	}
}

func (s *socket) receiveSYNACK(p *packet.Packet) {
	if !p.Flags.Has(packet.ACK) || p.Ack != s.iss+1 {
		if p.Flags.Has(packet.ACK) {
			s.out.send(packet.Packet{Tuple: s.tuple, Seq: p.Ack, Flags: packet.RST, InName: "eth0"})
		}
		return
	}
	if !p.Flags.Has(packet.SYN) {
		return
	}
	s.state, s.retries = established, 0
	s.sndUna, s.rcvNxt, s.window = p.Ack, p.Seq+1, uint32(p.Window)
	s.timer++
	s.sendACK()
	s.next()
}

// receiveACK takes acknowledgment, payload and FIN.
func (s *socket) receiveACK(p *packet.Packet) {
	if s.state == synReceived {
		s.state, s.retries = established, 0
		s.sndUna = s.iss + 1
		s.timer++
		s.world.accepted(s)
	}
	old := p.Seq.LessThan(s.rcvNxt)
	if !old {
		s.window = uint32(p.Window)
	}
	if s.wantSend == 0 && !s.closing {
		s.retries = 0 // an answer to a keepalive
	}
	s.acknowledge(p.Ack)
	fresh := p.Seq == s.rcvNxt
	if fresh {
		s.rcvNxt = s.rcvNxt.Add(seqnum.Size(p.PayloadLen))
		s.received += int(p.PayloadLen)
		if p.Flags.Has(packet.FIN) {
			s.rcvNxt++
			s.peerFIN = true
		}
	}
	probe := p.Seq+1 == s.rcvNxt
	if p.PayloadLen > 0 || p.Flags.Has(packet.FIN) || probe {
		s.sendACK()
	}
	s.next()
}

func (s *socket) acknowledge(ack seqnum.Value) {
	switch done := s.sndUna.Size(ack); {
	case done == 0:
	case s.wantSend > 0 && int(done) == s.wantSend:
		s.wantSend, s.sndUna, s.retries = 0, ack, 0
		s.timer++
	case s.wantSend == 0 && s.finSent && done == 1:
		s.finAcked, s.sndUna, s.retries = true, ack, 0
		s.timer++
	}
}

// next does what the application does after news: send, close, or be done.
func (s *socket) next() {
	if s.state != established {
		return
	}
	if s.received >= s.wantRecv && !s.holds || s.peerFIN && !s.holds {
		s.closing = true
	}
	if s.finAcked && s.peerFIN {
		o := finished
		if s.received < s.wantRecv {
			o = wasReset // cut off, and told so
		}
		s.end(o)
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
		s.timer++
		s.transmit()
		return
	}
	s.arm(keepalive)
}

var synOptions = packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true}
