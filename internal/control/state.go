package control

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Peer is one side of a listed state. Its numbers are those the side itself uses.
type Peer struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	State   string     `json:"state"`
	SeqLo   uint32     `json:"seqlo"`
	SeqHi   uint32     `json:"seqhi"`
	SeqDiff uint32     `json:"seqdiff"` // added to its numbers on the way to the other
	WScale  *uint8     `json:"wscale"`  // null: windows are not scaled
}

// Counter counts what passed in one direction, as the kernel's conntrack does.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"` // IP headers included
}

// State is a state as "nfqfw states --json" shows it.
type State struct {
	ID        string  `json:"id"`        // 16 hexadecimal digits
	Interface string  `json:"interface"` // the one the first packet came in by
	Protocol  string  `json:"protocol"`
	Source    Peer    `json:"source"`      // who opened the connection: the client
	Dest      Peer    `json:"destination"` // the server
	State     string  `json:"state"`       // "server:client", or "PROXY:SRC", "PROXY:DST"
	Counts    bool    `json:"counts"`      // for its source's max_src_conn
	Proxied   bool    `json:"proxied"`     // the SYN proxy made it
	Rule      string  `json:"rule"`
	Number    uint32  `json:"rule_number"` // from 1
	Age       float64 `json:"age"`         // seconds
	Expires   float64 `json:"expires"`     // seconds from now, if no packet comes
	Timeout   string  `json:"timeout"`     // the class of its lifetime: "tcp.established"

	// From client to server, and back; null unless asked for, and where the
	// kernel has no entry.
	Original *Counter `json:"original"`
	Reply    *Counter `json:"reply"`
}

// AppendText appends the state as pfctl -ss writes it: a line, with verbose 1 (-v)
// two more, with verbose 2 (-vv) three.
func (s *State) AppendText(b []byte, verbose int) []byte {
	b = append(b, s.Interface...)
	b = append(b, ' ')
	b = append(b, s.Protocol...)
	b = append(b, ' ')
	b = appendEndpoint(b, s.Dest.Address, s.Dest.Port)
	b = append(b, " <- "...)
	b = appendEndpoint(b, s.Source.Address, s.Source.Port)
	b = append(b, "       "...)
	b = append(b, s.State...)
	b = append(b, '\n')
	if verbose >= 1 {
		b = fmt.Appendf(b, "   %s  %s\n   %s\n", s.Dest.window(), s.Source.window(), s.times())
	}
	if verbose >= 2 {
		b = fmt.Appendf(b, "   id: %s creatorid: 00000000\n", s.ID)
	}
	return b
}

// appendEndpoint is pf's way to write an address and port.
func appendEndpoint(b []byte, a netip.Addr, port uint16) []byte {
	b = a.AppendTo(b)
	if a.Is4() {
		return strconv.AppendUint(append(b, ':'), uint64(port), 10)
	}
	return append(strconv.AppendUint(append(b, '['), uint64(port), 10), ']')
}

func (p *Peer) window() string {
	text := fmt.Sprintf("[%d + %d]", p.SeqLo, p.SeqHi-p.SeqLo)
	if p.SeqDiff != 0 {
		text += fmt.Sprintf("(+%d)", p.SeqDiff)
	}
	if p.WScale != nil {
		text += fmt.Sprintf(" wscale %d", *p.WScale)
	}
	return text
}

func (s *State) times() string {
	var o, r Counter
	if s.Original != nil && s.Reply != nil {
		o, r = *s.Original, *s.Reply
	}
	text := fmt.Sprintf("age %s, expires in %s, %d:%d pkts, %d:%d bytes, rule %d",
		clock(s.Age), clock(s.Expires), o.Packets, r.Packets, o.Bytes, r.Bytes, s.Number)
	if s.Counts {
		text += ", source-track"
	}
	return text
}

// clock is hours, minutes and seconds; the hours are not folded into days.
func clock(seconds float64) string {
	d := time.Duration(seconds) * time.Second
	return fmt.Sprintf("%02d:%02d:%02d", d/time.Hour, d/time.Minute%60, d/time.Second%60)
}
