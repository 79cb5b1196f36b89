package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// A habit is how a client treats the zero window that the SYN proxy gives it.
type habit struct {
	name  string
	third int  // how many octets are on the third ACK
	rest  bool // and the rest follows at once
	fin   bool // with the last octet
	probe bool // while the window is zero, one octet is sent at a time (RFC 9293 section 3.8.6.1)
}

var habits = []habit{
	{name: "data on the third ACK", third: hastySize},
	{name: "some data on the third ACK, and the rest at once", third: 100, rest: true},
	{name: "data into the zero window", rest: true},
	{name: "all data and the FIN on the third ACK", third: hastySize, fin: true},
	{name: "data and the FIN into the zero window", rest: true, fin: true},
	{name: "one octet on the third ACK", third: 1, probe: true},
	{name: "one octet into the zero window", probe: true},
}

const (
	hastySize    = 500                    // octets, which is less than any MSS
	hastySegment = 200                    // octets
	hastyTimer   = 200 * time.Millisecond // of its retransmissions
)

// A hasty client is a stranger that sends data when it likes, and again until it is
// acknowledged.
type hasty struct {
	*stranger
	habit
	slow bool // the first SYN is lost before the server
	port uint16

	content []byte
	peer    uint32 // the initial number of the server, as the client sees it
	acked   int    // octets, and the FIN
	window  uint16
}

func (h *hasty) String() string {
	return fmt.Sprintf("%s/%v, slow %v, %s", h.at.name, h.family, h.slow, h.name)
}

// run makes the connection, and checks what arrives at either end.
func (h *hasty) run() error {
	if err := h.connect(); err != nil {
		return err
	}
	if err := h.sendAll(); err != nil {
		return err
	}
	server, err := h.accepted()
	if err != nil {
		return err
	}
	_ = server.SetDeadline(time.Now().Add(3 * time.Second))
	got := make([]byte, hastySize)
	if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, h.content) {
		return fmt.Errorf("the server reads %q, %w", got, err)
	}
	if h.fin {
		if n, err := server.Read(got); err != io.EOF {
			return fmt.Errorf("the server reads %q, %v, want the end", got[:n], err)
		}
	}
	if _, err := server.Write([]byte("thanks")); err != nil {
		return err
	}
	_, err = h.await("the server's answer", func(s *segment) bool { return s.Seq == h.peer+1 && string(s.Payload) == "thanks" })
	return err
}

