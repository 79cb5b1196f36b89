package integration

import (
	"net/netip"
	"testing"
	"time"
)

func TestHoldOutcomes(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	for _, f := range Families {
		t.Run(f.String(), func(t *testing.T) {
			at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(ServerAddr(f), port) }
			echo := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(at(81), AcceptOptions{Echo: true}))
			must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(at(82), AcceptOptions{Banner: []byte("220 ")}))
			resetter := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(at(83), AcceptOptions{}))
			go func() {
				if c, err := resetter.Conn(ctx, 0); err == nil {
					_ = c.SetLinger(0)
					_ = c.Close()
				}
				if c, err := resetter.Conn(ctx, 1); err == nil {
					_ = c.Close()
				}
			}()
			from := ClientAddr(f, 3)
			tests := []struct {
				name string
				opts HoldOptions
				want Outcome
			}{
				{"echo", HoldOptions{To: at(81)}, Held},
				{"banner", HoldOptions{To: at(82), Banner: true}, Held},
				{"reset", HoldOptions{To: at(83), Banner: true}, Reset},
				{"closed", HoldOptions{To: at(83), Silence: time.Second}, Closed},
				{"silence", HoldOptions{To: at(83), Silence: 50 * time.Millisecond}, Held},
				{"timeout", HoldOptions{To: at(83), Timeout: 50 * time.Millisecond}, TimedOut},
				{"speaks", HoldOptions{To: at(82), Silence: time.Second}, Failed},
				{"refused", HoldOptions{To: at(84)}, Refused},
			}
			for _, tt := range tests {
				tt.opts.From, tt.opts.N = from, 1
				if h := l.Client.Hold(ctx, tt.opts); h.Count(tt.want) != 1 {
					t.Errorf("%s: %v: %v, want %v", tt.name, h, h.Attempts[0].Err, tt.want)
				}
			}
			h := l.Client.Hold(ctx, HoldOptions{From: from, To: at(81), N: 200, Concurrency: 200})
			if h.String() != "200 held" || echo.Count() != 201 {
				t.Errorf("%v, %d accepted", h, echo.Count())
			}
			if s := must[Sockets](t, "sockets")(l.Server.Sockets(Established)); len(s.Local(81).From(from).Accepted()) != 201 {
				t.Errorf("%d sockets", len(s.Local(81).From(from).Accepted()))
			}
		})
	}
}