// connect sends SYNs until one is answered.
func (h *hasty) connect() error {
	for range 3 {
		h.say(h.port, rawPacket{seq: strangerISN, flags: flagSYN})
		answer, err := h.await("a SYN+ACK", func(s *segment) bool { return s.SYN && s.ACK })
		if err == nil {
			h.peer = answer.Seq
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return errors.New("no SYN+ACK")
}

// await waits a second for a segment. A reset is an error.
func (h *hasty) await(what string, is func(*segment) bool) (*segment, error) {
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		s := h.next()
		if s != nil && s.RST {
			return nil, fmt.Errorf("want %s: a reset", what)
		}
		if s != nil && is(s) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("want %s: %w", what, context.DeadlineExceeded)
}

// next is the next segment for the client, if there is one within a tenth of a
// second.
func (h *hasty) next() *segment {
	s := h.heard.hear()
	if s == nil || s.src != h.srv.Addr() || s.dst != h.stranger.port(h.port) {
		return nil
	}
	return s
}

// sendAll sends everything, until it is acknowledged.
func (h *hasty) sendAll() error {
	h.send(0, h.third)
	if h.rest {
		h.send(h.third, hastySize)
	}
	all := hastySize
	if h.fin {
		all++
	}
	last, end := time.Now(), time.Now().Add(5*time.Second)
	for h.acked < all {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d are acknowledged, and the window is %d", h.acked, all, h.window)
		}
		if s := h.next(); s != nil {
			if s.RST {
				return fmt.Errorf("a reset after %d of %d", h.acked, all)
			}
			h.acked, h.window = max(h.acked, int(s.Ack-strangerISN-1)), s.Window
		}
		if time.Since(last) > hastyTimer {
			h.sendAgain()
			last = time.Now()
		}
	}
	return nil
}

func (h *hasty) sendAgain() {
	until := hastySize
	if h.probe && h.window == 0 {
		until = h.acked + 1
	}
	h.send(min(h.acked, hastySize), min(until, hastySize))
}

// send sends the octets of a range, in segments, or an ACK if there is none.
func (h *hasty) send(from, until int) {
	for first := true; first || from < until; first = false {
		size := min(until-from, hastySegment)
		if from == 0 && until == h.third {
			size = until // on one segment
		}
		p := rawPacket{seq: strangerISN + 1 + uint32(from), ack: h.peer + 1, flags: flagACK, payload: h.content[from : from+size]}
		from += size
		if h.fin && from == hastySize {
			p.flags |= flagFIN
		}
		h.say(h.port, p)
	}
}

// accepted is the server's end.
func (h *hasty) accepted() (c *net.TCPConn, err error) {
	err = Poll(h.ctx, func() bool { c = h.srv.acceptedFrom(h.stranger.port(h.port), 0); return c != nil })
	return c, err
}

// A client that has sent data before it may loses none of it, however long the
// server takes.
func TestDataIntoZeroWindow(t *testing.T) {
	t.Parallel()
	var all errgroup.Group
	for _, policy := range policies {
		for _, h := range hastyClients(t, policy) {
			all.Go(func() error {
				if err := h.run(); err != nil {
					t.Errorf("%s/%v: %v", policy, h, err)
				}
				return nil
			})
		}
	}
	_ = all.Wait() // the errors are told
}

// hastyClients are one for each habit in each place and family.
func hastyClients(t *testing.T, policy string) (all []*hasty) {
	t.Helper()
	for i, g := range guardAll(t, portsConfig(policy), AcceptOptions{}) {
		g.open(g.source(1)) // so that the server is known
		var drops []drop
		for _, k := range habits {
			for _, slow := range []bool{false, true} {
				if slow && g.server() == g.lab.Gateway {
					continue // nothing is lost on the way
				}
				h := &hasty{stranger: newStranger(t, g, i), habit: k, slow: slow, port: uint16(len(all))}
				h.content = bytes.Repeat([]byte(fmt.Sprintf("%9d\n", h.port)), hastySize/10)
				all = append(all, h)
				if slow {
					drops = append(drops, drop{g.family, "PREROUTING", fmt.Sprintf("--sport %d --syn", strangerPorts+h.port), false})
				}
			}
		}
		g.server().lose(t, drops...)
	}
	return all
}

// A Linux client with much to say probes the zero window while its server is being
// asked, and loses nothing. With keep there is no such window.
func TestZeroWindowProbes(t *testing.T) {
	t.Parallel()
	var all errgroup.Group
	for _, policy := range []string{"synproxy", "cookies"} {
		for _, g := range guardAll(t, portsConfig(policy), AcceptOptions{Echo: true, CloseOnEOF: true})[:len(Families)] {
			g.teach(80)
			two := drop{g.family, "PREROUTING", "--sport 20000 --syn", false}
			g.server().lose(t, two, two)
			ears := captureIn(t, g.lab.Client)
			all.Go(func() error {
				if err := g.sendProbed(netip.AddrPortFrom(g.source(0), 20000), ears); err != nil {
					t.Errorf("%s/%v: %v", policy, g.family, err)
				}
				return nil
			})
		}
	}
	_ = all.Wait() // the errors are told
}

// sendProbed sends more than a window, closes, and reads the echo; meanwhile the
// client's probes are counted: their number is that of the SYN.
func (g *guarded) sendProbed(from netip.AddrPort, ears *capture) error {
	ctx, cancel := context.WithTimeout(g.ctx, 8*time.Second)
	defer cancel()
	c, err := g.lab.Client.Dial(ctx, from, g.srv.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(8 * time.Second))
	content := bytes.Repeat([]byte("data into the zero window\n"), 20_000)
	var both errgroup.Group
	both.Go(func() error {
		_, err := c.Write(content)
		return errors.Join(err, c.CloseWrite())
	})
	got, err := io.ReadAll(c)
	if err = errors.Join(err, both.Wait()); err != nil || !bytes.Equal(got, content) {
		return fmt.Errorf("the echo is %d octets of %d: %w", len(got), len(content), err)
	}
	// Asked at 0, 1 and 3 s, the client probes after 0.2, 0.6, 1.4 and 3 s.
	if n := ears.probes(from, g.srv.Addr()); n < 2 {
		return fmt.Errorf("%d probes, want some", n)
	}
	return nil
}

// probes counts the zero-window probes among the segments that were heard.
func (c *capture) probes(src, dst netip.AddrPort) (n int) {
	var syn *segment
	for last := time.Now(); time.Since(last) < pause; {
		s := c.hear()
		if s != nil {
			last = time.Now()
		}
		switch {
		case s == nil || s.src != src || s.dst != dst:
		case s.SYN:
			syn = s
		case syn != nil && s.Seq == syn.Seq:
			n++
		}
	}
	return n
}
